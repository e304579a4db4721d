//! What a job sees of the host, in words.

use job_api::units::show_size;
use job_api::v1::isolation::{Profile, Seccomp, Share};
use job_api::v1::{Isolation, Mount};

/// A line each: of what, and what of it.
pub(crate) fn in_words(isolation: &Isolation) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("isolation", profile_name(isolation.profile()).to_owned()),
        ("files", files(isolation)),
        ("processes", processes(isolation).to_owned()),
        ("network", network(isolation.network()).to_owned()),
        ("system calls", system_calls(isolation).to_owned()),
    ];
    lines.extend(isolation.mounts.iter().map(|one| ("mount", mount(one))));
    if !isolation.hostname.is_empty() {
        lines.push(("host name", isolation.hostname.clone()));
    }
    lines
}

/// As on the command line.
pub(crate) fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Unspecified => "unknown to this jobctl",
        Profile::Host => "host",
        Profile::Private => "private",
        Profile::Strict => "strict",
    }
}

fn files(isolation: &Isolation) -> String {
    let own = || {
        let size = show_size(isolation.tmp_bytes);
        format!("its own /tmp, /var/tmp and /dev/shm ({size} together, in memory)")
    };
    if !isolation.rootfs.is_empty() || !isolation.image.is_empty() {
        return format!("{}; what is mounted; {} and $JOB_DIR", root(isolation), own());
    }
    match isolation.profile() {
        Profile::Private => {
            format!("the host's, read-only, as its account sees them; {} and $JOB_DIR", own())
        }
        Profile::Strict => {
            format!("a base system, read-only; what is mounted; {} and $JOB_DIR", own())
        }
        _ if isolation.private_tmp => {
            format!("the host's, as its account sees them; {}", own())
        }
        _ => "the host's, as its account sees them; jobs of one account share them".to_owned(),
    }
}

fn root(isolation: &Isolation) -> String {
    let root = match isolation.image.as_str() {
        "" => isolation.rootfs.clone(),
        name => {
            format!("the image {name} ({}), whose user is ignored", isolation.image_digest)
        }
    };
    let written =
        |most, place| format!("{root} and what it writes there ({} {place})", show_size(most));
    match (isolation.root_bytes, isolation.root_disk_bytes) {
        (0, 0) => format!("{root}, read-only"),
        (0, most) => written(most, "on disk"),
        (most, _) => written(most, "in memory"),
    }
}

fn processes(isolation: &Isolation) -> &'static str {
    match isolation.pids() {
        Share::Own => "its own; it sees and signals no other",
        _ => "the host's; jobs of one account can signal, trace and read each other",
    }
}

fn network(network: Share) -> &'static str {
    match network {
        Share::Own => "none but its own loopback",
        _ => "the host's",
    }
}

fn system_calls(isolation: &Isolation) -> &'static str {
    match (isolation.seccomp(), isolation.seccomp_log) {
        (Seccomp::None | Seccomp::Unspecified, _) => "all that the kernel allows its account",
        (_, true) => "all; the kernel's log has those that the filter would refuse",
        (Seccomp::Default, false) => "those of the default filter",
        (Seccomp::Fewer, false) => "those of the strict filter",
    }
}

fn mount(mount: &Mount) -> String {
    let Mount { source, target, read_only, tmpfs_bytes } = mount;
    if source.is_empty() {
        return format!("{target}, in memory, at most {}", show_size(*tmpfs_bytes));
    }
    let how = if *read_only { "read-only" } else { "as its account may" };
    if source == target {
        format!("{target}, {how}")
    } else {
        format!("{source} at {target}, {how}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_what_it_does_not_share_and_what_it_does() {
        let mut isolation = Isolation { tmp_bytes: 1 << 20, ..Isolation::default() };
        isolation.set_profile(Profile::Strict);
        isolation.set_network(Share::Own);
        isolation.mounts = vec![Mount {
            source: "/srv/a".into(),
            target: "/a".into(),
            read_only: true,
            tmpfs_bytes: 0,
        }];
        let words = in_words(&isolation);
        let find = |key| words.iter().find(|(known, _)| *known == key).map(|(_, words)| &**words);
        assert_eq!(find("isolation"), Some("strict"));
        assert_eq!(find("network"), Some("none but its own loopback"));
        assert_eq!(find("mount"), Some("/srv/a at /a, read-only"));
        assert!(find("files").unwrap().contains("1 MiB together"), "{words:?}");
        isolation.set_profile(Profile::Host);
        isolation.set_pids(Share::Shared);
        assert!(in_words(&isolation)[2].1.contains("can signal, trace and read each other"));
    }
}
