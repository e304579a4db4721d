//! The cgroup of a site's jobs, for its removal. It must not create the cgroup: the broker does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{ROOT_REASON, Site};
use crate::{process, root};

/// $1 is the cgroup. A process that joins after a write to cgroup.kill survives, hence the loop; rmdir(2) fails with
/// EBUSY until the last process is reaped.
const CLEAR: &str = r#"
    n=0
    while [ -d "$1" ]; do
        echo 1 >"$1/cgroup.kill"
        find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
        n=$((n + 1)); [ $n -lt 100 ] || exit 1
        [ ! -d "$1" ] || sleep 0.1
    done"#;

impl Site {
    /// Kills the remaining jobs and their shims, and removes their cgroups.
    ///
    /// # Errors
    /// A process survived for 10 s.
    pub(crate) fn clear_cgroup(&self) -> Result<()> {
        let cgroup = self.cgroup()?;
        if !cgroup.exists() {
            return Ok(());
        }
        let mut clear = root::script(CLEAR, &[&cgroup.to_string_lossy()], ROOT_REASON)?;
        process::check(clear.stderr(std::process::Stdio::null()))
            .with_context(|| format!("cannot clear {}", cgroup.display()))
    }

    /// The cgroup's path.
    ///
    /// # Errors
    /// There is no cgroup2 mount.
    pub(crate) fn cgroup(&self) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
        match cgroup2_mount(&mounts) {
            Some(mount) => Ok(mount.join(&self.config.jobs.cgroup)),
            None => bail!("no cgroup2 file system is mounted"),
        }
    }
}

/// The first cgroup2 mount in proc_pid_mountinfo(5): field 5 is the mount point, and the type follows the separator.
fn cgroup2_mount(mounts: &str) -> Option<&Path> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(Path::new))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_wherever_it_is() {
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 none rw";
        assert_eq!(cgroup2_mount(hybrid), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("1 0 8:1 / / rw - ext4 /dev/sda rw"), None);
    }
}
