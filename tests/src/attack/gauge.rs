//! What a process takes of its host while something happens to it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// Between two looks at what has no peak in the kernel.
const INTERVAL: Duration = Duration::from_millis(50);

/// Watches a process from its start until it is read.
#[derive(Debug)]
pub struct Gauge {
    pid: i32,
    before_mib: u64,
    seen: Arc<Seen>,
    watch: JoinHandle<()>,
}

/// What the kernel keeps no peak of.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicBool,
    descriptors: AtomicU64,
    threads: AtomicU64,
}

/// What a process had at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    /// Resident, before, in MiB.
    pub before_mib: u64,
    /// Resident, at its highest, in MiB; from the kernel, to the page.
    pub peak_mib: u64,
    /// Open, as seen every 50 ms.
    pub descriptors: u64,
    /// The same.
    pub threads: u64,
}

impl Gauge {
    /// From now on. The kernel's own peak of a process is set back.
    ///
    /// # Panics
    /// When there is no such process, or it is not ours to look at.
    pub fn start(pid: i32) -> Gauge {
        // 5 sets VmHWM back to VmRSS, see proc_pid_clear_refs(5).
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

    /// What it was until now.
    pub fn read(self) -> Peak {
        self.seen.done.store(true, Ordering::Relaxed);
        let _ = self.watch.join(); // it does not panic
        Peak {
            before_mib: self.before_mib,
            peak_mib: status(self.pid, "VmHWM:") / 1024,
            descriptors: self.seen.descriptors.load(Ordering::Relaxed),
            threads: self.seen.threads.load(Ordering::Relaxed),
        }
    }
}

/// How many descriptors a process has open; none when it is gone.
fn open_files(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// A number of `/proc/PID/status`, in its unit; 0 when the process is gone.
fn status(pid: i32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
