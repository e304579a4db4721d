//! What a line of `stats` says, and what is left out where a terminal is narrow.

use std::collections::HashMap;
use std::time::Duration;

use job_api::units::show_size;
use job_api::v1::{Job, Pressure, Usage};
use unicode_width::UnicodeWidthStr as _;

use crate::commands::query::ps;
use crate::format::limits;
use crate::print::table::Table;

/// What a cell is made of.
struct Line<'a> {
    job: &'a Job,
    now: &'a Usage,
    before: Option<&'a Usage>,
    id_length: usize,
}

struct Column {
    head: &'static str,
    /// Only with `-o wide`.
    is_wide: bool,
    /// On a narrow terminal the highest goes first; 0 stays.
    rank: u8,
    /// `None`, shown as `-`: the kernel does not say, or the job has no such thing.
    cell: fn(&Line<'_>) -> Option<String>,
}

const fn column(head: &'static str, rank: u8, cell: fn(&Line<'_>) -> Option<String>) -> Column {
    Column { head, is_wide: false, rank, cell }
}

const fn wide(head: &'static str, rank: u8, cell: fn(&Line<'_>) -> Option<String>) -> Column {
    Column { head, is_wide: true, rank, cell }
}

/// From left to right.
const COLUMNS: &[Column] = &[
    column("JOB", 0, |line| Some(line.name())),
    wide("ID", 20, |line| Some(line.job.id.clone())),
    wide("OWNER", 16, |line| Some(line.job.owner.clone())),
    wide("STATE", 15, |line| Some(ps::state(line.job))),
    column("CPU %", 0, |line| line.cpu().map(|share| format!("{share:.1}%"))),
    column("CPU TIME", 4, |line| line.now.cpu_usage_usec.map(cpu_time)),
    column("THROTTLED", 6, |line| line.throttled()),
    column("MEM / LIMIT", 0, |line| {
        let limit = line.limit("memory.max", |bytes| Some(show_size(bytes.parse().ok()?)));
        of(line.now.memory_current_bytes.map(show_size), limit)
    }),
    column("PEAK", 5, |line| line.now.memory_peak_bytes.map(show_size)),
    wide("SWAP", 14, |line| line.now.memory_swap_current_bytes.map(show_size)),
    column("PIDS / LIMIT", 1, |line| {
        let limit = line.limit("pids.max", |count| Some(count.to_owned()));
        of(line.now.pids_current.map(|count| count.to_string()), limit)
    }),
    column("IO READ / WRITE", 2, |line| line.io()),
    column("OOM", 7, |line| line.now.memory_oom_kills.map(|count| count.to_string())),
    column("OUTPUT", 3, |line| Some(show_size(line.now.stdout_bytes + line.now.stderr_bytes))),
    wide("PSI CPU", 11, |line| pressure(line.now.cpu_pressure.as_ref())),
    wide("PSI MEM", 12, |line| pressure(line.now.memory_pressure.as_ref())),
    wide("PSI IO", 13, |line| pressure(line.now.io_pressure.as_ref())),
];

impl Line<'_> {
    fn name(&self) -> String {
        match self.job.name.as_str() {
            "" => self.job.id.get(..self.id_length).unwrap_or(&self.job.id).to_owned(),
            name => name.to_owned(),
        }
    }

    /// Percent of one CPU between the two readings, by the broker's clock. An ended job has none.
    fn cpu(&self) -> Option<f64> {
        let before = self.before?;
        let wall = wall(self.now)?.checked_sub(wall(before)?)?;
        let used = self.now.cpu_usage_usec?.checked_sub(before.cpu_usage_usec?)?;
        (!wall.is_zero()).then(|| used as f64 / wall.as_micros() as f64 * 100.0)
    }

    fn throttled(&self) -> Option<String> {
        let (periods, throttled) = (self.now.cpu_nr_periods?, self.now.cpu_nr_throttled?);
        (periods > 0).then(|| format!("{:.0}%", throttled as f64 / periods as f64 * 100.0))
    }

    fn io(&self) -> Option<String> {
        let sum = |of: fn(&job_api::v1::IoUsage) -> u64| self.now.io.iter().map(of).sum();
        let (read, written) = (sum(|disk| disk.rbytes), sum(|disk| disk.wbytes));
        self.now.has_io.then(|| format!("{} / {}", show_size(read), show_size(written)))
    }

    /// What binds, else what was asked: a list does not say more. `max` where nothing does.
    fn limit(&self, name: &str, shown: impl Fn(&str) -> Option<String>) -> Option<String> {
        let limit = limits::limit(self.job, name)?;
        match limit.effective.as_deref().or_else(|| limits::value(limit))? {
            "max" => Some("max".to_owned()),
            value => shown(value),
        }
    }
}

/// `12 MiB / 64 MiB`, `3 / -`.
fn of(used: Option<String>, limit: Option<String>) -> Option<String> {
    Some(format!("{} / {}", used?, limit.as_deref().unwrap_or("-")))
}

fn wall(usage: &Usage) -> Option<Duration> {
    Duration::try_from(usage.wall_time?).ok()
}

/// Percent of the last 10 s in which some process stood still for want of it.
fn pressure(pressure: Option<&Pressure>) -> Option<String> {
    pressure.map(|pressure| format!("{:.1}%", pressure.some_avg10))
}

/// `0.25s`, `12.3s`, `3m 12s`, `5h 3m`, `2d 4h`.
fn cpu_time(usec: u64) -> String {
    match usec / 1_000_000 {
        0..10 => format!("{:.2}s", usec as f64 / 1e6),
        10..60 => format!("{:.1}s", usec as f64 / 1e6),
        s @ 60..3_600 => format!("{}m {}s", s / 60, s % 60),
        s @ 3_600..86_400 => format!("{}h {}m", s / 3_600, s / 60 % 60),
        s => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

/// With `width`, columns are left out until the lines fit; with `height`, lines, and the last one
/// says how many.
pub(crate) fn table(
    jobs: &[Job],
    before: &HashMap<String, Usage>,
    is_wide: bool,
    width: Option<usize>,
    height: Option<usize>,
) -> String {
    // The head takes one, and so does what says that there are more.
    let room = height.map_or(jobs.len(), |height| match height.saturating_sub(1) {
        lines if lines >= jobs.len() => jobs.len(),
        lines => lines.saturating_sub(1),
    });
    let (shown, hidden) = jobs.split_at(room);
    let nothing = Usage::default();
    let id_length = ps::id_length(jobs);
    let lines = shown.iter().map(|job| {
        let now = job.usage.as_ref().unwrap_or(&nothing);
        Line { job, now, before: before.get(&job.id), id_length }
    });
    let lines: Vec<Line<'_>> = lines.collect();
    let mut text = fitting(&lines, is_wide, width);
    if !hidden.is_empty() {
        text.push_str(&format!("... and {} more\n", hidden.len()));
    }
    text
}

fn fitting(lines: &[Line<'_>], is_wide: bool, width: Option<usize>) -> String {
    let mut columns: Vec<&Column> =
        COLUMNS.iter().filter(|column| is_wide || !column.is_wide).collect();
    loop {
        let text = layout(lines, &columns);
        let widest = text.lines().map(|line| line.width()).max().unwrap_or(0);
        let last = columns.iter().map(|column| column.rank).max().unwrap_or(0);
        if last == 0 || width.is_none_or(|width| widest <= width) {
            return text;
        }
        columns.retain(|column| column.rank != last);
    }
}

fn layout(lines: &[Line<'_>], columns: &[&Column]) -> String {
    let heads: Vec<&'static str> = columns.iter().map(|column| column.head).collect();
    let mut table = Table::new(&heads);
    for line in lines {
        let cell = |column: &&Column| (column.cell)(line).unwrap_or_else(|| "-".to_owned());
        table.row(columns.iter().map(cell).collect());
    }
    table.shown(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::{IoUsage, Limit};

    fn usage(cpu_usec: u64, wall_seconds: i64) -> Usage {
        Usage {
            cpu_usage_usec: Some(cpu_usec),
            cpu_nr_periods: Some(50),
            cpu_nr_throttled: Some(40),
            memory_current_bytes: Some(12 << 20),
            memory_peak_bytes: Some(20 << 20),
            memory_oom_kills: Some(0),
            pids_current: Some(3),
            io: [(1 << 20, 5 << 20), (0, 1 << 20)]
                .map(|(rbytes, wbytes)| IoUsage { rbytes, wbytes, ..IoUsage::default() })
                .into(),
            has_io: true,
            stdout_bytes: 1024,
            stderr_bytes: 512,
            wall_time: Some(prost_types::Duration { seconds: wall_seconds, nanos: 0 }),
            ..Usage::default()
        }
    }

    fn limit(name: &str, applied: &str, effective: Option<&str>) -> Limit {
        Limit {
            name: name.into(),
            applied: Some(applied.into()),
            effective: effective.map(String::from),
            ..Limit::default()
        }
    }

    fn job(name: &str) -> Job {
        Job {
            id: "0198c7f2-3d4e-7f01-8000-0123456789ab".into(),
            name: name.into(),
            limits: vec![
                limit("memory.max", "max", Some("67108864")),
                limit("pids.max", "max", None),
            ],
            usage: Some(usage(1_500_000, 11)),
            ..Job::default()
        }
    }

    fn shown(jobs: &[Job], width: Option<usize>, height: Option<usize>) -> Vec<String> {
        let before = HashMap::from([(job("").id, usage(1_000_000, 9))]);
        let text = table(jobs, &before, false, width, height);
        text.lines()
            .map(|line| line.split("  ").map(str::trim).collect::<Vec<_>>().join("|"))
            .map(|line| {
                line.split('|').filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join("|")
            })
            .collect()
    }

    #[test]
    fn a_line_has_the_rate_since_the_last_reading_and_totals_since_the_start() {
        let lines = shown(&[job("web")], None, None);
        assert_eq!(
            lines,
            [
                "JOB|CPU %|CPU TIME|THROTTLED|MEM / LIMIT|PEAK|PIDS / LIMIT|IO READ / WRITE|OOM|OUTPUT",
                "web|25.0%|1.50s|80%|12 MiB / 64 MiB|20 MiB|3 / max|1 MiB / 6 MiB|0|1.5 KiB",
            ]
        );
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_a_dash_and_never_a_zero() {
        let bare = Job { usage: Some(Usage::default()), limits: Vec::new(), ..job("") };
        assert_eq!(shown(&[bare], None, None)[1], "0198c7f2-3d4e-7f01|-|-|-|-|-|-|-|-|0 B");
    }

    #[test]
    fn in_a_list_the_limit_is_what_was_asked() {
        let asked =
            Limit { name: "memory.max".into(), requested: "67108864".into(), ..Limit::default() };
        let listed = Job { limits: vec![asked], ..job("web") };
        assert!(shown(&[listed], None, None)[1].contains("|12 MiB / 64 MiB|20 MiB|3 / -|"));
    }

    #[test]
    fn a_job_that_has_ended_has_no_rate() {
        let still = Line {
            job: &job(""),
            now: &usage(1_000_000, 9),
            before: Some(&usage(1_000_000, 9)),
            id_length: 8,
        };
        assert_eq!(still.cpu(), None);
    }

    #[test]
    fn a_narrow_terminal_loses_columns_and_keeps_lines_whole() {
        let lines = shown(&[job("web")], Some(80), None);
        assert_eq!(lines[0], "JOB|CPU %|CPU TIME|MEM / LIMIT|PIDS / LIMIT|IO READ / WRITE|OUTPUT");
        assert_eq!(shown(&[job("web")], Some(10), None)[0], "JOB|CPU %|MEM / LIMIT");
    }

    #[test]
    fn a_short_terminal_says_how_many_lines_it_has_no_room_for() {
        let jobs = vec![job("a"); 5];
        assert_eq!(shown(&jobs, None, Some(6)).len(), 6);
        let lines = shown(&jobs, None, Some(5));
        assert_eq!((lines.len(), lines[4].as_str()), (5, "... and 2 more"));
    }

    #[test]
    fn cpu_times_have_two_units_at_most() {
        let cases = [
            (250_000, "0.25s"),
            (12_340_000, "12.3s"),
            (192_000_000, "3m 12s"),
            (18_180_000_000, "5h 3m"),
            (187_200_000_000, "2d 4h"),
        ];
        for (usec, text) in cases {
            assert_eq!(cpu_time(usec), text);
        }
    }
}
