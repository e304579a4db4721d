//! A disk that a test can fill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tmpfs: full as soon as its size is reached, whatever the host's disks are.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// At this new directory; of a size as mount(8) takes it.
    pub(crate) fn mount(at: &Path, size: &str) -> SmallDisk {
        fs::create_dir(at).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("mode=0700,size={size}"), "tmpfs"]).arg(at);
        assert!(mount.status().expect("mount(8) is there").success(), "a tmpfs can be mounted");
        SmallDisk(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Unmounts what is mounted there, if anything is. Lazily: a shim may be about to end.
pub(crate) fn unmount(at: &Path) {
    let _ = Command::new("umount").arg("--lazy").arg(at).stderr(Stdio::null()).status();
}
