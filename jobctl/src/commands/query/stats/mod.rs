//! `stats`: what jobs use, a line each, once a second.

pub(crate) mod columns;
mod screen;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{GetJobRequest, Job, ListJobsRequest, ListJobsResponse, Usage};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::cli::{Format, Global, Stats};
use crate::client::connection::Broker;
use crate::client::lookup;
use crate::commands::query::stats::screen::Screen;
use crate::failure::{Failure, Result};
use crate::format::escape::escape;
use crate::print::{json, sink};
use crate::{exit, sys};

/// Between two readings, and two lines of a job.
const PERIOD: Duration = Duration::from_secs(1);
/// The largest page that the contract allows.
const PAGE: u32 = 1000;

pub(crate) async fn stats(global: &Global, command: Stats) -> Result<i32> {
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let selection = Selection::find(&broker, &command.jobs).await?;
    let format = match global.output.unwrap_or(Format::Table) {
        Format::Table | Format::Wide if global.quiet => Format::Name,
        format => format,
    };
    let is_table = matches!(format, Format::Table | Format::Wide);
    let has_screen = is_table && screen::is_there();
    if command.no_stream || !(command.stream || has_screen) {
        return once(&broker, &selection, format).await.map(|()| exit::OK);
    }
    stream(&broker, &selection, format, has_screen).await
}

/// Whose figures are wanted.
enum Selection {
    /// All that have not ended.
    Live,
    /// These, by id, also when they have ended.
    Named(Vec<String>),
}

impl Selection {
    async fn find(broker: &Broker, words: &[String]) -> Result<Selection> {
        if words.is_empty() {
            return Ok(Selection::Live);
        }
        let mut ids = Vec::new();
        for word in words {
            let id = lookup::resolve(broker, word).await?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(Selection::Named(ids))
    }

    async fn read(&self, broker: &Broker) -> Result<Vec<Job>> {
        let Selection::Named(ids) = self else { return live(broker).await };
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            jobs.push(one(broker, id).await?);
        }
        Ok(jobs)
    }

    /// Nothing will change any more.
    fn is_over(&self, jobs: &[Job]) -> bool {
        matches!(self, Selection::Named(_)) && !jobs.iter().any(is_live)
    }
}

fn is_live(job: &Job) -> bool {
    !matches!(job.state(), State::Finished | State::Lost)
}

/// All pages, newest first.
async fn live(broker: &Broker) -> Result<Vec<Job>> {
    let states = [State::Starting, State::Running, State::Paused, State::Stopping];
    let mut request = ListJobsRequest {
        states: states.map(i32::from).to_vec(),
        with_usage: true,
        page_size: PAGE,
        ..Default::default()
    };
    let mut jobs = Vec::new();
    loop {
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.list_jobs(request).await }
        };
        let page = broker.persistent("cannot list jobs", call).await?;
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() {
            return Ok(jobs);
        }
        request.page_token = page.next_page_token;
    }
}

async fn one(broker: &Broker, id: &str) -> Result<Job> {
    let call = |mut client: Client| {
        let request = GetJobRequest { id: id.to_owned() };
        async move { client.get_job(request).await }
    };
    let answer = broker.persistent(&format!("cannot show {}", escape(id)), call).await?;
    Ok(answer.job.unwrap_or_default())
}

/// Tables take two readings, for a rate needs two; messages hold what one reading says.
async fn once(broker: &Broker, selection: &Selection, format: Format) -> Result<()> {
    let mut readings = Readings::default();
    readings.take(selection.read(broker).await?);
    if matches!(format, Format::Table | Format::Wide) && readings.jobs.iter().any(is_live) {
        sleep(PERIOD).await;
        readings.take(selection.read(broker).await?);
    }
    // As with ps: what is asked for as wide is not cut.
    let is_narrow = format == Format::Table && std::io::stdout().is_terminal();
    let width = is_narrow.then(terminal_size::terminal_size).flatten();
    let width = width.map(|(terminal_size::Width(columns), _)| columns.into());
    sink::print(&readings.shown(format, width, None)?)
}

/// The latest jobs, and what each had used the time before.
#[derive(Default)]
struct Readings {
    jobs: Vec<Job>,
    before: HashMap<String, Usage>,
}

impl Readings {
    fn take(&mut self, jobs: Vec<Job>) {
        let last = std::mem::replace(&mut self.jobs, jobs);
        self.before = last.into_iter().filter_map(|job| Some((job.id, job.usage?))).collect();
    }

    /// As wide and as many lines as given.
    fn shown(&self, format: Format, width: Option<usize>, lines: Option<usize>) -> Result<String> {
        match format {
            Format::Json | Format::Yaml => {
                let jobs = self.jobs.clone();
                let whole = ListJobsResponse { jobs, next_page_token: String::new() };
                json::shown("ListJobsResponse", &whole, format)
            }
            Format::Name => Ok(self.jobs.iter().map(|job| format!("{}\n", job.id)).collect()),
            Format::Table | Format::Wide => {
                let wide = format == Format::Wide;
                Ok(columns::table(&self.jobs, &self.before, wide, width, lines))
            }
        }
    }
}

/// Until a signal comes, or nothing will change any more. The exit status.
async fn stream(
    broker: &Broker,
    selection: &Selection,
    format: Format,
    has_screen: bool,
) -> Result<i32> {
    // First, so that none comes between.
    let mut signals = Signals::new()?;
    let mut screen = has_screen.then(Screen::enter);
    let mut readings = Readings::default();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let reading = async {
            ticks.tick().await;
            selection.read(broker).await
        };
        tokio::select! {
            jobs = reading => readings.take(jobs?),
            signal = signals.next() => match (signal, &mut screen) {
                (libc::SIGWINCH, _) => {}
                (libc::SIGTSTP, Some(screen)) => screen.away(sys::stop_self),
                (libc::SIGTSTP, None) => sys::stop_self(),
                (signal, _) => return Ok(128 + signal),
            },
        }
        match &mut screen {
            Some(screen) => {
                let (width, height) = screen::size();
                screen.draw(readings.shown(format, Some(width), Some(height))?)?;
            }
            None => sink::print(&separated(format, &readings.shown(format, None, None)?))?,
        }
        if selection.is_over(&readings.jobs) {
            return Ok(exit::OK);
        }
    }
}

/// One reading after the other, without a terminal's commands: tables with an empty line between,
/// YAML as documents.
fn separated(format: Format, text: &str) -> String {
    match format {
        Format::Json | Format::Name => text.to_owned(),
        Format::Yaml => format!("---\n{text}"),
        Format::Table | Format::Wide => format!("{text}\n"),
    }
}

/// What must not end us with the terminal in disorder, and what means to draw anew.
struct Signals([(i32, Signal); 5]);

impl Signals {
    fn new() -> Result<Self> {
        let caught = |number: i32| match signal(SignalKind::from_raw(number)) {
            Ok(stream) => Ok((number, stream)),
            Err(e) => Err(Failure::usage(format!("cannot catch signals: {e}"))),
        };
        Ok(Signals([
            caught(libc::SIGINT)?,
            caught(libc::SIGTERM)?,
            caught(libc::SIGHUP)?,
            caught(libc::SIGTSTP)?,
            caught(libc::SIGWINCH)?,
        ]))
    }

    async fn next(&mut self) -> i32 {
        let [int, term, hup, stop, resized] = &mut self.0;
        tokio::select! {
            Some(()) = int.1.recv() => int.0,
            Some(()) = term.1.recv() => term.0,
            Some(()) = hup.1.recv() => hup.0,
            Some(()) = stop.1.recv() => stop.0,
            Some(()) = resized.1.recv() => resized.0,
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, state: State, cpu: u64) -> Job {
        let usage = Usage { cpu_usage_usec: Some(cpu), ..Usage::default() };
        Job { id: id.into(), state: state.into(), usage: Some(usage), ..Job::default() }
    }

    #[test]
    fn a_reading_is_compared_with_the_one_before_of_the_same_job() {
        let mut readings = Readings::default();
        readings.take(vec![job("a", State::Running, 1), job("b", State::Running, 2)]);
        readings.take(vec![job("b", State::Running, 5), job("c", State::Running, 7)]);
        let cpu = |id: &str| readings.before.get(id).and_then(|usage| usage.cpu_usage_usec);
        assert_eq!((cpu("b"), cpu("c")), (Some(2), None));
    }

    #[test]
    fn it_ends_by_itself_when_all_the_named_jobs_have_ended() {
        let named = Selection::Named(vec!["a".into(), "b".into()]);
        let (ended, paused) = (job("a", State::Finished, 0), job("b", State::Paused, 0));
        assert!(!named.is_over(&[ended.clone(), paused]));
        assert!(named.is_over(std::slice::from_ref(&ended)));
        assert!(!Selection::Live.is_over(&[]));
    }

    #[test]
    fn messages_follow_each_other_as_documents() {
        assert_eq!(separated(Format::Yaml, "jobs: []\n"), "---\njobs: []\n");
        assert_eq!(separated(Format::Table, "JOB\n"), "JOB\n\n");
    }
}
