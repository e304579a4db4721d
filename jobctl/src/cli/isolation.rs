//! What a job sees of the host: the options, made into what the broker takes.

use clap::{Args, ValueEnum};
use job_api::v1::isolation::{Profile, Seccomp, Share};
use job_api::v1::{Isolation, Mount};

use super::options::positive_size;

/// Their heading in the help.
const ISOLATION: &str = "Isolation";

#[derive(Debug, Default, Args)]
#[command(next_help_heading = ISOLATION)]
#[command(group = clap::ArgGroup::new("root").args(["rootfs", "image"]))]
pub(crate) struct IsolationOptions {
    /// What it sees of the host: host, private or strict [default: the broker's, private]
    #[arg(long, value_enum, value_name = "PROFILE", hide_possible_values = true)]
    isolation: Option<ProfileName>,
    /// A directory of the host as its root, read-only; it sees nothing else of the host's files
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    rootfs: Option<String>,
    /// An image of the broker's host as its root, read-only, with its environment, directory and program where you name
    /// none; with @sha256:... only that very one
    #[arg(long, value_name = "NAME[@DIGEST]", conflicts_with = "rootfs")]
    pub(crate) image: Option<String>,
    /// Let it write to a root of its own (--image, --rootfs), in memory, up to SIZE; it counts as its memory
    #[arg(long, value_name = "SIZE", value_parser = positive_size, requires = "root")]
    tmpfs_size: Option<u64>,
    /// Likewise on disk, which not every host can limit (jobctl info)
    #[arg(long, value_name = "SIZE", value_parser = positive_size, requires = "root", conflicts_with = "tmpfs_size")]
    root_size: Option<u64>,
    /// Mount a directory or file of the host elsewhere, e.g. /srv/data:/data:ro; may be repeated
    #[arg(long = "volume", value_name = "SRC:DST[:ro]", value_parser = volume)]
    volumes: Vec<Mount>,
    /// Let it see a directory or file, and write there as its account may; :ro lets it only read; may be repeated
    #[arg(long = "allow", visible_alias = "read-write", value_name = "PATH[:ro]", value_parser = allowed)]
    allowed: Vec<Mount>,
    /// Let it see a directory or file, and not write there; may be repeated
    #[arg(long, value_name = "PATH", value_parser = only_read)]
    read_only: Vec<Mount>,
    /// An empty directory in memory, e.g. /build:500M; may be repeated
    #[arg(long, value_name = "PATH[:SIZE]", value_parser = tmpfs)]
    tmpfs: Vec<Mount>,
    /// Its own /tmp, /var/tmp and /dev/shm in memory; always so but with --isolation host
    #[arg(long)]
    private_tmp: bool,
    /// Most bytes in these three together; they count as its memory
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    tmp_size: Option<u64>,
    /// Network interfaces: host, or none but loopback
    #[arg(long, value_enum, value_name = "NETWORK", hide_possible_values = true)]
    network: Option<NetworkName>,
    /// Processes that it sees: the host's, or its own (private)
    #[arg(long, value_enum, value_name = "PROCESSES", hide_possible_values = true)]
    pid: Option<PidName>,
    /// Its own host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Filter of system calls: default, strict, none; or log, which refuses nothing and logs what default would
    #[arg(long, value_enum, value_name = "FILTER", hide_possible_values = true)]
    seccomp: Option<SeccompName>,
    #[arg(long = "cap", value_name = "CAPABILITY", hide = true, value_parser = no_capability)]
    _capabilities: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    Host,
    Private,
    Strict,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkName {
    Host,
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PidName {
    Host,
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum SeccompName {
    Default,
    Strict,
    None,
    Log,
}

impl IsolationOptions {
    /// `None`: nothing was said.
    pub(crate) fn message(self) -> Option<Isolation> {
        let profile = self.isolation.map_or(Profile::Unspecified, |profile| match profile {
            ProfileName::Host => Profile::Host,
            ProfileName::Private => Profile::Private,
            ProfileName::Strict => Profile::Strict,
        });
        let network = self.network.map_or(Share::Unspecified, |network| match network {
            NetworkName::Host => Share::Shared,
            NetworkName::None => Share::Own,
        });
        let pids = self.pid.map_or(Share::Unspecified, |pid| match pid {
            PidName::Host => Share::Shared,
            PidName::Private => Share::Own,
        });
        let seccomp = self.seccomp.map_or(Seccomp::Unspecified, |filter| match filter {
            SeccompName::Default | SeccompName::Log => Seccomp::Default,
            SeccompName::Strict => Seccomp::Fewer,
            SeccompName::None => Seccomp::None,
        });
        let mounts = [self.volumes, self.allowed, self.read_only, self.tmpfs].concat();
        let image = self.image.unwrap_or_default();
        let (image, digest) = image.split_once('@').unwrap_or((&image, ""));
        let message = Isolation {
            profile: profile.into(),
            pids: pids.into(),
            network: network.into(),
            seccomp: seccomp.into(),
            seccomp_log: self.seccomp == Some(SeccompName::Log),
            private_tmp: self.private_tmp,
            tmp_bytes: self.tmp_size.unwrap_or_default(),
            hostname: self.hostname.unwrap_or_default(),
            mounts,
            rootfs: self.rootfs.unwrap_or_default(),
            root_bytes: self.tmpfs_size.unwrap_or_default(),
            root_disk_bytes: self.root_size.unwrap_or_default(),
            image: image.to_owned(),
            image_digest: digest.to_owned(),
        };
        (message != Isolation::default()).then_some(message)
    }
}

fn volume(text: &str) -> Result<Mount, String> {
    let fault = || format!("\"{text}\" is not SRC:DST or SRC:DST:ro, e.g. /srv/data:/data:ro");
    let (paths, read_only) = mode(text);
    let (source, target) = paths.split_once(':').ok_or_else(fault)?;
    if !source.starts_with('/') || !target.starts_with('/') || target.contains(':') {
        return Err(fault());
    }
    let (source, target) = (source.to_owned(), target.to_owned());
    Ok(Mount { source, target, read_only, ..Mount::default() })
}

fn allowed(text: &str) -> Result<Mount, String> {
    let (path, read_only) = mode(text);
    Ok(Mount { source: absolute(path)?, read_only, ..Mount::default() })
}

fn only_read(text: &str) -> Result<Mount, String> {
    Ok(Mount { source: absolute(text)?, read_only: true, ..Mount::default() })
}

fn tmpfs(text: &str) -> Result<Mount, String> {
    let (path, size) = match text.split_once(':') {
        Some((path, size)) => (path, positive_size(size)?),
        None => (text, 0),
    };
    Ok(Mount { target: absolute(path)?, tmpfs_bytes: size, ..Mount::default() })
}

/// What stands before `:ro` or `:rw`, and whether it is the former.
fn mode(text: &str) -> (&str, bool) {
    match text.strip_suffix(":ro") {
        Some(paths) => (paths, true),
        None => (text.strip_suffix(":rw").unwrap_or(text), false),
    }
}

fn absolute(path: &str) -> Result<String, String> {
    let is_path = path.starts_with('/') && !path.contains(':');
    if is_path { Ok(path.to_owned()) } else { Err(format!("\"{path}\" is not an absolute path")) }
}

fn no_capability(_: &str) -> Result<String, String> {
    Err("jobs have no capabilities: they never run as root. What needs one is the operator's to do"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_as_docker_writes_them() {
        let mount = volume("/srv/data:/data:ro").unwrap();
        assert_eq!((&*mount.source, &*mount.target, mount.read_only), ("/srv/data", "/data", true));
        assert!(!volume("/a:/b").unwrap().read_only);
        assert!(!volume("/a:/b:rw").unwrap().read_only);
        for wrong in ["/a", "a:/b", "/a:b", "/a:/b:x", "", ":"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_may_be_read_only_and_memory_has_a_size() {
        assert!(allowed("/srv:ro").unwrap().read_only && !allowed("/srv").unwrap().read_only);
        assert!(allowed("srv").is_err() && only_read("/srv:ro").is_err());
        assert_eq!(tmpfs("/build:2K").unwrap().tmpfs_bytes, 2048);
        assert!(tmpfs("/build:0").is_err());
    }

    #[test]
    fn nothing_said_is_nothing_sent() {
        assert_eq!(IsolationOptions::default().message(), None);
        let network = Some(NetworkName::None);
        let options = IsolationOptions { network, ..IsolationOptions::default() };
        assert_eq!(options.message().unwrap().network(), Share::Own);
    }
}
