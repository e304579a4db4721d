//! The peak use of a process's memory, descriptors and threads during an attack. It must not slow the process.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// The interval of samples, for values without a peak in the kernel.
const INTERVAL: Duration = Duration::from_millis(50);

/// Watches a process from `start` to `read`.
#[derive(Debug)]
pub struct Gauge {
    pid: i32,
    before_mib: u64,
    seen: Arc<Seen>,
    watch: JoinHandle<()>,
}

/// Values without a peak in the kernel.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicBool,
    descriptors: AtomicU64,
    threads: AtomicU64,
}

/// The maximum use of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    /// RSS before, in MiB.
    pub before_mib: u64,
    /// Peak RSS in MiB; from the kernel, exact to a page.
    pub peak_mib: u64,
    /// Open descriptors, sampled every 50 ms.
    pub descriptors: u64,
    /// Threads, sampled every 50 ms.
    pub threads: u64,
}

impl Gauge {
    /// Starts to watch. Resets the kernel's own peak of the process.
    ///
    /// # Panics
    /// If the process does not exist, or may not be inspected.
    pub fn start(pid: i32) -> Gauge {
        // 5 resets VmHWM to VmRSS, see proc_pid_clear_refs(5).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process lives");
        let before_mib = status(pid, "VmRSS:") / 1024;
        let seen = Arc::<Seen>::default();
        let watched = Arc::clone(&seen);
        let watch = thread::spawn(move || {
            while !watched.done.load(Ordering::Relaxed) {
                watched.descriptors.fetch_max(open_files(pid), Ordering::Relaxed);
                watched.threads.fetch_max(status(pid, "Threads:"), Ordering::Relaxed);
                sleep(INTERVAL);
            }
        });
        Gauge { pid, before_mib, seen, watch }
    }

    /// The maximum use so far.
    pub fn read(self) -> Peak {
        self.seen.done.store(true, Ordering::Relaxed);
        let _ = self.watch.join(); // the thread does not panic
        Peak {
            before_mib: self.before_mib,
            peak_mib: status(self.pid, "VmHWM:") / 1024,
            descriptors: self.seen.descriptors.load(Ordering::Relaxed),
            threads: self.seen.threads.load(Ordering::Relaxed),
        }
    }
}

/// The number of a process's open descriptors; 0 if the process is gone.
fn open_files(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// A number of `/proc/PID/status`, in its unit; 0 if the process is gone.
fn status(pid: i32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
