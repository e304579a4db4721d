//! Facts about this host and its processes from the kernel: boot id, clocks, start times, CPUs. It must not cache
//! anything that can change while the broker runs.

use std::fs;
use std::io;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// What says nothing about what was asked for: this process, or its host, has no descriptor or no memory.
pub fn is_shortage(e: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    e.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

/// The boot id of this host: `/proc/sys/kernel/random/boot_id`, random(4).
pub type BootId = [u8; 16];

/// Reads the boot id.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn boot_id() -> io::Result<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    uuid::Uuid::try_parse(text.trim())
        .map(|uuid| *uuid.as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// The start time of a process in clock ticks since boot, field 22 of proc_pid_stat(5). Boot id, pid and start
/// time together identify a process.
///
/// # Errors
/// `NotFound` if the process does not exist.
pub fn start_time(pid: u32) -> io::Result<u64> {
    stat_field(pid, 22)
}

/// Whether a process is ending: it executes nothing any more and has closed its files, or is about to. Process 1 of a pid
/// namespace stays so until all others in it have ended. PF_EXITING in field 9 of proc_pid_stat(5).
///
/// # Errors
/// `NotFound` if the process does not exist.
pub fn is_exiting(pid: u32) -> io::Result<bool> {
    const PF_EXITING: u64 = 0x4;
    Ok(stat_field(pid, 9)? & PF_EXITING != 0)
}

/// A number in proc_pid_stat(5), by the number that the manual page gives it.
fn stat_field(pid: u32, number: usize) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in field 2 may contain spaces and parentheses: count the fields after the last ")".
    stat.rsplit_once(") ")
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(number - 3))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}"))
        })
}

/// Converts a [`start_time`] to the clock of [`since_boot`], with a resolution of 10 ms.
pub fn since_boot_of(start_time: u64) -> Duration {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().filter(|ticks| *ticks > 0);
    let nanos = 1_000_000_000 / ticks.map_or(100, i64::unsigned_abs);
    Duration::from_nanos(start_time.saturating_mul(nanos))
}

/// The current time, in nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The time since boot, suspend included (CLOCK_BOOTTIME). Nobody can set this clock.
pub fn since_boot() -> Duration {
    // clock_gettime(2) fails only for an unknown clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// How long this process has run.
pub fn process_age() -> Duration {
    let started = start_time(std::process::id()).map_or(Duration::ZERO, since_boot_of);
    since_boot().saturating_sub(started)
}

/// The number of online CPUs of this host, read once. (std's available parallelism is the share of this process,
/// and costs 20 system calls each time.)
pub fn cpus() -> u64 {
    static CPUS: LazyLock<u64> = LazyLock::new(|| {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        online.and_then(|cpus| u64::try_from(cpus).ok()).unwrap_or(1)
    });
    *CPUS
}

/// Whether this host has an active swap area, proc_swaps(5).
pub(crate) fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1
}

/// Host name and kernel release, uname(2).
pub fn uname() -> (String, String) {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    (read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/osrelease"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_its_start_time() {
        let own = std::process::id();
        assert_eq!(start_time(own).unwrap(), start_time(own).unwrap());
        assert!(start_time(1).unwrap() <= start_time(own).unwrap());
    }

    #[test]
    fn a_process_has_been_started_before_now_and_since_the_host_was() {
        let child =
            std::process::Command::new("sleep").arg("0").spawn().unwrap().wait_with_output();
        assert!(child.unwrap().status.success());
        let born = since_boot_of(start_time(std::process::id()).unwrap());
        assert!(born > Duration::ZERO && born <= since_boot());
        assert!(since_boot() - born < Duration::from_secs(3600), "this test's own process");
    }

    #[test]
    fn a_process_that_runs_is_not_exiting_and_a_zombie_is() {
        assert!(!is_exiting(std::process::id()).unwrap());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while !is_exiting(child.id()).unwrap() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_not_there_is_not_found() {
        assert_eq!(start_time(u32::MAX >> 2).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
