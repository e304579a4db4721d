//! The operator's rules: what a job gets that does not say, the least that it must have, and what it may mount.

use job_grammar::echo::echo;
use job_grammar::names::check_image_name;

use crate::model::glob::{Pattern, Syntax, check_path};
use crate::model::isolation::{Isolation, IsolationRequest, Mount, Profile};
use crate::model::limits::{MAX_PATH, Violation, Violations};

/// Most mounts of one job; the shim takes one descriptor more.
const MAX_MOUNTS: usize = 16;
/// Least bytes on disk: what an empty overlay and an inode table need, and more.
const LEAST_ON_DISK: u64 = 1 << 20;
/// Most bytes of a host name, gethostname(2).
const MAX_HOSTNAME: usize = 64;
/// What is never shared by a mount: processes, devices, sockets and settings of the host are there.
const NEVER: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Default, minimum, and what may be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationRules {
    /// Of a job that does not say.
    pub default: Profile,
    /// No piece may be weaker than in this profile.
    pub minimum: Profile,
    /// Globs of what may be mounted read-only, with all links resolved.
    pub read_only: Vec<Pattern>,
    /// Likewise so that the job can write, as far as its account may.
    pub read_write: Vec<Pattern>,
    /// Globs of the directories that may be roots, with all links resolved.
    pub rootfs: Vec<Pattern>,
    /// What belongs to root in such a directory belongs to a job that may write there, in memory.
    pub rootfs_owned: bool,
    /// Globs of the names of images.
    pub images: Vec<Pattern>,
    /// What every job of `private` and `strict` sees as it is on the host.
    pub shared: Vec<String>,
    /// Most bytes of temporary files in memory, for a job that does not say, and at most.
    pub tmp_bytes: u64,
    /// Most bytes that a job writes into a root of its own on disk.
    pub root_bytes: u64,
}

impl Default for IsolationRules {
    fn default() -> Self {
        IsolationRules {
            default: Profile::Private,
            minimum: Profile::Private,
            read_only: vec![Pattern::any(Syntax::Path)],
            read_write: Vec::new(),
            rootfs: Vec::new(),
            rootfs_owned: false,
            images: vec![Pattern::any(Syntax::Text)],
            shared: Vec::new(),
            tmp_bytes: 1 << 30,
            root_bytes: 10 << 30,
        }
    }
}

impl IsolationRules {
    /// Fills in what the request does not say.
    ///
    /// # Errors
    /// All that is not allowed, by field.
    pub(crate) fn resolve(&self, asked: &IsolationRequest) -> Result<Isolation, Violations> {
        let isolation = self.filled(asked);
        let mut violations = Violations::default();
        let mut add = |field, fault| violations.add(Violation { field, fault });
        self.check_strength(&isolation, &mut add);
        self.check_values(&isolation, &mut add);
        if violations.is_empty() { Ok(isolation) } else { Err(violations) }
    }

    fn filled(&self, asked: &IsolationRequest) -> Isolation {
        let IsolationRequest { seccomp_log, hostname, mut mounts, rootfs, .. } = asked.clone();
        let IsolationRequest { root_bytes, root_disk_bytes, image, image_digest, .. } =
            asked.clone();
        for mount in &mut mounts {
            if let Mount::Tmpfs { bytes, .. } = mount {
                *bytes = bytes.or(Some(self.tmp_bytes));
            }
        }
        let profile = Isolation::of(asked.profile.unwrap_or(self.default.max(self.minimum)));
        Isolation {
            pids: asked.pids.unwrap_or(profile.pids),
            network: asked.network.unwrap_or(profile.network),
            seccomp: asked.seccomp.unwrap_or(profile.seccomp),
            private_tmp: profile.private_tmp || asked.private_tmp,
            tmp_bytes: asked.tmp_bytes.unwrap_or(self.tmp_bytes),
            seccomp_log,
            hostname,
            mounts,
            rootfs,
            root_bytes,
            root_disk_bytes,
            image,
            image_digest,
            ..profile
        }
    }

    /// The pieces of a request that are weaker than the minimum.
    pub fn weaknesses(&self, asked: &IsolationRequest) -> Vec<Violation> {
        let mut found = Vec::new();
        self.check_strength(&self.filled(asked), &mut |field, fault| {
            found.push(Violation { field, fault });
        });
        found
    }

    fn check_strength(&self, asked: &Isolation, add: &mut impl FnMut(&'static str, String)) {
        let least = Isolation::of(self.minimum);
        for (field, is_weaker) in [
            ("isolation.profile", asked.profile < least.profile),
            ("isolation.pids", asked.pids < least.pids),
            ("isolation.network", asked.network < least.network),
            ("isolation.seccomp", asked.seccomp < least.seccomp),
            ("isolation.seccomp_log", asked.seccomp_log && self.minimum != Profile::Host),
        ] {
            if is_weaker {
                let least = self.minimum.name();
                let fault = format!(
                    "is weaker than \"{least}\", the least that this broker's operator allows (isolation.minimum)"
                );
                add(field, fault);
            }
        }
    }

    fn check_values(&self, asked: &Isolation, add: &mut impl FnMut(&'static str, String)) {
        if asked.tmp_bytes > self.tmp_bytes {
            let (asked, most) = (asked.tmp_bytes, self.tmp_bytes);
            add("isolation.tmp_bytes", format!("is {asked}; at most {most} are allowed"));
        }
        if let Some(fault) = self.root_fault(asked) {
            add(if asked.image.is_empty() { "isolation.rootfs" } else { "isolation.image" }, fault);
        }
        for (field, bytes, most) in [
            ("isolation.root_bytes", asked.root_bytes, self.tmp_bytes),
            ("isolation.root_disk_bytes", asked.root_disk_bytes, self.root_bytes),
        ] {
            if bytes > 0 && !asked.has_root() {
                add(field, "is the size of a root of the job's own, and it has none".into());
            }
            if bytes > most {
                add(field, format!("is {bytes}; at most {most} are allowed"));
            }
        }
        if asked.root_bytes > 0 && asked.root_disk_bytes > 0 {
            let fault = "is one place for what the job writes, and isolation.root_bytes another";
            add("isolation.root_disk_bytes", fault.into());
        }
        if asked.root_disk_bytes > 0 && asked.root_disk_bytes < LEAST_ON_DISK {
            let (asked, least) = (asked.root_disk_bytes, LEAST_ON_DISK);
            add("isolation.root_disk_bytes", format!("is {asked}; must be at least {least}"));
        }
        if let Some(fault) = hostname_fault(&asked.hostname) {
            add("isolation.hostname", fault);
        }
        if asked.mounts.len() > MAX_MOUNTS {
            let fault = format!("are {}; at most {MAX_MOUNTS} are allowed", asked.mounts.len());
            return add("isolation.mounts", fault);
        }
        for mount in &asked.mounts {
            let faults = [target_fault(mount.target()), self.source_fault(mount)];
            faults.into_iter().flatten().for_each(|fault| add("isolation.mounts", fault));
        }
    }

    fn root_fault(&self, asked: &Isolation) -> Option<String> {
        if !asked.has_root() {
            return None;
        }
        if asked.profile == Profile::Host {
            return Some("needs the profile \"private\" or \"strict\"".into());
        }
        if asked.image.is_empty() {
            return path_fault(&asked.rootfs).or_else(|| self.may_be_root(&asked.rootfs).err());
        }
        if !asked.rootfs.is_empty() {
            return Some("is one root, and isolation.rootfs another".into());
        }
        if let Err(fault) = check_image_name(&asked.image) {
            return Some(format!("{} {fault}", echo(&asked.image)));
        }
        let lack = || format!("{} may not be used here (isolation.images)", echo(&asked.image));
        (!self.may_use_image(&asked.image)).then(lack)
    }

    fn source_fault(&self, mount: &Mount) -> Option<String> {
        match mount {
            Mount::Tmpfs { bytes, .. } => {
                bytes.filter(|bytes| *bytes > self.tmp_bytes).map(|bytes| {
                    format!("tmpfs of {bytes} bytes: at most {} are allowed", self.tmp_bytes)
                })
            }
            Mount::Bind { source, read_only, .. } => {
                path_fault(source).or_else(|| self.may_mount(source, *read_only).err())
            }
        }
    }

    /// Whether this path, with all links resolved, may be mounted.
    ///
    /// # Errors
    /// Why not, in words for the caller.
    pub(crate) fn may_mount(&self, path: &str, read_only: bool) -> Result<(), String> {
        not_the_hosts(path)?;
        let (globs, key) = match read_only {
            true => (&self.read_only, "isolation.read_only"),
            false => (&self.read_write, "isolation.read_write"),
        };
        if globs.iter().chain(&self.read_write).any(|glob| glob.matches(path)) {
            return Ok(());
        }
        let (path, how) = (echo(path), if read_only { "read-only" } else { "for writing" });
        Err(format!("{path} may not be mounted {how} here ({key} of the broker's configuration)"))
    }

    /// Whether the image of this name may be the root of a job.
    pub fn may_use_image(&self, name: &str) -> bool {
        self.images.iter().any(|glob| glob.matches(name))
    }

    /// Whether this directory, with all links resolved, may be the root of a job.
    ///
    /// # Errors
    /// Why not, in words for the caller.
    pub(crate) fn may_be_root(&self, path: &str) -> Result<(), String> {
        not_the_hosts(path)?;
        if self.rootfs.iter().any(|glob| glob.matches(path)) {
            return Ok(());
        }
        let path = echo(path);
        Err(format!(
            "{path} may not be a root here (isolation.rootfs of the broker's configuration)"
        ))
    }
}

/// What shows or controls the host is never shared.
fn not_the_hosts(path: &str) -> Result<(), String> {
    let is_never = |never: &&&str| below(path, never) || below(never, path);
    match NEVER.iter().find(is_never) {
        Some(never) => Err(format!("{} is not mounted: {never} is the host's", echo(path))),
        None => Ok(()),
    }
}

/// Whether `path` is `directory` or in it.
fn below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What the shim makes there is the job's own, and links of processes lead out of it.
fn target_fault(path: &str) -> Option<String> {
    let is_taken = |place: &&&str| below(path, place);
    let taken = ["/proc", "/sys", "/dev"].iter().find(is_taken);
    let fault = taken.map(|place| format!("{}: nothing is mounted in {place}", echo(path)));
    fault
        .or_else(|| (path == "/").then(|| "nothing is mounted at \"/\"".into()))
        .or_else(|| path_fault(path))
}

fn path_fault(path: &str) -> Option<String> {
    if path.len() > MAX_PATH {
        return Some(format!("a path has {} bytes; at most {MAX_PATH} are allowed", path.len()));
    }
    check_path(path).err().map(|fault| format!("{} {fault}", echo(path)))
}

fn hostname_fault(name: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let is_name = name.chars().all(is_allowed) && !name.starts_with(['-', '.']);
    (name.len() > MAX_HOSTNAME || !is_name)
        .then(|| format!("{} is no host name: at most {MAX_HOSTNAME} of [A-Za-z0-9.-]", echo(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::isolation::{Seccomp, Share};

    fn glob(text: &str) -> Pattern {
        Pattern::parse(text, Syntax::Path).unwrap()
    }

    fn bind(source: &str, read_only: bool) -> Mount {
        Mount::Bind { source: source.into(), target: "/data".into(), read_only }
    }

    fn faults(rules: &IsolationRules, asked: IsolationRequest) -> Vec<String> {
        let violations = rules.resolve(&asked).err().map(|v| v.first).unwrap_or_default();
        violations.into_iter().map(|v| format!("{} {}", v.field, v.fault)).collect()
    }

    #[test]
    fn a_job_that_does_not_say_gets_the_default_and_never_less_than_the_minimum() {
        let strict = IsolationRules { minimum: Profile::Strict, ..IsolationRules::default() };
        let profile =
            |rules: &IsolationRules| rules.resolve(&IsolationRequest::default()).unwrap().profile;
        assert_eq!(profile(&IsolationRules::default()), Profile::Private);
        assert_eq!(profile(&strict), Profile::Strict);
    }

    #[test]
    fn each_piece_may_be_stronger_and_none_weaker_than_the_minimum() {
        let rules = IsolationRules::default();
        let asked = IsolationRequest::default;
        let stronger = IsolationRequest {
            profile: Some(Profile::Strict),
            network: Some(Share::Own),
            seccomp: Some(Seccomp::Strict),
            ..asked()
        };
        assert!(faults(&rules, stronger).is_empty());
        for (weaker, field) in [
            (IsolationRequest { profile: Some(Profile::Host), ..asked() }, "isolation.profile"),
            (IsolationRequest { pids: Some(Share::Host), ..asked() }, "isolation.pids"),
            (IsolationRequest { seccomp: Some(Seccomp::None), ..asked() }, "isolation.seccomp"),
            (IsolationRequest { seccomp_log: true, ..asked() }, "isolation.seccomp_log"),
        ] {
            let host = IsolationRules { minimum: Profile::Host, ..rules.clone() };
            assert!(faults(&host, weaker.clone()).is_empty(), "{field}");
            assert!(faults(&rules, weaker).iter().any(|fault| fault.starts_with(field)), "{field}");
        }
    }

    #[test]
    fn what_is_the_hosts_is_never_mounted_and_for_writing_only_what_is_listed() {
        let rules = IsolationRules { read_write: vec![glob("/srv/out/**")], ..Default::default() };
        for never in ["/proc", "/", "/run/docker.sock", "/sys/fs/cgroup", "/dev/sda"] {
            assert!(rules.may_mount(never, true).is_err(), "{never}");
        }
        assert!(rules.may_mount("/srv/data", true).is_ok());
        assert!(rules.may_mount("/srv/data", false).is_err());
        assert!(rules.may_mount("/srv/out/a", false).is_ok());
        let with = |mount| IsolationRequest { mounts: vec![mount], ..Default::default() };
        assert!(faults(&rules, with(bind("/srv/data", true))).is_empty());
        assert_eq!(faults(&rules, with(bind("/srv/data", false))).len(), 1);
        assert_eq!(faults(&rules, with(bind("/srv/../run", true))).len(), 1);
        let many =
            IsolationRequest { mounts: vec![bind("/srv/a", true); 17], ..Default::default() };
        assert_eq!(faults(&rules, many).len(), 1);
    }

    #[test]
    fn a_root_is_one_of_the_list_and_needs_files_of_its_own() {
        let rules = IsolationRules { rootfs: vec![glob("/srv/roots/*")], ..Default::default() };
        let asked = |rootfs: &str| IsolationRequest { rootfs: rootfs.into(), ..Default::default() };
        assert!(faults(&rules, asked("/srv/roots/a")).is_empty());
        for wrong in ["/srv/roots/a/b", "/srv", "/", "/proc", "roots/a", "/srv/roots/../a"] {
            assert_eq!(faults(&rules, asked(wrong)).len(), 1, "{wrong}");
        }
        let writable = IsolationRequest { root_bytes: 1, ..asked("/srv/roots/a") };
        assert!(faults(&rules, writable.clone()).is_empty());
        let too_much = IsolationRequest { root_bytes: 2 << 30, ..writable.clone() };
        assert_eq!(faults(&rules, too_much).len(), 1);
        let nothing = IsolationRequest { rootfs: String::new(), ..writable.clone() };
        assert_eq!(faults(&rules, nothing).len(), 1);
        let host = IsolationRules { minimum: Profile::Host, ..rules };
        let shared = IsolationRequest { profile: Some(Profile::Host), ..writable };
        assert_eq!(faults(&host, shared).len(), 1);
    }

    #[test]
    fn an_image_has_a_name_of_the_list_and_is_the_only_root() {
        let asked = |image: &str| IsolationRequest { image: image.into(), ..Default::default() };
        let rules = IsolationRules::default();
        assert!(faults(&rules, asked("debian:12")).is_empty());
        for wrong in ["../a", "a/b", ".a", "a b"] {
            assert_eq!(faults(&rules, asked(wrong)).len(), 1, "{wrong}");
        }
        let images = vec![Pattern::parse("debian:*", Syntax::Text).unwrap()];
        let some = IsolationRules { images, rootfs: vec![glob("/srv/**")], ..rules };
        assert!(faults(&some, asked("debian:12")).is_empty());
        assert_eq!(faults(&some, asked("alpine")).len(), 1);
        let both = IsolationRequest { rootfs: "/srv/a".into(), ..asked("debian:12") };
        assert_eq!(faults(&some, both).len(), 1);
    }

    #[test]
    fn a_host_name_is_one() {
        for (name, is_fine) in [("", true), ("a-1.b", true), ("-a", false), ("a b", false)] {
            assert_eq!(hostname_fault(name).is_none(), is_fine, "{name}");
        }
    }
}
