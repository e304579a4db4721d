//! A file system of the benchmark's own, for the state of its brokers: what a start costs on a used one depends on what
//! was deleted there in the last minutes, by earlier runs, too. It must be gone when the benchmark is.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::process;

/// An empty ext4 as mkfs makes it, with a journal, in a sparse file that a loop device shows.
pub(super) struct Disk {
    scratch: TempDir,
}

/// Bytes of it; it takes what is written.
const SIZE: u64 = 32 << 30;

impl Disk {
    /// Makes one in the directory for temporary files.
    ///
    /// # Errors
    /// mkfs(8) or mount(8) failed: many containers have no loop devices.
    pub(super) fn make() -> Result<Disk> {
        let scratch = tempfile::Builder::new().prefix("job-bench-disk-").tempdir()?;
        let image = scratch.path().join("image");
        File::create(&image)?.set_len(SIZE)?;
        let disk = Disk { scratch };
        fs::create_dir(disk.path())?;
        process::check(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        // Its inode tables are made when they are needed: no thread of the kernel does it meanwhile.
        let options = ["-o", "loop,noinit_itable"];
        process::check(Command::new("mount").args(options).arg(&image).arg(disk.path()))?;
        Ok(disk)
    }

    /// The root of it.
    pub(super) fn path(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match umount2(&self.path(), MntFlags::empty()) {
            // It was not mounted.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) | Ok(()) => {}
            Err(e) => eprintln!("cannot unmount {}: {e}", self.path().display()),
        }
    }
}

/// Where the state of brokers is.
pub(super) enum State {
    /// On a disk of their own.
    Own(Disk),
    /// In this directory.
    There(PathBuf),
}

impl State {
    /// A disk of their own, where this host has loop devices, unless `dir` is named.
    ///
    /// # Errors
    /// `dir` cannot be made.
    pub(super) fn new(dir: Option<&Path>) -> Result<State> {
        if let Some(dir) = dir {
            fs::create_dir_all(dir)
                .with_context(|| format!("cannot make the directory {}", dir.display()))?;
            return Ok(State::There(dir.to_owned()));
        }
        Ok(Disk::make().map_or_else(
            |error| {
                let dir = env::temp_dir();
                eprintln!(
                    "xtask: no ext4 of its own ({error:#}): state is in {}, and what was deleted there counts",
                    dir.display()
                );
                State::There(dir)
            },
            State::Own,
        ))
    }

    /// The directory for them.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            State::Own(disk) => disk.path(),
            State::There(dir) => dir.clone(),
        }
    }
}
