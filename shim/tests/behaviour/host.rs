//! The place of one test: a cgroup and a state directory, both gone at its end.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than anything here takes; a test that hangs fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

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

    /// The workload may use so much memory, and is killed as a whole for more. `None`, with the
    /// reason on standard error, where the kernel does not see to that.
    pub(crate) fn memory(self, max: &str) -> Option<Host> {
        let mount = self.cgroup.parent().unwrap();
        let handed_down = fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap();
        if !handed_down.split_whitespace().any(|controller| controller == "memory") {
            let root = mount.display();
            eprintln!("skipped: no memory controller in cgroup.subtree_control of {root}");
            return None;
        }
        fs::write(self.cgroup.join("cgroup.subtree_control"), "+memory").unwrap();
        fs::write(self.cgroup.join("memory.max"), max).unwrap();
        let swap = self.cgroup.join("memory.swap.max");
        if swap.exists() {
            fs::write(swap, "0").unwrap();
        }
        fs::write(self.work().join("memory.oom.group"), "1").unwrap();
        Some(self)
    }

    /// What a file of the workload's cgroup says after this key.
    pub(crate) fn number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(self.work().join(file)).unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(key)).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Waits until that number is at least this.
    pub(crate) fn await_number(&self, file: &str, key: &str, least: u64) {
        let deadline = Instant::now() + TIMEOUT;
        while self.number(file, key) < least {
            assert!(Instant::now() < deadline, "{file}: {key} stays below {least}");
            std::thread::sleep(Duration::from_millis(1)); // not all of these files can be polled
        }
    }

    /// Freezes the workload.
    pub(crate) fn freeze(&self) {
        fs::write(self.work().join("cgroup.freeze"), "1").unwrap();
        self.await_number("cgroup.events", "frozen", 1);
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
