//! `ps`, also called `list`.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::SystemTime;

use job_api::signals::signal_name;
use job_api::v1::job::State;
use job_api::v1::{Cause, Job, ListJobsRequest, ListJobsResponse, Source};

use crate::cli::{self, Format, Global, Ps};
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::client::lookup;
use crate::failure::Result;
use crate::format::escape::{escape, shell_quoted};
use crate::format::{state, time, usage};
use crate::print::table::Table;
use crate::print::{json, sink};

/// Enough of a UUID of version 7 to tell jobs apart: its time and the first random digits.
const SHORT_ID: usize = 18;

pub(crate) async fn ps(global: &Global, command: Ps) -> Result<()> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let limit = command.limit;
    let format = global.output.unwrap_or(Format::Table);
    // Reading what jobs use costs the broker time: only for what shows it.
    let with_usage = format == Format::Wide && !global.quiet;
    let request = ListJobsRequest { with_usage, ..request(command) };
    let jobs = lookup::list(&broker, request, limit).await?;
    match format {
        Format::Json | Format::Yaml => {
            let whole = ListJobsResponse { jobs, next_page_token: String::new() };
            sink::print(&json::shown("ListJobsResponse", &whole, format)?)
        }
        Format::Name => sink::print(&ids(&jobs)),
        _ if global.quiet => sink::print(&ids(&jobs)),
        Format::Wide => sink::print(&wide(&jobs)),
        Format::Table => sink::print(&narrow(&jobs, SystemTime::now())),
    }
}

fn request(command: Ps) -> ListJobsRequest {
    let mut states: Vec<State> = command.states.iter().map(|state| wire_state(*state)).collect();
    if states.is_empty() && !command.all {
        states = state::LIVE.to_vec();
    }
    ListJobsRequest {
        states: states.into_iter().map(i32::from).collect(),
        owner: command.owner.unwrap_or_default(),
        labels: command.labels.into_iter().collect::<HashMap<_, _>>(),
        ..Default::default()
    }
}

fn wire_state(state: cli::State) -> State {
    match state {
        cli::State::Starting => State::Starting,
        cli::State::Running => State::Running,
        cli::State::Paused => State::Paused,
        cli::State::Stopping => State::Stopping,
        cli::State::Finished => State::Finished,
        cli::State::Lost => State::Lost,
    }
}

fn ids(jobs: &[Job]) -> String {
    jobs.iter().map(|job| format!("{}\n", job.id)).collect()
}

/// For people: short, relative, as wide as the terminal.
pub(crate) fn narrow(jobs: &[Job], now: SystemTime) -> String {
    let mut table = Table::new(&[
        "ID", "NAME", "OWNER", "STATE", "CAUSE", "EXIT", "SIGNAL", "SOURCE", "PID", "STARTED",
        "ENDED", "COMMAND",
    ]);
    let length = id_length(jobs);
    for job in jobs {
        let mut cells = vec![job.id.get(..length).unwrap_or(&job.id).to_owned()];
        cells.extend(common(job));
        cells.push(time::relative(job.started_at.as_ref(), now));
        cells.push(time::relative(job.ended_at.as_ref(), now));
        cells.push(command(job));
        table.row(cells);
    }
    let terminal = std::io::stdout().is_terminal();
    if terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        table.paint("STATE", colour);
    }
    let width = terminal.then(terminal_size::terminal_size).flatten();
    table.shown(width.map(|(terminal_size::Width(columns), _)| columns.into()))
}

/// How much of an id tells these jobs apart: of those from the same millisecond, more.
pub(crate) fn id_length(jobs: &[Job]) -> usize {
    let mut ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
    ids.sort_unstable();
    let alike =
        |pair: &[&str]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    ids.windows(2).map(|pair| alike(pair) + 1).fold(SHORT_ID, usize::max)
}

/// Everything that fits on a line, in full.
pub(crate) fn wide(jobs: &[Job]) -> String {
    let mut table = Table::new(&[
        "ID", "NAME", "OWNER", "STATE", "CAUSE", "EXIT", "SIGNAL", "SOURCE", "PID", "UID",
        "CREATED", "STARTED", "ENDED", "ENDED-BY", "STDOUT", "STDERR", "DROPPED", "CPUS",
        "CPU-TIME", "MEMORY", "PEAK", "PIDS", "LABELS", "COMMAND",
    ]);
    for job in jobs {
        let mut cells = vec![job.id.clone()];
        cells.extend(common(job));
        cells.push(job.uid.to_string());
        cells.push(time::absolute(job.created_at.as_ref()));
        cells.push(time::absolute(job.started_at.as_ref()));
        cells.push(time::absolute(job.ended_at.as_ref()));
        cells.push(or_dash(&job.ended_by));
        cells.push(job.stdout_bytes.to_string());
        cells.push(job.stderr_bytes.to_string());
        cells.push(job.dropped_bytes.to_string());
        cells.extend(usage::cells(job));
        cells.push(or_dash(&labels(job, ",")));
        cells.push(command(job));
        table.row(cells);
    }
    table.shown(None)
}

/// NAME to PID.
fn common(job: &Job) -> Vec<String> {
    vec![
        or_dash(&job.name),
        or_dash(&job.owner),
        state(job),
        cause(job).unwrap_or("-").to_owned(),
        job.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
        job.signal.map_or_else(|| "-".to_owned(), signal_name),
        source(job).unwrap_or("-").to_owned(),
        job.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
    ]
}

pub(crate) fn state(job: &Job) -> String {
    let word = job.state().as_str_name();
    if job.recovering { format!("{word}?") } else { word.to_owned() }
}

pub(crate) fn cause(job: &Job) -> Option<&'static str> {
    Some(job.cause()).filter(|cause| *cause != Cause::Unspecified).map(|cause| cause.as_str_name())
}

pub(crate) fn source(job: &Job) -> Option<&'static str> {
    Some(job.source())
        .filter(|source| *source != Source::Unspecified)
        .map(|source| source.as_str_name())
}

pub(crate) fn command(job: &Job) -> String {
    let argv = job.spec.as_ref().map(|spec| spec.argv.as_slice()).unwrap_or_default();
    let is_whole = argv.len() >= job.argv_count as usize
        && argv.iter().map(|arg| arg.len() as u64).sum::<u64>() >= job.argv_bytes;
    let shown = shell_quoted(argv);
    if is_whole { shown } else { format!("{shown} … ({} bytes)", job.argv_bytes) }
}

/// `a=b,c=d`, sorted.
pub(crate) fn labels(job: &Job, between: &str) -> String {
    let labels = job.spec.iter().flat_map(|spec| &spec.labels);
    let mut pairs: Vec<_> = labels.map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    escape(&pairs.join(between)).into_owned()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// SGR parameters (ECMA-48): green runs, yellow is on its way, blue stands still, red is lost.
fn colour(state: &str) -> &'static str {
    match state.trim_end_matches('?') {
        "running" => "32",
        "starting" | "stopping" => "33",
        "paused" => "34",
        "lost" => "31",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::JobSpec;

    fn job() -> Job {
        Job {
            id: "0198c7f2-3d4e-7f01-8000-0123456789ab".into(),
            name: "evil\x1b[2J".into(),
            owner: "user-a".into(),
            state: State::Finished.into(),
            cause: Cause::Stopped.into(),
            signal: Some(15),
            source: Source::User.into(),
            spec: Some(JobSpec {
                argv: ["sh", "-c", "a\nb"].map(String::from).into(),
                ..JobSpec::default()
            }),
            ..Job::default()
        }
    }

    #[test]
    fn a_row_has_what_people_look_for_and_nothing_that_steers_a_terminal() {
        let text = narrow(&[job()], SystemTime::now());
        let row = text.lines().nth(1).expect("a row");
        for part in ["0198c7f2-3d4e-7f01  ", "evil\\x1b[2J", "user-a", "finished", "stopped"] {
            assert!(row.contains(part), "{part} in {row}");
        }
        assert!(row.ends_with("SIGTERM  user    -    -        -      sh -c 'a\\nb'"), "{row}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn jobs_of_the_same_millisecond_can_be_told_apart() {
        let mut other = job();
        other.id = "0198c7f2-3d4e-7f01-8001-0123456789ab".into();
        let text = narrow(&[job(), other], SystemTime::now());
        assert!(text.contains("0198c7f2-3d4e-7f01-8000  "), "{text}");
        assert!(text.contains("0198c7f2-3d4e-7f01-8001  "), "{text}");
    }

    #[test]
    fn wide_rows_have_the_whole_id() {
        assert!(wide(&[job()]).contains("0198c7f2-3d4e-7f01-8000-0123456789ab"));
    }

    #[test]
    fn without_options_only_the_living_are_asked_for() {
        let ps = |all, states: &[cli::State]| Ps {
            all,
            states: states.to_vec(),
            owner: None,
            labels: Vec::new(),
            limit: None,
        };
        assert_eq!(request(ps(false, &[])).states, [1, 2, 6, 3]);
        assert!(request(ps(true, &[])).states.is_empty());
        assert_eq!(request(ps(false, &[cli::State::Lost])).states, [5]);
    }
}
