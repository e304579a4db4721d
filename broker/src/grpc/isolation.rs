//! Converts isolation between gRPC messages and the supervisor's types. It must not check what `model` checks.

use job_api::v1;
use job_api::v1::isolation as wire;
use job_images::Image;
use tonic::Status;

use crate::grpc::enumeration::known;
use crate::grpc::status;
use crate::launch::Launcher;
use crate::model::isolation::{Isolation, IsolationRequest, Mount, Profile, Seccomp, Share};

/// Maximum mounts that are read; `model` allows fewer.
const MAX_MOUNTS: usize = 64;

pub(super) fn request(message: Option<v1::Isolation>) -> Result<IsolationRequest, Status> {
    let Some(message) = message else { return Ok(IsolationRequest::default()) };
    let count = message.mounts.len();
    if count > MAX_MOUNTS {
        let fault = format!("has {count} entries; at most {MAX_MOUNTS} are read");
        return Err(status::field("spec.isolation.mounts", fault));
    }
    let share = |field, number| {
        Ok::<_, Status>(match known(field, number)? {
            wire::Share::Unspecified => None,
            wire::Share::Shared => Some(Share::Host),
            wire::Share::Own => Some(Share::Own),
        })
    };
    Ok(IsolationRequest {
        profile: match known("spec.isolation.profile", message.profile)? {
            wire::Profile::Unspecified => None,
            wire::Profile::Host => Some(Profile::Host),
            wire::Profile::Private => Some(Profile::Private),
            wire::Profile::Strict => Some(Profile::Strict),
        },
        pids: share("spec.isolation.pids", message.pids)?,
        network: share("spec.isolation.network", message.network)?,
        seccomp: match known("spec.isolation.seccomp", message.seccomp)? {
            wire::Seccomp::Unspecified => None,
            wire::Seccomp::None => Some(Seccomp::None),
            wire::Seccomp::Default => Some(Seccomp::Default),
            wire::Seccomp::Fewer => Some(Seccomp::Strict),
        },
        seccomp_log: message.seccomp_log,
        private_tmp: message.private_tmp,
        tmp_bytes: Some(message.tmp_bytes).filter(|bytes| *bytes != 0),
        hostname: message.hostname,
        mounts: message.mounts.into_iter().map(mount).collect(),
        rootfs: message.rootfs,
        root_bytes: message.root_bytes,
        root_disk_bytes: message.root_disk_bytes,
        image: message.image,
        image_digest: message.image_digest,
    })
}

fn mount(message: v1::Mount) -> Mount {
    let v1::Mount { source, target, read_only, tmpfs_bytes } = message;
    if source.is_empty() {
        return Mount::Tmpfs { target, bytes: Some(tmpfs_bytes).filter(|bytes| *bytes != 0) };
    }
    let target = if target.is_empty() { source.clone() } else { target };
    Mount::Bind { source, target, read_only }
}

pub(super) fn message(isolation: &Isolation) -> v1::Isolation {
    let share = |share| match share {
        Share::Host => wire::Share::Shared,
        Share::Own => wire::Share::Own,
    };
    let mount = |mount: &Mount| match mount.clone() {
        Mount::Bind { source, target, read_only } => {
            v1::Mount { source, target, read_only, tmpfs_bytes: 0 }
        }
        Mount::Tmpfs { target, bytes } => {
            v1::Mount { target, tmpfs_bytes: bytes.unwrap_or_default(), ..v1::Mount::default() }
        }
    };
    v1::Isolation {
        profile: profile(isolation.profile).into(),
        pids: share(isolation.pids).into(),
        network: share(isolation.network).into(),
        seccomp: match isolation.seccomp {
            Seccomp::None => wire::Seccomp::None,
            Seccomp::Default => wire::Seccomp::Default,
            Seccomp::Strict => wire::Seccomp::Fewer,
        }
        .into(),
        seccomp_log: isolation.seccomp_log,
        private_tmp: isolation.private_tmp,
        tmp_bytes: if isolation.private_tmp { isolation.tmp_bytes } else { 0 },
        hostname: isolation.hostname.clone(),
        mounts: isolation.mounts.iter().map(mount).collect(),
        rootfs: isolation.rootfs.clone(),
        root_bytes: isolation.root_bytes,
        root_disk_bytes: isolation.root_disk_bytes,
        image: isolation.image.clone(),
        image_digest: isolation.image_digest.clone(),
    }
}

pub(super) fn profile(profile: Profile) -> wire::Profile {
    match profile {
        Profile::Host => wire::Profile::Host,
        Profile::Private => wire::Profile::Private,
        Profile::Strict => wire::Profile::Strict,
    }
}

pub(super) fn image(image: Image) -> v1::Image {
    v1::Image { name: image.name, digest: image.digest, argv: image.config.argv }
}

/// What of isolation this host has and lacks, as features.
pub(super) fn features(launcher: &Launcher) -> Vec<v1::Feature> {
    let missing = launcher.isolator().missing();
    let profile = |profile: Profile| {
        let reason = missing.iter().find(|(one, _)| *one == profile).map(|(_, why)| why.clone());
        (format!("isolation {}", profile.name()), reason)
    };
    let profiles = [Profile::Private, Profile::Strict].map(profile);
    let abilities = launcher.abilities().map(|(name, reason)| (name.to_owned(), reason));
    let feature = |(name, reason): (String, Option<String>)| v1::Feature {
        name,
        available: reason.is_none(),
        reason: reason.unwrap_or_default(),
    };
    profiles.into_iter().chain(abilities).map(feature).collect()
}
