//! The resource usage of a job as the kernel accounts for it: a dozen interface files, read on request. It must
//! not keep descriptors or history. Sources: cgroup-v2.rst; Documentation/accounting/psi.rst.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::model::usage::{IoUsage, Pressure, Usage};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Reads the cgroup of a job. Memory and disks are accounted for shim and workload together, CPU
/// and processes for the workload alone, as they are limited. A cgroup that is gone has used
/// nothing that anybody could tell. `has` knows the files that cgroups have on this host.
pub(crate) fn read(job: &Path, has: &dyn Fn(&str) -> bool) -> Usage {
    let Ok(directory) = File::open(job) else { return Usage::default() };
    let mut files = Files { directory, has, buffer: vec![0; 4096] };
    let mut usage = Usage {
        memory_current_bytes: files.number("memory.current"),
        memory_peak_bytes: files.number("memory.peak"),
        memory_swap_current_bytes: files.number("memory.swap.current"),
        pids_current: files.number("work/pids.current"),
        pids_peak: files.number("work/pids.peak"),
        pids_max_events: files.text("work/pids.events").and_then(|text| value(text, "max")),
        cpu_pressure: files.text("cpu.pressure").and_then(pressure),
        memory_pressure: files.text("memory.pressure").and_then(pressure),
        io_pressure: files.text("io.pressure").and_then(pressure),
        ..Usage::default()
    };
    if let Some(text) = files.text("work/cpu.stat") {
        cpu(&mut usage, text);
    }
    if let Some(text) = files.text("memory.events") {
        usage.memory_high_events = value(text, "high");
        usage.memory_max_events = value(text, "max");
        usage.memory_oom_kills = value(text, "oom_kill");
    }
    // Only kills in the workload count. If the job has none, the workload has none.
    if usage.memory_oom_kills.is_some_and(|kills| kills > 0) {
        let kills = files.text("work/memory.events").and_then(|text| value(text, "oom_kill"));
        usage.memory_oom_kills = kills.or(usage.memory_oom_kills);
    }
    if let Some(text) = files.text("io.stat") {
        usage.has_io = true;
        usage.io = io(text);
        usage.io.iter_mut().for_each(|disk| disk.name = name(&disk.device));
    }
    usage
}

pub(super) fn cpu(usage: &mut Usage, text: &str) {
    usage.cpu_usage_usec = value(text, "usage_usec");
    usage.cpu_user_usec = value(text, "user_usec");
    usage.cpu_system_usec = value(text, "system_usec");
    usage.cpu_nr_periods = value(text, "nr_periods");
    usage.cpu_nr_throttled = value(text, "nr_throttled");
    usage.cpu_throttled_usec = value(text, "throttled_usec");
}

/// The files of one cgroup, opened relative to its directory. A file costs 7 us (Linux 6.18): half for open(2),
/// a third for read(2). An open file would cost 3 us, and 4 KiB of kernel memory all the time.
struct Files<'a> {
    directory: File,
    has: &'a dyn Fn(&str) -> bool,
    buffer: Vec<u8>,
}

impl Files<'_> {
    /// `None` if this job's cgroup lacks the file: an older broker may have started the job.
    fn text(&mut self, name: &str) -> Option<&str> {
        if !(self.has)(name.strip_prefix("work/").unwrap_or(name)) {
            return None;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.directory, name, flags, Mode::empty()).ok()?);
        let mut length = 0;
        loop {
            // ENODEV if the cgroup has just been removed, EOPNOTSUPP if pressure is switched off.
            length += file.read(&mut self.buffer[length..]).ok()?;
            // The kernel produces the file in one piece: a short read is complete.
            if length < self.buffer.len() {
                return str::from_utf8(&self.buffer[..length]).ok();
            }
            self.buffer.resize(2 * length, 0);
        }
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        self.text(name)?.trim_end().parse().ok()
    }
}

/// A value of a flat keyed file: one `key value` a line.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// Parses `io.stat`. Some kernels, such as 5.15, write the numbers of unused devices in front of the next line;
/// others write lines with only the device.
pub(super) fn io(text: &str) -> Vec<IoUsage> {
    let mut disks = Vec::new();
    for line in text.lines() {
        let mut disk = IoUsage::default();
        let mut used = false;
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                None => disk.device = word.to_owned(),
                Some((key, number)) => used |= disk.set(key, number),
            }
        }
        if used {
            disks.push(disk);
        }
    }
    disks
}

impl IoUsage {
    /// Whether the key is one of the four counters; the kernel also writes `dbytes`, `cost.usage` and others.
    fn set(&mut self, key: &str, number: &str) -> bool {
        let Ok(number) = number.parse() else { return false };
        let counter = match key {
            "rbytes" => &mut self.rbytes,
            "wbytes" => &mut self.wbytes,
            "rios" => &mut self.rios,
            "wios" => &mut self.wios,
            _ => return false,
        };
        *counter = number;
        true
    }
}

/// The name of a device, from the link `/sys/dev/block/M:m`. sysfs writes a slash in a name as "!".
fn name(device: &str) -> String {
    let target = fs::read_link(Path::new("/sys/dev/block").join(device)).unwrap_or_default();
    target.file_name().unwrap_or_default().to_string_lossy().replace('!', "/")
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| -> Option<(u64, f64)> {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let word =
            |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let percent: f64 = word("avg10")?.parse().ok()?;
        percent.is_finite().then_some((word("total")?.parse().ok()?, percent))
    };
    let (some_total_usec, some_avg10) = line("some")?;
    let (full_total_usec, full_avg10) = line("full").unzip();
    Some(Pressure { some_total_usec, some_avg10, full_total_usec, full_avg10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_cpu_controller_there_is_time_but_no_throttling() {
        let mut usage = Usage::default();
        cpu(
            &mut usage,
            "usage_usec 1523\nuser_usec 1000\nsystem_usec 523\ncore_sched.force_idle_usec 0\n",
        );
        assert_eq!((usage.cpu_usage_usec, usage.cpu_system_usec), (Some(1523), Some(523)));
        assert_eq!((usage.cpu_nr_periods, usage.cpu_throttled_usec), (None, None));
    }

    #[test]
    fn throttling_is_told_from_bursts() {
        // 6.18
        let text = "usage_usec 2003117\nuser_usec 1990000\nsystem_usec 13117\nnice_usec 0\n\
                    core_sched.force_idle_usec 0\nnr_periods 101\nnr_throttled 99\n\
                    throttled_usec 7912345\nnr_bursts 3\nburst_usec 17\n";
        let mut usage = Usage::default();
        cpu(&mut usage, text);
        assert_eq!(usage.cpu_nr_periods, Some(101));
        assert_eq!(usage.cpu_nr_throttled, Some(99));
        assert_eq!(usage.cpu_throttled_usec, Some(7_912_345));
    }

    #[test]
    fn an_event_is_not_taken_for_another_with_the_same_beginning() {
        let text = "low 0\nhigh 4\nmax 12\noom_group_kill 1\noom 70962\noom_kill 2\n";
        assert_eq!(value(text, "oom_kill"), Some(2));
        assert_eq!(value(text, "oom"), Some(70962));
        assert_eq!(value(text, "max"), Some(12));
        assert_eq!(value(text, "sock_throttled"), None);
    }

    #[test]
    fn discards_and_costs_of_io_are_passed_over() {
        // 6.1, with io.cost
        let text = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=7 dios=3 \
                    cost.usage=12 cost.wait=1\n254:0 rbytes=0 wbytes=4096 rios=0 wios=1 dbytes=0 dios=0\n";
        let disks = io(text);
        assert_eq!(disks.len(), 2);
        assert_eq!(
            (disks[0].device.as_str(), disks[0].wbytes, disks[0].wios),
            ("8:16", 314_773_504, 353)
        );
        assert_eq!((disks[1].rbytes, disks[1].wbytes), (0, 4096));
    }

    #[test]
    fn devices_without_values_are_not_in_use() {
        // 5.15
        let text = "7:1 7:0 8:0 rbytes=90112 wbytes=0 rios=10 wios=0 dbytes=0 dios=0\n7:2 \n";
        let disks = io(text);
        assert_eq!(disks.len(), 1);
        assert_eq!((disks[0].device.as_str(), disks[0].rios), ("8:0", 10));
        assert_eq!(io("253:0\n11:0 cost.usage=0\n"), []);
    }

    #[test]
    fn pressure_has_a_second_line_or_not() {
        // 5.15 for the CPU, 6.18 for memory
        let cpu = pressure("some avg10=12.34 avg60=5.00 avg300=1.11 total=98765\n").unwrap();
        assert_eq!((cpu.some_avg10, cpu.some_total_usec), (12.34, 98765));
        assert_eq!((cpu.full_avg10, cpu.full_total_usec), (None, None));
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\n\
                    full avg10=1.50 avg60=0.00 avg300=0.00 total=7\n";
        let memory = pressure(text).unwrap();
        assert_eq!((memory.full_avg10, memory.full_total_usec), (Some(1.5), Some(7)));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn a_cgroup_that_is_gone_tells_nothing() {
        assert_eq!(read(Path::new("/sys/fs/cgroup/absent/job"), &|_| true), Usage::default());
    }

    #[test]
    fn files_are_read_whole_and_what_is_missing_is_absent() {
        let job = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(job.path().join(name), text).unwrap();
        fs::create_dir(job.path().join("work")).unwrap();
        write("memory.current", "4096\n");
        write("memory.peak", "8192\n");
        write("memory.events", "low 0\nhigh 1\nmax 2\noom 0\noom_kill 5\n");
        write("work/memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 4\n");
        write("work/pids.current", "3\n");
        write("work/pids.events", "max 9\n");
        let many: String = (0..500).map(|n| format!("0:{n} rbytes=1 wbytes=2\n")).collect();
        write("io.stat", &many);
        let usage = read(job.path(), &|_| true);
        assert_eq!(usage.memory_current_bytes, Some(4096));
        assert_eq!(usage.memory_swap_current_bytes, None);
        assert_eq!((usage.memory_oom_kills, usage.memory_max_events), (Some(4), Some(2)));
        assert_eq!((usage.pids_current, usage.pids_max_events), (Some(3), Some(9)));
        assert_eq!((usage.cpu_usage_usec, usage.cpu_pressure), (None, None));
        assert!(usage.has_io && usage.io.len() == 500 && usage.io[499].device == "0:499");
    }

    #[test]
    fn what_was_stored_by_another_version_is_read() {
        let stored =
            r#"{"cpu_usage_usec":5,"some_new_field":1,"io":[{"device":"8:0","rbytes":1}]}"#;
        let usage: Usage = serde_json::from_str(stored).unwrap();
        assert_eq!((usage.cpu_usage_usec, usage.io[0].rbytes, usage.pids_peak), (Some(5), 1, None));
        let text = serde_json::to_string(&usage).unwrap();
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), usage);
    }
}
