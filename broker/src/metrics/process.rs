//! The process itself, under the names that every client library of Prometheus uses. What /proc does not tell is left
//! out; nothing here may fail.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use crate::metrics::text::Text;

/// Writes what /proc/self says now.
pub(crate) fn write(text: &mut Text) {
    if let Some(stat) = stat() {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        let cpu = (stat.user + stat.system) as f64 / ticks;
        text.counter("process_cpu_seconds_total", "CPU time, user and system.", cpu);
        text.gauge("process_threads", "Threads.", stat.threads);
        text.gauge("process_virtual_memory_bytes", "Virtual memory.", stat.virtual_bytes);
        let resident = stat.resident_pages.saturating_mul(page.unsigned_abs());
        text.gauge("process_resident_memory_bytes", "Resident memory.", resident);
        if let Some(boot) = boot_time() {
            let start = boot as f64 + stat.start as f64 / ticks;
            text.gauge("process_start_time_seconds", "Start, in seconds since 1970.", start);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open descriptors.", open.count());
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.gauge("process_max_fds", "Limit of descriptors.", soft);
    }
}

struct Stat {
    user: u64,
    system: u64,
    threads: u64,
    start: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// proc_pid_stat(5): the second field is in parentheses and may hold anything.
fn stat() -> Option<Stat> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.trim().parse().ok(); // as the manual page counts
    Some(Stat {
        user: number(14)?,
        system: number(15)?,
        threads: number(20)?,
        start: number(22)?,
        virtual_bytes: number(23)?,
        resident_pages: number(24)?,
    })
}

/// Seconds since 1970.
fn boot_time() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Format;

    #[test]
    fn this_process_has_memory_descriptors_and_a_start() {
        let mut text = Text::new(Format::Plain);
        write(&mut text);
        let text = text.finish();
        for name in
            ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
        {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            assert!(
                line.is_some_and(|value| value.parse::<f64>().is_ok_and(|v| v > 0.0)),
                "{text}"
            );
        }
    }
}
