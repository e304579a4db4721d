//! The place of one test: a cgroup and a state directory, both gone at its end.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Where a job lives.
pub(crate) struct Host {
    cgroup: PathBuf,
    directory: TempDir,
    mounted: bool,
}

impl Host {
    /// Makes one; `None`, with the reason on standard error, where that is not possible.
    pub(crate) fn new() -> Option<Host> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a shim is born as root, and this test is not");
            return None;
        }
        let Some(mount) = cgroup2() else {
            eprintln!("skipped: no cgroup2 hierarchy is mounted");
            return None;
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = mount.join(format!("job-shim-test-{}-{count}", std::process::id()));
        for leaf in ["shim", "work"] {
            fs::create_dir_all(cgroup.join(leaf)).unwrap();
        }
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Some(Host { cgroup, directory, mounted: false })
    }

    /// Its state directory is a disk of this size; a later call changes the size.
    pub(crate) fn disk(&mut self, size: &str) {
        let options = format!("{}size={size}", if self.mounted { "remount," } else { "" });
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(self.state());
        assert!(mount.status().unwrap().success());
        self.mounted = true;
    }

    pub(crate) fn state(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.cgroup.join("work")
    }

    pub(crate) fn shim_procs(&self) -> File {
        File::options().write(true).open(self.cgroup.join("shim/cgroup.procs")).unwrap()
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_to_string(self.work().join("cgroup.events")).unwrap().contains("populated 0")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        for leaf in ["work", "shim", "."] {
            let leaf = self.cgroup.join(leaf);
            while leaf.exists() && fs::remove_dir(leaf.components().as_path()).is_err() {
                let _ = fs::write(leaf.join("cgroup.kill"), "1");
                if Instant::now() > deadline {
                    eprintln!("left behind: {}", leaf.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(1)); // no event tells when rmdir works
            }
        }
        if self.mounted {
            let _ = std::process::Command::new("umount").arg(self.state()).status();
        }
    }
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}
