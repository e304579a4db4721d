//! The pieces, and the profiles as sets of them.

use job_shim::isolation::JOB_DIR;
use serde::{Deserialize, Serialize};

/// How much a job is kept from the host, from the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// As its account: files, processes and network of the host.
    #[default]
    Host,
    /// The host's files as its account sees them, read-only; temporary files, processes and devices of its own.
    Private,
    /// A base system, and what is named.
    Strict,
}

impl Profile {
    /// All, from the weakest.
    pub const ALL: [Profile; 3] = [Profile::Host, Profile::Private, Profile::Strict];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Host => "host",
            Profile::Private => "private",
            Profile::Strict => "strict",
        }
    }
}

/// Whose something is, from the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// The host's.
    #[default]
    Host,
    /// The job's own.
    Own,
}

/// Which system calls a job may make, from the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All.
    #[default]
    None,
    /// Those that programs need.
    Default,
    /// Fewer.
    Strict,
}

/// A directory or file of the host, or an empty directory, that a job sees besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// Of the host.
    Bind {
        /// On the host, absolute.
        source: String,
        /// In the job, absolute.
        target: String,
        /// The job cannot change it, whatever its account may.
        read_only: bool,
    },
    /// In memory, and gone with the job.
    Tmpfs {
        /// In the job, absolute.
        target: String,
        /// Most bytes; `None` in a request: the operator's maximum.
        bytes: Option<u64>,
    },
}

impl Mount {
    /// Where it is in the job.
    pub fn target(&self) -> &str {
        match self {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
        }
    }
}

/// Where a path of a job leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// To this path of the host.
    Host(String),
    /// Into the job's own directory.
    JobDir,
    /// Into memory: no disk is there.
    Memory,
    /// Into its image, which is wherever the operator keeps images.
    Image,
}

/// What a job gets, every piece decided. The default is that of a job of an earlier broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// Files, System V IPC, host name.
    pub profile: Profile,
    /// Processes.
    pub pids: Share,
    /// Network interfaces; its own are loopback only.
    pub network: Share,
    /// System calls.
    pub seccomp: Seccomp,
    /// Refused calls are logged, and made.
    pub seccomp_log: bool,
    /// `/tmp`, `/var/tmp` and `/dev/shm` of its own.
    pub private_tmp: bool,
    /// Most bytes in these three together.
    pub tmp_bytes: u64,
    /// Empty: the host's.
    pub hostname: String,
    /// In this order.
    pub mounts: Vec<Mount>,
    /// The directory of the host that is its root; empty: what the profile has.
    pub rootfs: String,
    /// Most bytes that it writes there, in memory; 0: none.
    pub root_bytes: u64,
    /// Likewise on disk, in place of memory.
    pub root_disk_bytes: u64,
    /// The image that is its root; empty: none.
    pub image: String,
    /// That of the image; in a request, the only one that will do.
    pub image_digest: String,
}

impl Isolation {
    /// A profile as it is.
    pub fn of(profile: Profile) -> Isolation {
        let (own, seccomp) = match profile {
            Profile::Host => (Share::Host, Seccomp::None),
            Profile::Private => (Share::Own, Seccomp::Default),
            Profile::Strict => (Share::Own, Seccomp::Strict),
        };
        let network = if profile == Profile::Strict { Share::Own } else { Share::Host };
        let private_tmp = profile != Profile::Host;
        Isolation { profile, pids: own, network, seccomp, private_tmp, ..Isolation::default() }
    }

    /// Whether the job has a mount namespace of its own.
    pub fn has_files(&self) -> bool {
        self.profile != Profile::Host
            || self.private_tmp
            || self.pids == Share::Own // of which `/proc` must tell
            || !self.mounts.is_empty()
    }

    /// Whether its root is a directory of its own.
    pub fn has_root(&self) -> bool {
        !self.rootfs.is_empty() || !self.image.is_empty()
    }

    /// What a path of the job is on the host, where jobs see these directories of it in any case. What is mounted later
    /// covers what was mounted before.
    pub(crate) fn on_host(&self, path: &str, shared: &[String]) -> Place {
        let rest = |target: &str| {
            let rest = path.strip_prefix(target.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then_some(rest)
        };
        let mounted = self.mounts.iter().rev().find_map(|mount| {
            let rest = rest(mount.target())?;
            Some(match mount {
                Mount::Bind { source, .. } => {
                    Place::Host(source.trim_end_matches('/').to_owned() + rest)
                }
                Mount::Tmpfs { .. } => Place::Memory,
            })
        });
        let own = || {
            let own_files = self.profile != Profile::Host;
            if own_files && rest(JOB_DIR).is_some() {
                return Some(Place::JobDir);
            }
            if own_files && !self.has_root() && shared.iter().any(|dir| rest(dir).is_some()) {
                return Some(Place::Host(path.to_owned()));
            }
            let is_memory = |dir: &&str| rest(dir).is_some();
            let scratch =
                self.private_tmp && ["/tmp", "/var/tmp", "/dev/shm"].iter().any(&is_memory);
            let view = own_files && ["/dev", "/run"].iter().any(is_memory);
            (scratch || view).then_some(Place::Memory)
        };
        let below_root = || match self.image.is_empty() {
            true => Place::Host(self.rootfs.trim_end_matches('/').to_owned() + path),
            false => Place::Image,
        };
        mounted.or_else(own).unwrap_or_else(below_root)
    }

    /// Whether it shares everything with the host.
    pub fn is_none(&self) -> bool {
        *self == Isolation { tmp_bytes: self.tmp_bytes, ..Isolation::default() }
    }
}

/// What a request says of its isolation. A field that is `None` or empty takes what the profile has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of `Isolation`, before the checks")]
pub struct IsolationRequest {
    pub profile: Option<Profile>,
    pub pids: Option<Share>,
    pub network: Option<Share>,
    pub seccomp: Option<Seccomp>,
    pub seccomp_log: bool,
    pub private_tmp: bool,
    pub tmp_bytes: Option<u64>,
    pub hostname: String,
    pub mounts: Vec<Mount>,
    pub rootfs: String,
    pub root_bytes: u64,
    pub root_disk_bytes: u64,
    pub image: String,
    pub image_digest: String,
}

impl IsolationRequest {
    /// Whether it names a root of its own.
    pub fn has_root(&self) -> bool {
        !self.rootfs.is_empty() || !self.image.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_job_is_what_its_mounts_make_of_it() {
        let bind = |source: &str, target: &str| Mount::Bind {
            source: source.into(),
            target: target.into(),
            read_only: false,
        };
        let mounts = vec![
            bind("/srv/a", "/data"),
            bind("/srv/b/", "/data/b"),
            Mount::Tmpfs { target: "/build".into(), bytes: None },
            bind("/srv/c", "/tmp/c"),
        ];
        let private = Isolation { mounts, ..Isolation::of(Profile::Private) };
        let host = |path: &str| Place::Host(path.into());
        for (path, place) in [
            ("/data", host("/srv/a")),
            ("/data/x/y", host("/srv/a/x/y")),
            ("/data/b/x", host("/srv/b/x")),
            ("/database", host("/database")),
            ("/build/x", Place::Memory),
            ("/tmp/c/x", host("/srv/c/x")),
            ("/tmp/x", Place::Memory),
            ("/run/job/x", Place::JobDir),
            ("/run/lock", Place::Memory),
            ("/home", host("/home")),
        ] {
            assert_eq!(private.on_host(path, &[]), place, "{path}");
        }
        let covered = Isolation {
            mounts: vec![bind("/srv/a", "/data/a"), bind("/srv/b", "/data")],
            ..Isolation::default()
        };
        assert_eq!(covered.on_host("/data/a", &[]), host("/srv/b/a"));
        assert_eq!(covered.on_host("/tmp/x", &[]), host("/tmp/x"));
        let shared = ["/tmp/shared".to_owned()];
        assert_eq!(private.on_host("/tmp/shared/x", &shared), host("/tmp/shared/x"));
        assert_eq!(private.on_host("/tmp/shared-not", &shared), Place::Memory);
        let of_image = Isolation { image: "debian".into(), ..private };
        assert_eq!(of_image.on_host("/data/x", &shared), host("/srv/a/x"));
        assert_eq!(of_image.on_host("/usr", &shared), Place::Image);
    }
}
