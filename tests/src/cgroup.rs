//! The cgroup of one environment: its processes, and their removal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The directory that holds an environment's jobs.
#[derive(Debug)]
pub struct Cgroup {
    root: PathBuf,
}

impl Cgroup {
    /// `name` below the cgroup2 mount. The broker makes it.
    pub(crate) fn named(name: &str) -> Cgroup {
        Cgroup { root: mount().join(name) }
    }

    /// All that there are below the mount.
    pub(crate) fn all() -> Vec<Cgroup> {
        children(&mount()).into_iter().map(|root| Cgroup { root }).collect()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A job's.
    pub fn job(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// The cgroup of a job's workload alone.
    pub fn workload(&self, id: &str) -> PathBuf {
        self.job(id).join("work")
    }

    /// Processes of a job's workload.
    pub fn work(&self, id: &str) -> Vec<i32> {
        processes(&self.workload(id))
    }

    /// A job's shim.
    pub fn shim(&self, id: &str) -> Option<i32> {
        processes(&self.job(id).join("shim")).first().copied()
    }

    /// Jobs that have a cgroup.
    pub fn jobs(&self) -> Vec<String> {
        children(&self.root).iter().filter_map(|path| name(path)).collect()
    }

    /// Kills everything in it and removes it; reports what cannot be removed.
    pub(crate) fn end(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(e) = self.try_end() {
            if Instant::now() > deadline {
                eprintln!("left behind: {}: {e}", self.root.display());
                return;
            }
            thread::sleep(Duration::from_millis(2)); // the kernel kills on its own time
        }
    }

    fn try_end(&self) -> io::Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        fs::write(self.root.join("cgroup.kill"), "1")?;
        remove(&self.root)
    }
}

/// Where cgroup2 is mounted.
///
/// # Panics
/// Where it is not.
pub fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let mount = line.and_then(|line| line.split(' ').nth(4));
    mount.expect("the end-to-end tests need a cgroup2 mount, and there is none").into()
}

fn remove(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A cgroup that has just gone has no children.
fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// And no processes.
fn processes(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}
