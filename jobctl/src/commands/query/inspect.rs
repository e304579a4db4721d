//! One thing at a time: `status`, `inspect`, `auth whoami`.

use std::time::{Duration, SystemTime};

use job_api::client::Client;
use job_api::signals::signal_name;
use job_api::units::show_size;
use job_api::v1::{GetJobRequest, Job, JobSpec, Limit, OutputPolicy};

use crate::cli::{Format, Global, OneJob, Status};
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::client::{calls, lookup};
use crate::commands::query::ps;
use crate::failure::Result;
use crate::format::escape::escape;
use crate::format::{cause, isolation, limits, state, time, usage};
use crate::print::table::Table;
use crate::print::{json, sink};

/// `key: value` lines, the values below each other; nothing is said of what is empty.
#[derive(Default)]
pub(crate) struct Lines(Vec<(&'static str, String)>);

impl Lines {
    pub(crate) fn add(&mut self, key: &'static str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() && value != "-" {
            self.0.push((key, value));
        }
    }

    pub(crate) fn shown(&self) -> String {
        let widest = self.0.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
        let line = |(key, value): &(&str, String)| {
            format!("{:<widest$} {}\n", format!("{key}:"), escape(value))
        };
        self.0.iter().map(line).collect()
    }
}

pub(crate) async fn status(global: &Global, command: Status) -> Result<()> {
    let job = job(global, &command.which).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::shown("Job", &job, format)?,
        Format::Name => format!("{}\n", job.id),
        Format::Table | Format::Wide if command.limits => limits(&job),
        Format::Table | Format::Wide => job_lines(&job, SystemTime::now()).shown(),
    };
    sink::print(&text)
}

pub(crate) async fn inspect(global: &Global, command: OneJob) -> Result<()> {
    let job = job(global, &command).await?;
    sink::print(&json::shown("Job", &job, global.output.unwrap_or(Format::Json))?)
}

async fn job(global: &Global, command: &OneJob) -> Result<Job> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let request = GetJobRequest { id: lookup::resolve(&broker, &command.job).await? };
    let what = format!("cannot show {}", escape(&command.job));
    let call = async |mut client: Client| client.get_job(request).await;
    Ok(broker.once(&what, call).await?.job.unwrap_or_default())
}

/// What `status` prints.
pub(crate) fn job_lines(job: &Job, now: SystemTime) -> Lines {
    let spec = job.spec.clone().unwrap_or_default();
    let mut lines = Lines::default();
    lines.add("id", &job.id);
    lines.add("name", &job.name);
    lines.add("owner", &job.owner);
    lines.add("state", job.state().as_str_name());
    if job.recovering {
        lines.add(
            "recovering",
            "yes, the broker has not reached the job yet; this is the last known",
        );
    }
    lines.add("cause", ps::cause(job).unwrap_or_default());
    lines.add("reason", cause::reason(job).unwrap_or_default());
    lines.add("exit code", job.exit_code.map(|code| code.to_string()).unwrap_or_default());
    lines
        .add("signal", job.signal.map(|n| format!("{} ({n})", signal_name(n))).unwrap_or_default());
    lines.add("source", ps::source(job).unwrap_or_default());
    lines.add("ended by", &job.ended_by);
    if !job.allowed_by_role.is_empty() {
        let (role, rule) = (&job.allowed_by_role, &job.allowed_by_rule);
        lines.add("allowed by", format!("role {role}: {rule}"));
    }
    lines.add("command", ps::command(job));
    add_spec(&mut lines, &spec, job);
    lines.add("pid", job.pid.map(|pid| pid.to_string()).unwrap_or_default());
    lines.add("pids", pids(job));
    lines.add("created", time::both(job.created_at.as_ref(), now));
    lines.add("started", time::both(job.started_at.as_ref(), now));
    lines.add("ended", time::both(job.ended_at.as_ref(), now));
    lines.add("ran for", ran_for(job).unwrap_or_default());
    add_use(&mut lines, job);
    lines.add("stdout", bytes(job.stdout_bytes));
    lines.add("stderr", bytes(job.stderr_bytes));
    if job.dropped_bytes > 0 {
        lines.add("dropped", format!("{} {}", bytes(job.dropped_bytes), cause::why_dropped(job)));
    }
    if job.incomplete {
        lines.add("incomplete", "yes, output may be missing at the end");
    }
    for warning in &job.warnings {
        lines.add("warning", warning);
    }
    lines
}

fn add_spec(lines: &mut Lines, spec: &JobSpec, job: &Job) {
    let own = || "$JOB_DIR".to_owned();
    let directory = Some(spec.working_directory.clone()).filter(|directory| !directory.is_empty());
    lines.add("directory", directory.unwrap_or_else(own));
    lines
        .add("runs as", format!("{} (uid {}, gid {})", spec.run_as, job.uid, job.gid).trim_start());
    let mut names: Vec<_> = spec.env.keys().map(String::as_str).collect();
    names.sort_unstable();
    lines.add("environment", names.join(", "));
    lines.add("labels", ps::labels(job, ", "));
    add_limits(lines, job);
    if let Some(timeout) = &spec.stop_timeout {
        let signal = if spec.stop_signal == 0 { libc::SIGTERM } else { spec.stop_signal };
        let timeout = duration(timeout);
        lines.add("to stop", format!("{}, after {timeout} SIGKILL", signal_name(signal)));
    }
    if let Some(most) = limits::bound(job, "output_limit") {
        let past = match spec.output_policy() {
            OutputPolicy::Block => "then the job blocks",
            OutputPolicy::Kill => "then the job is ended",
            OutputPolicy::Discard | OutputPolicy::Unspecified => "the rest is dropped",
        };
        lines.add("output limit", format!("{most}, {past}"));
    }
    if spec.stdin {
        lines.add("stdin", "a pipe");
    }
    for (key, words) in spec.isolation.iter().flat_map(isolation::in_words) {
        lines.add(key, words);
    }
}

/// Those that somebody has asked for and that have no line of their own.
fn add_limits(lines: &mut Lines, job: &Job) {
    lines.add("time limit", limits::bound(job, "time_limit").unwrap_or_default());
    lines.add("CPU time limit", limits::bound(job, "cpu_time_limit").unwrap_or_default());
    let separated = ["time_limit", "cpu_time_limit", "output_limit"];
    let asked = |limit: &&Limit| !limit.requested.is_empty() && !separated.contains(&&*limit.name);
    for limit in job.limits.iter().filter(asked) {
        let words = limits::in_words(&limit.name, limits::value(limit).unwrap_or_default());
        let default = if limit.is_default { ", by default" } else { "" };
        let bound = match (&limit.effective, limit.bound_by.as_str()) {
            (Some(value), by) if !by.is_empty() => {
                format!(", but {} of {by} binds", limits::in_words(&limit.name, value))
            }
            _ => String::new(),
        };
        lines.add("limit", format!("{} {words}{default}{bound}", limit.name));
    }
}

/// What is asked, applied and in force, side by side.
/// What `status --limits` prints.
pub(crate) fn limits(job: &Job) -> String {
    let mut table = Table::new(&["LIMIT", "ASKED", "APPLIED", "IN FORCE", "BOUND BY"]);
    for limit in &job.limits {
        let words = |value: &str| limits::in_words(&limit.name, value);
        let asked = match limit.requested.as_str() {
            "" => "-".to_owned(),
            value if limit.is_default => format!("{} (default)", words(value)),
            value => words(value),
        };
        // In the kernel's terms, between two columns in people's.
        let applied = limit.applied.as_deref().map_or("-", |value| match words(value).as_str() {
            limits::NO_LIMIT => limits::NO_LIMIT,
            _ => value,
        });
        let in_force = limit.effective.as_deref().map_or_else(|| "-".to_owned(), words);
        let bound_by = Some(limit.bound_by.as_str()).filter(|by| !by.is_empty()).unwrap_or("-");
        table.row(vec![
            limit.name.clone(),
            asked,
            applied.to_owned(),
            in_force,
            bound_by.to_owned(),
        ]);
    }
    table.shown(None)
}

/// By the broker's measure, which no change of its host's clock disturbs; an earlier broker has none.
fn ran_for(job: &Job) -> Option<String> {
    let (from, to) = (job.started_at.as_ref()?, job.ended_at.as_ref()?);
    let measured = job.usage.as_ref().and_then(|usage| Duration::try_from(usage.wall_time?).ok());
    measured.map(time::in_words).or_else(|| time::between(Some(from), Some(to)))
}

/// The processes beside the program, the first of them.
fn pids(job: &Job) -> String {
    const SHOWN: usize = 16;
    if job.pids.len() < 2 {
        return String::new();
    }
    let shown = job.pids.iter().take(SHOWN).map(u32::to_string).collect::<Vec<_>>().join(" ");
    match job.pids.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more (inspect has them)"),
    }
}

fn add_use(lines: &mut Lines, job: &Job) {
    let Some(usage) = &job.usage else { return };
    let is_live = state::is_live(job);
    lines.add("CPU time", usage::cpu_time(usage).unwrap_or_default());
    lines.add("throttled", usage::throttled(usage).unwrap_or_default());
    lines.add("memory", usage::memory(usage, is_live).unwrap_or_default());
    lines.add("processes", usage::pids(usage, is_live).unwrap_or_default());
    lines.add("directory", usage::job_dir(usage).unwrap_or_default());
    let count = |n: Option<u64>| n.filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default();
    lines.add("OOM kills", count(usage.memory_oom_kills));
    lines.add("forks refused", count(usage.pids_max_events));
}

fn duration(duration: &prost_types::Duration) -> String {
    Duration::try_from(*duration).map_or_else(|_| duration.to_string(), time::in_words)
}

/// `1.5 KiB (1536)`, `12 B`.
fn bytes(count: u64) -> String {
    if count < 1024 { show_size(count) } else { format!("{} ({count})", show_size(count)) }
}

pub(crate) async fn whoami(global: &Global) -> Result<()> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let me = calls::identity(&broker).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::shown("WhoAmIResponse", &me, format)?,
        Format::Name => format!("{}\n", escape(&me.identity)),
        Format::Table | Format::Wide => {
            let expires = me.certificate_expires_at.as_ref();
            let mut lines = Lines::default();
            lines.add("identity", &me.identity);
            lines.add("admin", if me.admin { "yes" } else { "no" });
            lines.add("roles", me.roles.join(", "));
            lines.add("certificate expires", time::both(expires, SystemTime::now()));
            lines.shown()
        }
    };
    sink::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_lines_say_how_it_ended_and_hold_no_control_characters() {
        let job = Job {
            id: "0198".into(),
            exit_code: Some(0),
            warnings: vec!["disk\x1b[2Jfull".into()],
            stdout_bytes: 1536,
            ..Job::default()
        };
        let text = job_lines(&job, SystemTime::now()).shown();
        assert!(text.contains("exit code: "), "{text}");
        assert!(text.contains("1.5 KiB (1536)\n"), "{text}");
        assert!(text.contains("disk\\x1b[2Jfull"), "{text}");
        assert!(!text.contains("signal:"), "{text}");
    }

    fn limited() -> Job {
        let limit = |name: &str, value: &str| Limit {
            name: name.into(),
            requested: value.into(),
            applied: Some(value.into()),
            effective: Some(value.into()),
            ..Limit::default()
        };
        let given = |name: &str| Limit { requested: String::new(), ..limit(name, "max") };
        Job {
            limits: vec![
                limit("cpu.max", "20000 100000"),
                Limit {
                    effective: Some("33554432".into()),
                    bound_by: "/jobs.slice".into(),
                    ..limit("memory.max", "67108864")
                },
                Limit { is_default: true, ..limit("pids.max", "100") },
                given("memory.high"),
                Limit { applied: None, effective: None, ..given("io.weight") },
            ],
            ..Job::default()
        }
    }

    #[test]
    fn limits_are_shown_as_asked_applied_and_in_force() {
        let expected = "\
LIMIT        ASKED          APPLIED       IN FORCE  BOUND BY
cpu.max      0.2 CPUs       20000 100000  0.2 CPUs  -
memory.max   64 MiB         67108864      32 MiB    /jobs.slice
pids.max     100 (default)  100           100       -
memory.high  -              no limit      no limit  -
io.weight    -              -             -         -
";
        assert_eq!(limits(&limited()), expected);
    }

    #[test]
    fn in_short_only_limits_that_were_asked_for_are_shown() {
        let text = job_lines(&limited(), SystemTime::now()).shown();
        for line in [
            "cpu.max 0.2 CPUs\n",
            "memory.max 64 MiB, but 32 MiB of /jobs.slice binds\n",
            "pids.max 100, by default\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("memory.high") && !text.contains("io.weight"), "{text}");
    }
}
