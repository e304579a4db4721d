//! The directory of one run of a machine: its scripts, its disks, its log, its status. Other users must not read it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `<target>/testbed/runs/<pid>-<number>`, removed with its contents when dropped.
pub(crate) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the directory, and removes those of killed runs.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let runs = target.join("testbed/runs");
        fs::create_dir_all(&runs).with_context(|| format!("cannot create {}", runs.display()))?;
        sweep(&runs);
        let own = std::process::id();
        let free = (0..).map(|n| runs.join(format!("{own}-{n}"))).find(|path| !path.exists());
        let path = free.context("no free name for a run")?;
        // The scripts contain a part of the caller's environment, so the directory is private.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.file(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split_once('-')).map(|(pid, _)| pid);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("xtask: cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_directories_of_their_own_and_leave_none_behind() {
        let target = tempfile::tempdir().expect("a directory");
        let (one, two) = (RunDir::create(target.path()), RunDir::create(target.path()));
        let (one, two) = (one.expect("one"), two.expect("two"));
        assert_ne!(one.path(), two.path());
        one.write("command.sh", "true").expect("writable");
        let paths = [one.path().to_owned(), two.path().to_owned()];
        drop((one, two));
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_a_living_one_is_not_touched() {
        let target = tempfile::tempdir().expect("a directory");
        let runs = target.path().join("testbed/runs");
        // Above the kernel's largest pid; and process 1, which always lives.
        let (dead, alive) = (runs.join("4194305-0"), runs.join("1-0"));
        for path in [&dead, &alive] {
            fs::create_dir_all(path).expect("a directory");
        }
        let _run = RunDir::create(target.path()).expect("a run");
        assert!(!dead.exists());
        assert!(alive.exists());
    }
}
