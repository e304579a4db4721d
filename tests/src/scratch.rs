//! Unique names, ports and files, and the removal of those whose test process was killed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cgroup::Cgroup;
use crate::small_disk;
use crate::wait::is_running;

/// Of an environment's cgroup and directory; the test's process follows.
const PREFIX: &str = "job-tests-";

/// Removes what killed test processes have left, once in each process.
pub(crate) fn sweep() {
    static ONCE: Once = Once::new();
    let is_left = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        pid.is_some_and(|pid| !is_running(pid))
    };
    ONCE.call_once(|| {
        Cgroup::all().iter().filter(|cgroup| is_left(cgroup.path())).for_each(Cgroup::end);
        let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| is_left(path)) {
            small_disk::unmount(&path.join("state"));
            let _ = fs::remove_dir_all(path); // another process may be faster
        }
    });
}

/// Of an environment's cgroup, and the beginning of its directory's.
pub(crate) fn name() -> String {
    format!("{PREFIX}{}-{}", std::process::id(), next())
}

/// Another number each time, in this process.
pub(crate) fn next() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// From 20000 to 31999, from another place on in each process.
pub fn next_port() -> u16 {
    let step = std::process::id().wrapping_mul(37).wrapping_add(next() * 7);
    20_000 + u16::try_from(step % 12_000).expect("it is less than 12000")
}

/// By rename, as dpkg does it: the file may be one that is being executed. And by a process of its
/// own: what another thread starts while this one writes has the file open for writing for a moment,
/// and it could not be executed (ETXTBSY in execve(2)).
pub(crate) fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    let copied = Command::new("cp").arg(from).arg(&new).status().expect("there is a cp");
    assert!(copied.success(), "{} cannot be copied", from.display());
    let mode = fs::metadata(from).expect("it was copied").permissions();
    fs::set_permissions(&new, mode).and_then(|()| fs::rename(&new, to)).expect("it is ours");
}

/// Whatever the umask has made of it.
pub(crate) fn open_to_jobs(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}
