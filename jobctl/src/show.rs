//! One thing at a time: `status`, `inspect`, `info`, `auth whoami`.

use std::time::{Duration, SystemTime};

use job_api::client::Client;
use job_api::signals::signal_name;
use job_api::units::show_size;
use job_api::v1::{
    GetJobRequest, GetServerInfoRequest, GetServerInfoResponse, Job, JobSpec, OutputPolicy,
    WhoAmIRequest, WhoAmIResponse,
};

use crate::cli::{Format, Global, OneJob};
use crate::connection::{Broker, NO_PATIENCE};
use crate::failure::{Result, start_failure};
use crate::text::escape;
use crate::{jobs, json, list, sink, when};

/// `key: value` lines, the values below each other; nothing is said of what is empty.
#[derive(Default)]
struct Lines(Vec<(&'static str, String)>);

impl Lines {
    fn add(&mut self, key: &'static str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() && value != "-" {
            self.0.push((key, value));
        }
    }

    fn shown(&self) -> String {
        let widest = self.0.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
        let line = |(key, value): &(&str, String)| {
            format!("{:<widest$} {}\n", format!("{key}:"), escape(value))
        };
        self.0.iter().map(line).collect()
    }
}

pub(crate) async fn status(global: &Global, command: OneJob) -> Result<()> {
    let job = job(global, &command).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::shown("Job", &job, format)?,
        Format::Name => format!("{}\n", job.id),
        Format::Table | Format::Wide => job_lines(&job).shown(),
    };
    sink::print(&text)
}

pub(crate) async fn inspect(global: &Global, command: OneJob) -> Result<()> {
    let job = job(global, &command).await?;
    sink::print(&json::shown("Job", &job, global.output.unwrap_or(Format::Json))?)
}

async fn job(global: &Global, command: &OneJob) -> Result<Job> {
    let broker = Broker::connect(global, NO_PATIENCE).await?;
    let request = GetJobRequest { id: jobs::resolve(&broker, &command.job).await? };
    let what = format!("cannot show {}", escape(&command.job));
    let call = async |mut client: Client| client.get_job(request).await;
    Ok(broker.once(&what, call).await?.job.unwrap_or_default())
}

fn job_lines(job: &Job) -> Lines {
    let now = SystemTime::now();
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
    lines.add("cause", list::cause(job).unwrap_or_default());
    lines.add("exit code", job.exit_code.map(|code| code.to_string()).unwrap_or_default());
    lines
        .add("signal", job.signal.map(|n| format!("{} ({n})", signal_name(n))).unwrap_or_default());
    lines.add("source", list::source(job).unwrap_or_default());
    lines.add("ended by", &job.ended_by);
    let failure = job.failure.as_ref().map(|failure| start_failure(failure, &spec));
    lines.add("failure", failure.unwrap_or_default());
    lines.add("command", list::command(job));
    add_spec(&mut lines, &spec, job);
    lines.add("pid", job.pid.map(|pid| pid.to_string()).unwrap_or_default());
    lines.add("created", when::both(job.created_at.as_ref(), now));
    lines.add("started", when::both(job.started_at.as_ref(), now));
    lines.add("ended", when::both(job.ended_at.as_ref(), now));
    let ran = when::between(job.started_at.as_ref(), job.ended_at.as_ref());
    lines.add("ran for", ran.unwrap_or_default());
    lines.add("stdout", bytes(job.stdout_bytes));
    lines.add("stderr", bytes(job.stderr_bytes));
    if job.dropped_bytes > 0 {
        lines.add("dropped", format!("{} past the output limit", bytes(job.dropped_bytes)));
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
    lines.add("directory", &spec.working_directory);
    lines
        .add("runs as", format!("{} (uid {}, gid {})", spec.run_as, job.uid, job.gid).trim_start());
    let mut names: Vec<_> = spec.env.keys().map(String::as_str).collect();
    names.sort_unstable();
    lines.add("environment", names.join(", "));
    lines.add("labels", list::labels(job, ", "));
    lines.add("time limit", spec.time_limit.as_ref().map(duration).unwrap_or_default());
    if let Some(timeout) = &spec.stop_timeout {
        let signal = if spec.stop_signal == 0 { libc::SIGTERM } else { spec.stop_signal };
        let timeout = duration(timeout);
        lines.add("to stop", format!("{}, after {timeout} SIGKILL", signal_name(signal)));
    }
    if spec.output_limit_bytes > 0 {
        let past = match spec.output_policy() {
            OutputPolicy::Block => "then the job blocks",
            OutputPolicy::Kill => "then the job is ended",
            OutputPolicy::Discard | OutputPolicy::Unspecified => "the rest is dropped",
        };
        lines.add("output limit", format!("{}, {past}", bytes(spec.output_limit_bytes)));
    }
    if spec.stdin {
        lines.add("stdin", "a pipe");
    }
}

fn duration(duration: &prost_types::Duration) -> String {
    Duration::try_from(*duration).map_or_else(|_| duration.to_string(), when::in_words)
}

/// `1.5 KiB (1536)`, `12 B`.
fn bytes(count: u64) -> String {
    if count < 1024 { show_size(count) } else { format!("{} ({count})", show_size(count)) }
}

pub(crate) async fn info(global: &Global) -> Result<()> {
    let broker = Broker::connect(global, NO_PATIENCE).await?;
    let call = async |mut client: Client| client.get_server_info(GetServerInfoRequest {}).await;
    let info = broker.once("cannot show the broker", call).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => {
            json::shown("GetServerInfoResponse", &info, format)?
        }
        Format::Name => format!("{}\n", escape(&info.hostname)),
        Format::Table | Format::Wide => info_lines(&info, &broker.addr).shown(),
    };
    sink::print(&text)
}

fn info_lines(info: &GetServerInfoResponse, addr: &str) -> Lines {
    let mut lines = Lines::default();
    lines.add("address", addr);
    lines.add("version", &info.version);
    lines.add("host", &info.hostname);
    lines.add("kernel", &info.kernel);
    lines.add("boot id", &info.boot_id);
    lines.add("started", when::both(info.started_at.as_ref(), SystemTime::now()));
    lines.add("epoch", info.epoch.to_string());
    lines.add("running jobs", info.running_jobs.to_string());
    lines.add("stored jobs", info.stored_jobs.to_string());
    lines.add("cgroup", &info.cgroup);
    lines.add("controllers", info.controllers.join(", "));
    let mut missing: Vec<_> = info.missing_controllers.iter().collect();
    missing.sort();
    for (controller, reason) in missing {
        lines.add("missing", format!("{controller}: {reason}"));
    }
    lines.add("runs as", info.run_as.join(", "));
    lines.add("output limit", bytes(info.default_output_limit_bytes));
    for job in &info.quarantined {
        lines.add("quarantined", format!("{}: {}", job.id, job.reason));
    }
    lines
}

pub(crate) async fn whoami(global: &Global) -> Result<()> {
    let broker = Broker::connect(global, NO_PATIENCE).await?;
    let me = identity(&broker).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::shown("WhoAmIResponse", &me, format)?,
        Format::Name => format!("{}\n", escape(&me.identity)),
        Format::Table | Format::Wide => {
            let expires = me.certificate_expires_at.as_ref();
            let mut lines = Lines::default();
            lines.add("identity", &me.identity);
            lines.add("admin", if me.admin { "yes" } else { "no" });
            lines.add("certificate expires", when::both(expires, SystemTime::now()));
            lines.shown()
        }
    };
    sink::print(&text)
}

pub(crate) async fn identity(broker: &Broker) -> Result<WhoAmIResponse> {
    let call = async |mut client: Client| client.who_am_i(WhoAmIRequest {}).await;
    broker.once("cannot ask who you are", call).await
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
        let text = job_lines(&job).shown();
        assert!(text.contains("exit code: "), "{text}");
        assert!(text.contains("1.5 KiB (1536)\n"), "{text}");
        assert!(text.contains("disk\\x1b[2Jfull"), "{text}");
        assert!(!text.contains("signal:"), "{text}");
    }
}
