//! The root cgroup of all jobs, and the controllers enabled for it. It must not touch the cgroup of a single job. Source: Documentation/admin-guide/cgroup-v2.rst.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cgroup::features::{CONTROLLERS, Features};
use crate::cgroup::job::JobCgroup;
use crate::model::id::JobId;

/// Who made the root cgroup and can make it anew, where that is somebody else: systemd.
pub trait Scope: fmt::Debug + Send + Sync {
    /// Makes sure that the cgroup is there; tells whether it had to be made anew. Blocks.
    ///
    /// # Errors
    /// It is going away, or cannot be made.
    fn ensure(&self) -> io::Result<Readiness>;
}

/// What [`Scope::ensure`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing.
    Ready,
    /// It had ended, or what holds it; both exist again.
    Recreated,
}

/// The root cgroup of all jobs; mode 0700.
#[derive(Debug)]
pub struct Hierarchy {
    mount: PathBuf,
    root: PathBuf,
    /// Its maker, if that is not this process.
    scope: Option<Arc<dyn Scope>>,
    features: Features,
}

/// Why this host cannot provide cgroups for jobs.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// No cgroup2 file system is mounted.
    #[error(
        "no cgroup2 file system is mounted (/proc/self/mountinfo); mount one, e.g. at /sys/fs/cgroup"
    )]
    NotMounted,
    /// The configuration requires controllers that are unavailable.
    #[error("controllers are required (jobs.require_controllers) and missing: {}", missing.join("; "))]
    MissingControllers {
        /// Each controller with the reason.
        missing: Vec<String>,
    },
    /// A system call failed.
    #[error("cannot {step} {path}: {source}")]
    Io {
        /// The step: "create", "read".
        step: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Hierarchy {
    /// Creates the root cgroup below a cgroup2 mount, if it is not there, and enables the controllers in every cgroup
    /// down to it.
    ///
    /// # Errors
    /// [`HierarchyError`].
    pub fn open(
        mount: PathBuf,
        root: PathBuf,
        scope: Option<Arc<dyn Scope>>,
        required: &[String],
    ) -> Result<Hierarchy, HierarchyError> {
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| HierarchyError::Io { step, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(io("create", &root))?;
        fs::set_permissions(&root, Permissions::from_mode(0o700)).map_err(io("chmod", &root))?;
        let kill = root.join("cgroup.kill");
        kill.metadata().map_err(io("find (Linux 5.14 and later have it)", &kill))?;
        let mut missing = BTreeMap::new();
        for controller in CONTROLLERS {
            if let Err(reason) = enable_down_to(&mount, &root, controller) {
                missing.insert(controller, reason);
            }
        }
        let fault = |name: &String| match missing.get(name.as_str()) {
            Some(reason) => Some(format!("{name}: {reason}")),
            None if CONTROLLERS.contains(&name.as_str()) => None,
            None => Some(format!("{name}: not one of {}", CONTROLLERS.join(", "))),
        };
        let faults: Vec<_> = required.iter().filter_map(fault).collect();
        if !faults.is_empty() {
            return Err(HierarchyError::MissingControllers { missing: faults });
        }
        let features = Features::of(&root, missing).map_err(io("list", &root))?;
        Ok(Hierarchy { mount, root, scope, features })
    }

    /// The cgroup features of this host.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The directory of the root cgroup.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Makes sure that the root cgroup can take a job: the scope may have been stopped, or its keeper
    /// killed. Costs one system call if the scope is intact. Blocks.
    ///
    /// # Errors
    /// The scope is being stopped, or systemd cannot create a new one.
    pub fn ensure(&self) -> io::Result<()> {
        let Some(scope) = &self.scope else { return Ok(()) };
        if scope.ensure()? == Readiness::Recreated {
            fs::set_permissions(&self.root, Permissions::from_mode(0o700))?;
            for controller in
                CONTROLLERS.iter().filter(|name| self.features.missing(name).is_none())
            {
                enable_down_to(&self.mount, &self.root, controller).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// The cgroups whose limits apply to all jobs: the jobs' root cgroup and its ancestors, nearest first.
    /// The root of the cgroup2 mount has no limits.
    pub fn ancestors(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.root.ancestors().take_while(|path| *path != self.mount).map(Path::to_owned)
    }

    /// A cgroup directory relative to the mount, for messages.
    pub fn below_mount(&self, directory: &Path) -> String {
        directory.strip_prefix(&self.mount).unwrap_or(directory).display().to_string()
    }

    /// The cgroup of a job; it need not exist.
    pub fn job(&self, id: JobId) -> JobCgroup {
        JobCgroup::new(self.root.join(id.to_string()))
    }

    /// The jobs that have a cgroup. Every live job has one; after a reboot none has.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn jobs(&self) -> io::Result<Vec<JobId>> {
        jobs(&self.root)
    }

    /// The text of `io.cost.qos` in the root of the mount: the disks for which io.cost is enabled.
    pub fn io_cost_qos(&self) -> String {
        fs::read_to_string(self.mount.join("io.cost.qos")).unwrap_or_default()
    }
}

/// The cgroup2 mount of this process.
///
/// # Errors
/// `NotMounted` and `Io`.
pub fn mount() -> Result<PathBuf, HierarchyError> {
    let mountinfo = PathBuf::from("/proc/self/mountinfo");
    match fs::read_to_string(&mountinfo) {
        Ok(mounts) => cgroup2_mount(&mounts).ok_or(HierarchyError::NotMounted),
        Err(source) => Err(HierarchyError::Io { step: "read", path: mountinfo, source }),
    }
}

/// The jobs that have a cgroup below this root cgroup. Creates nothing.
///
/// # Errors
/// As readdir(3).
pub fn jobs(root: &Path) -> io::Result<Vec<JobId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(root)? {
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<JobId>().ok()));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Enables a controller in every cgroup from the mount down to `root`. A `cgroup.subtree_control` that already
/// has the controller is not written: on most hosts systemd manages these files.
fn enable_down_to(mount: &Path, root: &Path, controller: &str) -> Result<(), String> {
    let mut path: Vec<_> = root.ancestors().take_while(|path| *path != mount).collect();
    path.push(mount);
    for directory in path.iter().rev() {
        let has = |file: &str| {
            let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
            text.split_whitespace().any(|word| word == controller)
        };
        if !has("cgroup.controllers") {
            return Err(format!(
                "{}/cgroup.controllers does not list the controller",
                directory.display()
            ));
        }
        if has("cgroup.subtree_control") {
            continue;
        }
        let file = directory.join("cgroup.subtree_control");
        fs::write(&file, format!("+{controller}"))
            .map_err(|e| format!("the controller cannot be enabled in {}: {e}", file.display()))?;
    }
    Ok(())
}

/// The first cgroup2 mount in proc_pid_mountinfo(5): field 5 is the mount point, and the file system type
/// follows the separator hyphen.
pub(super) fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then(|| PathBuf::from(unescape(point)))
    })
}

/// mountinfo escapes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let unified = "25 30 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/my\\040groups rw shared:4 - cgroup2 none rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/my groups".into()));
        assert_eq!(cgroup2_mount("1 2 0:3 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
