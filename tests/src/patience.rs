//! How long to wait, and how much to load.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes that works, on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Whether this is the testbed VM, where one slow processor does everything.
pub fn is_testbed() -> bool {
    std::env::var_os("JOB_TESTBED").is_some()
}

/// A load: as much as shows the behaviour here, less of it in the VM.
pub fn scaled<T>(here: T, in_vm: T) -> T {
    if is_testbed() { in_vm } else { here }
}

/// Waits for what nobody can be asked to tell us (a process that is gone, a file that grows), and
/// answers with it.
///
/// # Panics
/// After [`PATIENCE`], saying `what` did not come.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5)); // between two looks
    }
}

/// Whether a process runs. One that has ended and waits to be reaped by its parent does not.
pub fn lives(pid: i32) -> bool {
    // The state follows the name, which may hold anything, see proc_pid_stat(5).
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
