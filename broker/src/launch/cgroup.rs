//! The cgroup v2 tree of the jobs: `<mount>/<configured>/<job>/{shim,work}`, all of it root 0700.
//! Source: Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::id::JobId;

/// The directory that holds all jobs.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

/// The cgroup of one job.
#[derive(Debug, Clone)]
pub struct JobCgroup {
    path: PathBuf,
}

/// Why jobs can have no cgroups here.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// No cgroup2 file system.
    #[error(
        "no cgroup2 file system is mounted (/proc/self/mountinfo); mount one, e.g. at /sys/fs/cgroup"
    )]
    NotMounted,
    /// A controller that the configuration requires.
    #[error("controllers {} are required (jobs.require_controllers) and not available at {path}", missing.join(", "))]
    MissingControllers {
        /// Which.
        missing: Vec<String>,
        /// Where they were looked for.
        path: PathBuf,
    },
    /// The kernel said no.
    #[error("cannot {step} {path}: {source}")]
    Io {
        /// "create", "read".
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Tree {
    /// Finds the cgroup2 mount, wherever it is, and makes `below` in it.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open(below: &Path, required: &[String]) -> Result<Tree, TreeError> {
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| TreeError::Io { step, path, source }
        };
        let mountinfo = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(mountinfo).map_err(io("read", mountinfo))?;
        let mount = cgroup2_mount(&mounts).ok_or(TreeError::NotMounted)?;
        let root = mount.join(below);
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(io("create", &root))?;
        let tree = Tree { root };
        let kill = tree.root.join("cgroup.kill");
        kill.metadata().map_err(io("find (Linux 5.14 has it)", &kill))?;
        let available = tree.controllers();
        let missing: Vec<_> =
            required.iter().filter(|name| !available.contains(name)).cloned().collect();
        if !missing.is_empty() {
            return Err(TreeError::MissingControllers { missing, path: tree.root });
        }
        Ok(tree)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The controllers that jobs could have, `cgroup.controllers`.
    pub fn controllers(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// The cgroup of a job, whether or not it exists.
    pub fn job(&self, id: JobId) -> JobCgroup {
        JobCgroup { path: self.root.join(id.to_string()) }
    }
}

impl JobCgroup {
    /// Makes it, with its two leaves. 0700 at the top: the workload, which is not root, can open
    /// nothing in it.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn create(&self) -> io::Result<()> {
        for path in [self.path.clone(), self.shim_path(), self.work_path()] {
            DirBuilder::new().mode(0o700).create(path)?;
        }
        Ok(())
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The leaf of the shim, opened.
    ///
    /// # Errors
    /// As open(2).
    pub fn shim(&self) -> io::Result<File> {
        File::open(self.shim_path())
    }

    /// The leaf of the workload, opened.
    ///
    /// # Errors
    /// As open(2).
    pub fn work(&self) -> io::Result<File> {
        File::open(self.work_path())
    }

    /// Kills all that is left of the workload and answers when nothing is. A process that joins
    /// after the write to `cgroup.kill` lives, hence the loop. Blocks.
    ///
    /// # Errors
    /// `TimedOut` after 10 s (a process in uninterruptible sleep); a cgroup that is gone is fine.
    pub fn kill_work(&self) -> io::Result<()> {
        let mut events = match File::open(self.work_path().join("cgroup.events")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let until = Instant::now() + Duration::from_secs(10);
        while populated(&mut events)? {
            fs::write(self.work_path().join("cgroup.kill"), "1")?;
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The kernel tells when `populated` changes; after 50 ms, somebody has joined late.
            poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], 50u16)?;
        }
        Ok(())
    }

    /// Removes it. The kernel answers EBUSY until the last process is reaped, hence the loop, of
    /// 2 s at most. Blocks.
    ///
    /// # Errors
    /// As rmdir(2); what is gone is fine.
    pub fn remove(&self) -> io::Result<()> {
        for path in [self.work_path(), self.shim_path(), self.path.clone()] {
            let until = Instant::now() + Duration::from_secs(2);
            let mut pause = Duration::from_micros(50);
            loop {
                match fs::remove_dir(&path) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                        std::thread::sleep(pause); // between two tries
                        pause = (pause * 2).min(Duration::from_millis(20));
                    }
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    fn shim_path(&self) -> PathBuf {
        self.path.join("shim")
    }

    fn work_path(&self) -> PathBuf {
        self.path.join("work")
    }
}

/// Whether any process is in the cgroup or below it, by its `cgroup.events`; a cgroup that has been
/// removed in the meantime is empty.
fn populated(events: &mut File) -> io::Result<bool> {
    let mut text = String::new();
    events.rewind()?;
    match events.read_to_string(&mut text) {
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        read => read.map(|_| text.lines().any(|line| line == "populated 1")),
    }
}

/// The first cgroup2 mount in proc_pid_mountinfo(5): field 5 is the mount point, the type follows
/// the lone hyphen.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then(|| PathBuf::from(unescape(point)))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
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
