//! The cgroup of one job, `<root>/<job>/{shim,work}`, mode 0700: create, kill, freeze, remove. It must not write
//! limits (`limits`) or spawn processes (`launch`). Source: Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::cgroup::features::Features;
use crate::cgroup::usage;
use crate::model::usage::Usage;

/// The cgroup of one job.
#[derive(Debug, Clone)]
pub struct JobCgroup {
    path: PathBuf,
}

/// One of the cgroups of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// The parent of both leaves.
    Job,
    /// The leaf of the shim.
    Shim,
    /// The leaf of the workload.
    Work,
}

impl JobCgroup {
    pub(crate) fn new(path: PathBuf) -> JobCgroup {
        JobCgroup { path }
    }

    /// Creates the cgroup and its two leaves. Mode 0700 keeps the workload, which is not root, from opening
    /// any file in it. `memory.oom.group` makes the OOM killer end the whole workload and spare the shim.
    ///
    /// # Errors
    /// As mkdir(2) and write(2).
    pub(crate) fn create(&self, features: &Features) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path)?;
        if !features.subtree_control().is_empty() {
            fs::write(self.path.join("cgroup.subtree_control"), features.subtree_control())?;
        }
        DirBuilder::new().mode(0o700).create(self.leaf(Leaf::Shim))?;
        DirBuilder::new().mode(0o700).create(self.leaf(Leaf::Work))?;
        if features.has_file("memory.oom.group") {
            fs::write(self.leaf(Leaf::Work).join("memory.oom.group"), "1")?;
        }
        Ok(())
    }

    /// The directory of a leaf.
    pub fn leaf(&self, leaf: Leaf) -> PathBuf {
        match leaf {
            Leaf::Job => self.path.clone(),
            Leaf::Shim => self.path.join("shim"),
            Leaf::Work => self.path.join("work"),
        }
    }

    /// Whether the cgroup exists; true if that is unknown.
    pub fn exists(&self) -> bool {
        !matches!(self.path.try_exists(), Ok(false))
    }

    /// The pids in the leaf of the shim; empty if the cgroup does not exist.
    ///
    /// # Errors
    /// As read(2): the leaf may then hold processes.
    pub fn shims(&self) -> io::Result<Vec<u32>> {
        let text = read_if_exists(&self.leaf(Leaf::Shim).join("cgroup.procs"))?;
        text.lines().map(|line| line.parse().map_err(io::Error::other)).collect()
    }

    /// The pids of the workload, `most` of them; none if they cannot be read.
    pub fn workload(&self, most: usize) -> Vec<u32> {
        const LONGEST: u64 = 8; // seven digits and a newline: PID_MAX_LIMIT is 4194304
        let Ok(file) = File::open(self.leaf(Leaf::Work).join("cgroup.procs")) else {
            return Vec::new();
        };
        let mut text = String::new();
        if file.take(most as u64 * LONGEST).read_to_string(&mut text).is_err() {
            return Vec::new();
        }
        // What stands after the last newline may be half a number.
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        whole.filter_map(|line| line.parse().ok()).take(most).collect()
    }

    /// Opens the leaf of the shim.
    ///
    /// # Errors
    /// As open(2).
    pub fn shim(&self) -> io::Result<File> {
        File::open(self.leaf(Leaf::Shim))
    }

    /// Opens the leaf of the workload.
    ///
    /// # Errors
    /// As open(2).
    pub fn work(&self) -> io::Result<File> {
        File::open(self.leaf(Leaf::Work))
    }

    /// Kills every process of the workload and returns when none is left. A process that joins the cgroup
    /// after the write to `cgroup.kill` survives it, hence the loop. Blocks.
    ///
    /// # Errors
    /// `TimedOut` after 10 s (a process in uninterruptible sleep). A removed cgroup is no error.
    pub fn kill_work(&self) -> io::Result<()> {
        let mut events = match File::open(self.leaf(Leaf::Work).join("cgroup.events")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let until = Instant::now() + Duration::from_secs(10);
        while has_line(&mut events, "populated 1")? {
            fs::write(self.leaf(Leaf::Work).join("cgroup.kill"), "1")?;
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The kernel signals a change of `populated`. After 50 ms a process has joined late.
            poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], 50u16)?;
        }
        Ok(())
    }

    /// Removes the cgroup. rmdir(2) fails with EBUSY until the last process is reaped, hence the loop of at
    /// most 2 s for each directory. Blocks.
    ///
    /// # Errors
    /// As rmdir(2). A removed cgroup is no error.
    pub fn remove(&self) -> io::Result<()> {
        for path in [self.leaf(Leaf::Work), self.leaf(Leaf::Shim), self.path.clone()] {
            let until = Instant::now() + Duration::from_secs(2);
            let mut pause = Duration::from_micros(50);
            loop {
                match fs::remove_dir(&path) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                        std::thread::sleep(pause); // before the next attempt
                        pause = (pause * 2).min(Duration::from_millis(20));
                    }
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Freezes or thaws the workload. Freezing returns when `cgroup.events` says `frozen 1`. Blocks.
    ///
    /// # Errors
    /// `TimedOut` after 5 s (a process in uninterruptible sleep); the workload is thawed again.
    /// `Interrupted` if the shim thaws the workload to stop it before it is frozen. Else as write(2).
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        let work = self.leaf(Leaf::Work);
        let mut events = File::open(work.join("cgroup.events"))?;
        let file = work.join("cgroup.freeze");
        fs::write(&file, if freeze { "1" } else { "0" })?;
        let mut waits = 0; // not a clock: a host that was suspended for 5 s froze nothing meanwhile
        while freeze && !has_line(&mut events, "frozen 1")? && has_line(&mut events, "populated 1")?
        {
            if !self.is_frozen()? {
                let fault = "the shim thawed the cgroup to stop the job";
                return Err(io::Error::new(io::ErrorKind::Interrupted, fault));
            }
            if waits == 100 {
                fs::write(&file, "0")?;
                let fault = "not every process was frozen within 5 s";
                return Err(io::Error::new(io::ErrorKind::TimedOut, fault));
            }
            // The kernel signals each change of a value. The loop reads again what changed before the poll.
            let changed = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], 50u16)?;
            waits += u32::from(changed == 0);
        }
        Ok(())
    }

    /// Whether the workload is frozen or freezing; false if the cgroup does not exist.
    ///
    /// # Errors
    /// As read(2).
    pub fn is_frozen(&self) -> io::Result<bool> {
        let text = read_if_exists(&self.leaf(Leaf::Work).join("cgroup.freeze"))?;
        Ok(text.trim() == "1")
    }

    /// The resource usage of the job.
    pub fn usage(&self, features: &Features) -> Usage {
        usage::read(&self.path, &|name| features.has_file(name))
    }

    /// `memory.current`: bytes that the job uses now, page cache included.
    ///
    /// # Errors
    /// As read(2).
    pub fn memory_current(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join("memory.current"))?;
        text.trim().parse().map_err(io::Error::other)
    }
}

/// Reads a file of a cgroup; empty if the cgroup does not exist.
fn read_if_exists(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(String::new()), // removed after open(2)
        read => read,
    }
}

/// Whether `cgroup.events` has this line; false if the cgroup has been removed.
fn has_line(events: &mut File, line: &str) -> io::Result<bool> {
    let mut text = String::new();
    events.rewind()?;
    match events.read_to_string(&mut text) {
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        read => read.map(|_| text.lines().any(|own| own == line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_that_the_shim_thaws_is_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = JobCgroup::new(dir.path().to_owned());
        let work = cgroup.leaf(Leaf::Work);
        fs::create_dir(&work).unwrap();
        fs::write(work.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        // /dev/null reads back as a thawed cgroup.
        std::os::unix::fs::symlink("/dev/null", work.join("cgroup.freeze")).unwrap();
        assert_eq!(cgroup.freeze(true).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
