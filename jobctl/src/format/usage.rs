//! What a job uses and has used, in words.

use std::time::Duration;

use job_api::units::show_size;
use job_api::v1::{Job, Usage};

use crate::format::{limits, state, time};

/// `1m 2s 500ms (user 1m, system 2s 500ms)`.
pub(crate) fn cpu_time(usage: &Usage) -> Option<String> {
    let whole = time(usage.cpu_usage_usec?);
    let parts = usage.cpu_user_usec.zip(usage.cpu_system_usec);
    Some(match parts {
        Some((user, system)) => format!("{whole} (user {}, system {})", time(user), time(system)),
        None => whole,
    })
}

/// `40 of 50 periods, 3s 200ms`, of a job that cpu.max has held up.
pub(crate) fn throttled(usage: &Usage) -> Option<String> {
    let held = usage.cpu_nr_throttled.filter(|held| *held > 0)?;
    let periods = usage.cpu_nr_periods.map_or_else(String::new, |all| format!(" of {all}"));
    let waited = usage.cpu_throttled_usec.map_or_else(String::new, |t| format!(", {}", time(t)));
    Some(format!("{held}{periods} periods{waited}"))
}

/// `12 MiB, 64 MiB at its peak`; of an ended job the peak alone says something.
pub(crate) fn memory(usage: &Usage, is_live: bool) -> Option<String> {
    now_and_peak(
        usage.memory_current_bytes.filter(|_| is_live).map(show_size),
        usage.memory_peak_bytes.map(show_size),
    )
}

/// `3, 10 at its peak`.
pub(crate) fn pids(usage: &Usage, is_live: bool) -> Option<String> {
    now_and_peak(
        usage.pids_current.filter(|_| is_live).map(|n| n.to_string()),
        usage.pids_peak.map(|n| n.to_string()),
    )
}

/// `12 MiB in 40 files`, of its own directory, where that is limited.
pub(crate) fn job_dir(usage: &Usage) -> Option<String> {
    let (bytes, inodes) = usage.job_dir_bytes.zip(usage.job_dir_inodes)?;
    let files = inodes.saturating_sub(1); // itself is one
    Some(format!("{} in {files} files and directories", show_size(bytes)))
}

fn now_and_peak(now: Option<String>, peak: Option<String>) -> Option<String> {
    match (now, peak) {
        (Some(now), Some(peak)) => Some(format!("{now}, {peak} at its peak")),
        (None, Some(peak)) => Some(format!("{peak} at its peak")),
        (now, None) => now,
    }
}

/// CPUS, CPU-TIME, MEMORY, PEAK and PIDS: limits and use in a row of a table, without spaces: `0.5`, `1m2s`, `12MiB/64MiB`, `64MiB`,
/// `3/10`; a limit that there is not is left out, and what is not known is `-`, as is what an ended job
/// uses now.
pub(crate) fn cells(job: &Job) -> [String; 5] {
    let usage = job.usage.clone().unwrap_or_default();
    let is_live = state::is_live(job);
    let dense = |words: String| words.replace(' ', "");
    let of_limit = |now: Option<String>, limit: &str| {
        let limit = limits::bound(job, limit).map(|limit| format!("/{}", dense(limit)));
        now.map(|now| dense(now) + &limit.unwrap_or_default())
    };
    let cpus = limits::bound(job, "cpu.max")
        .and_then(|words| words.split_whitespace().next().map(str::to_owned));
    [
        cpus,
        usage.cpu_usage_usec.map(time).map(dense),
        of_limit(usage.memory_current_bytes.filter(|_| is_live).map(show_size), "memory.max"),
        usage.memory_peak_bytes.map(show_size).map(dense),
        of_limit(usage.pids_current.filter(|_| is_live).map(|n| n.to_string()), "pids.max"),
    ]
    .map(|cell| cell.unwrap_or_else(|| "-".to_owned()))
}

fn time(usec: u64) -> String {
    time::in_words(Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::Limit;
    use job_api::v1::job::State;

    fn job() -> Job {
        let limit = |name: &str, value: &str| Limit {
            name: name.into(),
            requested: value.into(),
            applied: Some(value.into()),
            ..Limit::default()
        };
        Job {
            state: State::Running.into(),
            limits: vec![
                limit("cpu.max", "50000 100000"),
                limit("memory.max", "67108864"),
                limit("pids.max", "max"),
            ],
            usage: Some(Usage {
                cpu_usage_usec: Some(62_500_000),
                cpu_user_usec: Some(60_000_000),
                cpu_system_usec: Some(2_500_000),
                cpu_nr_periods: Some(50),
                cpu_nr_throttled: Some(40),
                cpu_throttled_usec: Some(3_200_000),
                memory_current_bytes: Some(12 << 20),
                memory_peak_bytes: Some(64 << 20),
                pids_current: Some(3),
                ..Usage::default()
            }),
            ..Job::default()
        }
    }

    #[test]
    fn use_is_told_in_words() {
        let usage = job().usage.expect("has one");
        assert_eq!(cpu_time(&usage).as_deref(), Some("1m 2s 500ms (user 1m, system 2s 500ms)"));
        assert_eq!(throttled(&usage).as_deref(), Some("40 of 50 periods, 3s 200ms"));
        assert_eq!(memory(&usage, true).as_deref(), Some("12 MiB, 64 MiB at its peak"));
        assert_eq!(memory(&usage, false).as_deref(), Some("64 MiB at its peak"));
        assert_eq!(pids(&usage, true).as_deref(), Some("3"));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_made_up() {
        let nothing = Usage::default();
        assert_eq!(cpu_time(&nothing), None);
        assert_eq!(throttled(&nothing), None);
        assert_eq!(memory(&nothing, true), None);
        assert_eq!(cells(&Job::default()), ["-"; 5]);
    }

    #[test]
    fn cells_have_the_limit_beside_the_use() {
        assert_eq!(cells(&job()), ["0.5", "1m2s500ms", "12MiB/64MiB", "64MiB", "3"]);
        let ended = Job { state: State::Finished.into(), ..job() };
        assert_eq!(cells(&ended), ["0.5", "1m2s500ms", "-", "64MiB", "-"]);
    }
}
