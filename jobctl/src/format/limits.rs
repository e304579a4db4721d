//! Limits in words: the contract has their values as the kernel writes them.

use std::time::Duration;

use job_api::units::{Cpus, MAX, parse_duration, show_cpus, show_rate, show_size};
use job_api::v1::{IoMax, Job, Limit, LimitTable, Limits};

use crate::format::rlimit::{Unit, rlimit_unit};
use crate::format::time;

pub(crate) const NO_LIMIT: &str = "no limit";

/// `64 MiB` for the `67108864` of memory.max; what is not understood is left as it is.
pub(crate) fn in_words(name: &str, value: &str) -> String {
    parsed(name, value).unwrap_or_else(|| value.to_owned())
}

fn parsed(name: &str, value: &str) -> Option<String> {
    if value == "max" {
        return Some(NO_LIMIT.into());
    }
    match name.split_once(' ').unwrap_or((name, "")) {
        ("cpu.max", _) => {
            let (quota, period) = value.split_once(' ')?;
            let period_usec = period.parse().ok().filter(|period| *period > 0)?;
            Some(show_cpus(Cpus { quota_usec: number(quota)?, period_usec }))
        }
        ("memory.max" | "memory.high" | "memory.swap.max" | "output_limit" | "job_dir", _) => {
            value.parse().ok().map(show_size)
        }
        ("io.max", _) => io_max(value),
        ("time_limit" | "cpu_time_limit", _) => parse_duration(value).ok().map(time::in_words),
        ("rlimit", name) => rlimit(rlimit_unit(name)?, value),
        _ => None,
    }
}

/// A number, or the kernel's words for none.
fn number(text: &str) -> Option<u64> {
    if matches!(text, "max" | "unlimited") { Some(MAX) } else { text.parse().ok() }
}

/// `rbps=5242880 wbps=max riops=max wiops=max` as `read 5 MiB/s`.
fn io_max(value: &str) -> Option<String> {
    let mut rates = Vec::new();
    for pair in value.split_whitespace() {
        let (key, value) = pair.split_once('=')?;
        match (key, number(value)?) {
            (_, MAX) => {}
            ("rbps", rate) => rates.push(format!("read {}", show_rate(rate))),
            ("wbps", rate) => rates.push(format!("write {}", show_rate(rate))),
            ("riops", rate) => rates.push(format!("{rate} reads/s")),
            ("wiops", rate) => rates.push(format!("{rate} writes/s")),
            _ => return None,
        }
    }
    if rates.is_empty() { Some(NO_LIMIT.into()) } else { Some(rates.join(", ")) }
}

/// `1024 4096`, soft and hard.
fn rlimit(unit: Unit, value: &str) -> Option<String> {
    let one = |value: u64| match (value, unit) {
        (MAX, _) => NO_LIMIT.to_owned(),
        (bytes, Unit::Bytes) => show_size(bytes),
        (seconds, Unit::Seconds) => time::in_words(Duration::from_secs(seconds)),
        (count, Unit::Number) => count.to_string(),
    };
    let (soft, hard) = value.split_once([' ', ':']).unwrap_or((value, value));
    let (soft, hard) = (number(soft)?, number(hard)?);
    Some(if soft == hard { one(soft) } else { format!("{} (hard {})", one(soft), one(hard)) })
}

/// The limit of that name as it stands now, if the job has it: what was applied, else asked.
pub(crate) fn limit<'a>(job: &'a Job, name: &str) -> Option<&'a Limit> {
    job.limits.iter().find(|limit| limit.name == name)
}

/// What a limit is set to, as the kernel writes it; `None` where nobody has said anything.
pub(crate) fn value(limit: &Limit) -> Option<&str> {
    limit.applied.as_deref().or(Some(limit.requested.as_str())).filter(|value| !value.is_empty())
}

/// A limit that limits, in words; `None` for one that does not.
pub(crate) fn bound(job: &Job, name: &str) -> Option<String> {
    let value = value(limit(job, name)?)?;
    Some(in_words(name, value)).filter(|words| words != NO_LIMIT)
}

/// Name and value of each limit of a table, in words.
pub(crate) fn table(table: &LimitTable) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    if let Some(limits) = &table.limits {
        rows.extend(kernel_limits(limits));
    }
    let time = |name: &str, time: Option<&prost_types::Duration>| {
        let time = Duration::try_from(*time?).ok()?;
        Some((name.to_owned(), time::in_words(time)))
    };
    rows.extend(time("time_limit", table.time_limit.as_ref()));
    rows.extend(time("cpu_time_limit", table.cpu_time_limit.as_ref()));
    if table.output_limit_bytes > 0 {
        rows.push(("output_limit".into(), show_size(table.output_limit_bytes)));
    }
    rows
}

fn kernel_limits(limits: &Limits) -> Vec<(String, String)> {
    let size = |bytes: u64| if bytes == MAX { NO_LIMIT.to_owned() } else { show_size(bytes) };
    let count = |n: u64| if n == MAX { NO_LIMIT.to_owned() } else { n.to_string() };
    let cpus = limits.cpu_max_quota_usec.map(|quota_usec| {
        let period_usec = limits.cpu_max_period_usec.unwrap_or(Cpus::MAX.period_usec).max(1);
        show_cpus(Cpus { quota_usec, period_usec })
    });
    let mut rows: Vec<(String, String)> = [
        ("cpu.max", cpus),
        ("cpu.weight", limits.cpu_weight.map(count)),
        ("memory.max", limits.memory_max_bytes.map(size)),
        ("memory.high", limits.memory_high_bytes.map(size)),
        ("memory.swap.max", limits.memory_swap_max_bytes.map(size)),
        ("pids.max", limits.pids_max.map(count)),
        ("io.weight", limits.io_weight.map(count)),
        ("job_dir", limits.job_dir_bytes.map(size)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect();
    rows.extend(limits.io_max.iter().filter_map(|io| {
        let disk = if io.device.is_empty() { &io.path } else { &io.device };
        Some((format!("io.max {disk}").trim_end().to_owned(), io_max(&io_line(io))?))
    }));
    rows.extend(limits.rlimits.iter().filter_map(|limit| {
        let value = format!("{} {}", limit.soft, limit.hard);
        Some((format!("rlimit {}", limit.name), rlimit(rlimit_unit(&limit.name)?, &value)?))
    }));
    rows
}

/// As the kernel writes it.
fn io_line(io: &IoMax) -> String {
    [("rbps", io.rbps), ("wbps", io.wbps), ("riops", io.riops), ("wiops", io.wiops)]
        .map(|(key, rate)| format!("{key}={}", rate.unwrap_or(MAX)))
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::Rlimit;

    #[test]
    fn the_kernels_terms_are_put_into_words() {
        for (name, value, words) in [
            ("cpu.max", "20000 100000", "0.2 CPUs"),
            ("cpu.max", "max 100000", "no limit"),
            ("cpu.weight", "100", "100"),
            ("memory.max", "67108864", "64 MiB"),
            ("memory.swap.max", "0", "0 B"),
            ("memory.high", "max", "no limit"),
            ("pids.max", "10", "10"),
            ("io.max 8:0", "rbps=5242880 wbps=max riops=max wiops=7", "read 5 MiB/s, 7 writes/s"),
            ("io.max 8:0", "rbps=max wbps=max riops=max wiops=max", "no limit"),
            ("rlimit nofile", "1024 4096", "1024 (hard 4096)"),
            ("rlimit fsize", "1048576 1048576", "1 MiB"),
            ("rlimit cpu", "60 max", "1m (hard no limit)"),
            ("time_limit", "600s", "10m"),
            ("cpu_time_limit", "1.5s", "1s 500ms"),
            ("output_limit", "1048576", "1 MiB"),
        ] {
            assert_eq!(in_words(name, value), words, "{name} {value}");
        }
    }

    #[test]
    fn what_is_not_understood_is_shown_as_it_is() {
        for (name, value) in [
            ("cpu.max", "20000 0"),
            ("cpu.max", "x"),
            ("memory.max", "lots"),
            ("io.max 8:0", "rbps"),
            ("io.max 8:0", "latency=5"),
            ("rlimit rss", "5"),
            ("new.limit", "7 8"),
        ] {
            assert_eq!(in_words(name, value), value, "{name}");
        }
    }

    #[test]
    fn a_table_has_only_what_somebody_has_set() {
        assert!(table(&LimitTable::default()).is_empty());
        let full = LimitTable {
            limits: Some(Limits {
                cpu_max_quota_usec: Some(50_000),
                memory_max_bytes: Some(64 << 20),
                io_max: vec![IoMax { rbps: Some(5 << 20), ..IoMax::default() }],
                rlimits: vec![Rlimit { name: "core".into(), soft: 0, hard: 0 }],
                ..Limits::default()
            }),
            time_limit: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            ..LimitTable::default()
        };
        let rows: Vec<String> =
            table(&full).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "cpu.max=0.5 CPUs",
            "memory.max=64 MiB",
            "io.max=read 5 MiB/s",
            "rlimit core=0 B",
            "time_limit=1h",
        ];
        assert_eq!(rows, expected);
    }
}
