//! Directories that one process holds by a lock, so that another knows which were left by a process that was killed. For
//! cgroups, too: each is a directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use uuid::Uuid;

/// How the name of each begins.
const PREFIX: &str = "job-sandbox-";
/// A name is made anew when somebody else has taken the directory for one that was left.
const TRIES: u32 = 8;

/// A new directory that is this process's own, until it ends or drops this.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Held {
    /// Makes one in this directory.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(super) fn make(parent: &Path, mode: u32) -> io::Result<Held> {
        for _ in 0..TRIES {
            let path = parent.join(format!("{PREFIX}{}", Uuid::new_v4()));
            DirBuilder::new().mode(mode).create(&path)?;
            if let Some(lock) = lock(&path) {
                return Ok(Held { path, _lock: lock });
            }
        }
        Err(io::Error::other("others remove it at once"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Calls `remove` for each directory in this one that its maker has left: one of this user's that nobody holds, which no
/// other process takes meanwhile.
pub(super) fn remove_left(parent: &Path, remove: impl Fn(&Path)) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ones = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if let Some(_lock) = is_ones.then(|| lock(&entry.path())).flatten() {
            remove(&entry.path());
        }
    }
}

/// `None` if it is somebody else's, held, or not there any more.
fn lock(path: &Path) -> Option<Flock<File>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    let own = opened.metadata().ok()?;
    let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).ok()?;
    // Whoever removes one holds it: it may be gone by now.
    let is_there = fs::symlink_metadata(path).is_ok_and(|found| found.ino() == own.ino());
    (is_there && own.uid() == geteuid().as_raw()).then_some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let held = Held::make(parent.path(), 0o700).unwrap();
        let left = Held::make(parent.path(), 0o700).unwrap().path().to_owned();
        fs::create_dir(parent.path().join("other")).unwrap();
        std::os::unix::fs::symlink(&left, parent.path().join(format!("{PREFIX}link"))).unwrap();
        remove_left(parent.path(), |path| fs::remove_dir(path).unwrap());
        assert!(held.path().exists() && !left.exists() && parent.path().join("other").exists());
    }
}
