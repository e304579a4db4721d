//! How long to wait, and how large a load is.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a slow and busy machine, unless it is broken.
pub const TIMEOUT: Duration = Duration::from_secs(90);

/// The most attempts at a check that a stalled host can spoil.
const TRIALS: usize = 5;

/// Whether this is the testbed VM, where one slow processor does everything.
pub fn is_testbed() -> bool {
    std::env::var_os("JOB_TESTBED").is_some()
}

/// A load: as much as shows the behaviour here, less of it in the VM.
pub fn scaled<T>(here: T, in_vm: T) -> T {
    if is_testbed() { in_vm } else { here }
}

/// Polls for a condition that has no event (a process that is gone, a file that grows), and returns
/// its value.
///
/// # Panics
/// After [`TIMEOUT`], saying `what` did not come.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5)); // between two looks
    }
}

/// The same for a condition that an asynchronous call checks.
///
/// # Panics
/// As [`until`].
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two questions
    }
}

/// Repeats a trial until its result is right, five times at most, and returns the last result. A slow
/// host spoils one or two trials, a wrong program all of them.
pub async fn trials<T>(mut trial: impl AsyncFnMut() -> T, is_right: impl Fn(&T) -> bool) -> T {
    for _ in 1..TRIALS {
        let found = trial().await;
        if is_right(&found) {
            return found;
        }
    }
    trial().await
}

/// Whether a process runs. One that has ended and waits to be reaped by its parent does not.
pub fn is_running(pid: i32) -> bool {
    // The state follows the name, which may hold anything, see proc_pid_stat(5).
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
