//! The cgroup of one job: `<tree>/<job>/{shim,work}`, all of it root 0700.
//! Source: Documentation/admin-guide/cgroup-v2.rst.

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

/// A part of a job's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// All of it.
    Job,
    /// The shim.
    Shim,
    /// The workload.
    Work,
}

impl JobCgroup {
    pub(crate) fn new(path: PathBuf) -> JobCgroup {
        JobCgroup { path }
    }

    /// Makes it, with its two leaves. 0700 at the top: the workload, which is not root, can open
    /// nothing in it. When memory runs out, the workload goes as a whole and the shim stays.
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

    /// The directory of a part of it.
    pub fn leaf(&self, leaf: Leaf) -> PathBuf {
        match leaf {
            Leaf::Job => self.path.clone(),
            Leaf::Shim => self.path.join("shim"),
            Leaf::Work => self.path.join("work"),
        }
    }

    /// Whether it is there, or that cannot be told.
    pub fn exists(&self) -> bool {
        !matches!(self.path.try_exists(), Ok(false))
    }

    /// The processes in the leaf of the shim; none where there is no such cgroup.
    ///
    /// # Errors
    /// As read(2): then nobody can say that there are none.
    pub fn shims(&self) -> io::Result<Vec<u32>> {
        let text = read_if_exists(&self.leaf(Leaf::Shim).join("cgroup.procs"))?;
        text.lines().map(|line| line.parse().map_err(io::Error::other)).collect()
    }

    /// The leaf of the shim, opened.
    ///
    /// # Errors
    /// As open(2).
    pub fn shim(&self) -> io::Result<File> {
        File::open(self.leaf(Leaf::Shim))
    }

    /// The leaf of the workload, opened.
    ///
    /// # Errors
    /// As open(2).
    pub fn work(&self) -> io::Result<File> {
        File::open(self.leaf(Leaf::Work))
    }

    /// Kills all that is left of the workload and answers when nothing is. A process that joins
    /// after the write to `cgroup.kill` lives, hence the loop. Blocks.
    ///
    /// # Errors
    /// `TimedOut` after 10 s (a process in uninterruptible sleep); a cgroup that is gone is fine.
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
        for path in [self.leaf(Leaf::Work), self.leaf(Leaf::Shim), self.path.clone()] {
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

    /// Stops all processes of the workload where they are, or lets them go on. Freezing answers
    /// when all of them stand still. Blocks.
    ///
    /// # Errors
    /// `TimedOut` after 5 s (a process in uninterruptible sleep): it goes on as a whole, then.
    /// `Interrupted` when somebody else has let it go on before all of it stood still: its shim, which
    /// has asked it to end. Else as write(2).
    pub fn freeze(&self, freeze: bool) -> io::Result<()> {
        let work = self.leaf(Leaf::Work);
        let mut events = File::open(work.join("cgroup.events"))?;
        let file = work.join("cgroup.freeze");
        fs::write(&file, if freeze { "1" } else { "0" })?;
        let mut waits = 0; // and not a clock: a host that stood still for 5 s has frozen nothing meanwhile
        while freeze && !has_line(&mut events, "frozen 1")? && has_line(&mut events, "populated 1")?
        {
            if !self.is_frozen()? {
                let fault = "somebody let them go on";
                return Err(io::Error::new(io::ErrorKind::Interrupted, fault));
            }
            if waits == 100 {
                fs::write(&file, "0")?;
                let fault = "some did not stand still within 5 s";
                return Err(io::Error::new(io::ErrorKind::TimedOut, fault));
            }
            // The kernel tells when a value changes; what changed before the poll is read again.
            let changed = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], 50u16)?;
            waits += u32::from(changed == 0);
        }
        Ok(())
    }

    /// Whether its processes are frozen, or are being so; those of a cgroup that is gone are not.
    ///
    /// # Errors
    /// As read(2).
    pub fn is_frozen(&self) -> io::Result<bool> {
        let text = read_if_exists(&self.leaf(Leaf::Work).join("cgroup.freeze"))?;
        Ok(text.trim() == "1")
    }

    /// What the job uses and has used.
    pub(crate) fn usage(&self, features: &Features) -> Usage {
        usage::read(&self.path, &|name| features.has_file(name))
    }

    /// Bytes of memory that the job uses now, page cache included.
    ///
    /// # Errors
    /// As read(2).
    pub fn memory_current(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.path.join("memory.current"))?;
        text.trim().parse().map_err(io::Error::other)
    }
}

/// A file of a cgroup; nothing where that has been removed.
fn read_if_exists(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(String::new()), // since it was opened
        read => read,
    }
}

/// Whether `cgroup.events` has this line; a cgroup that has been removed in the meantime has none.
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
    fn a_freeze_that_somebody_takes_back_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = JobCgroup::new(dir.path().to_owned());
        let work = cgroup.leaf(Leaf::Work);
        fs::create_dir(&work).unwrap();
        fs::write(work.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        // It keeps nothing of what is written.
        std::os::unix::fs::symlink("/dev/null", work.join("cgroup.freeze")).unwrap();
        assert_eq!(cgroup.freeze(true).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
