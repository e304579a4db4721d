//! The state machine of a job: a pure function over states and events, and the snapshot that
//! events make of a job. What a job did is never taken back.

use std::fmt;
use std::time::Duration;

use job_shim::wire::{Exited, Progress, Started};
use serde::{Deserialize, Serialize};

/// The step of a start that the host was short of something for.
pub(crate) const SHORTAGE: &str = "shortage";
/// The step of a start that could not be recorded in the audit. No job is kept of it.
pub(crate) const UNRECORDED: &str = "audit";

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted; its program does not run yet.
    Starting,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Asked to stop, or its main process has ended and the rest is being drained.
    Stopping,
    /// Over, and its end is known.
    Finished,
    /// Over, and its end is not known.
    Lost,
}

/// What can happen to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// execve(2) succeeded.
    Started(Started),
    /// It never ran.
    StartFailed(Failure),
    /// Its processes have been frozen.
    Paused,
    /// They go on.
    Resumed,
    /// A caller or a limit requested a stop.
    StopRequested,
    /// Its main process has ended.
    Exited(Exited),
    /// Nothing of it is left.
    Ended {
        /// Nanoseconds since 1970.
        time_ns: u64,
        /// Output may be missing.
        incomplete: bool,
    },
    /// Its shim is gone without having said how it ended.
    ShimLost(Failure),
}

/// Why there is no exit status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step of the start, or `shim`, `host`.
    pub step: String,
    /// 0 where none applies.
    pub errno: i32,
    /// For people.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step, self.message)
    }
}

/// An event that cannot happen in a state: a fault of the shim or of the broker, never of the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state:?} cannot take the event {event}")]
pub struct InvalidTransition {
    state: State,
    event: &'static str,
}

/// The table. Repetitions (an adopted shim tells everything again) leave the state as it is.
///
/// # Errors
/// [`InvalidTransition`].
pub(crate) fn next(state: State, event: &Event) -> Result<State, InvalidTransition> {
    use State::*;
    let next = match (state, event) {
        (Starting | Running, Event::Started(_)) => Running,
        (Paused | Stopping, Event::Started(_)) => state,
        (Starting | Stopping, Event::StartFailed(_)) => Finished,
        (Running | Paused, Event::Paused) => Paused,
        (Running | Paused, Event::Resumed) => Running,
        (Starting | Running | Paused | Stopping, Event::StopRequested) => Stopping,
        (Running | Paused | Stopping, Event::Exited(_)) => Stopping,
        (Stopping, Event::Ended { .. }) => Finished,
        (Starting | Running | Paused | Stopping, Event::ShimLost(_)) => Lost,
        (Finished | Lost, Event::StopRequested) => state,
        _ => return Err(InvalidTransition { state, event: event.name() }),
    };
    Ok(next)
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Event::Started(_) => "started",
            Event::StartFailed(_) => "start failed",
            Event::Paused => "paused",
            Event::Resumed => "resumed",
            Event::StopRequested => "stop requested",
            Event::Exited(_) => "exited",
            Event::Ended { .. } => "ended",
            Event::ShimLost(_) => "shim lost",
        }
    }
}

impl State {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [State; 6] = [
        State::Starting,
        State::Running,
        State::Paused,
        State::Stopping,
        State::Finished,
        State::Lost,
    ];

    /// As the contract has it.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Finished => "finished",
            State::Lost => "lost",
        }
    }

    /// Whether nothing more can happen.
    pub fn is_over(self) -> bool {
        matches!(self, State::Finished | State::Lost)
    }
}

/// Whether the broker hears from a job's shim. What is known of the job is true in any case, and
/// the job goes on in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It answers.
    Good,
    /// The broker has come back and has not reached it yet.
    Recovering,
    /// It lives and does not answer: managed through its cgroup and its files.
    Silent,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// Since the host was started, sleep included.
    pub since_boot: Duration,
}

/// All that events have told of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it stands.
    pub state: State,
    /// When and as which process it started.
    pub started: Option<Started>,
    /// How its main process ended.
    pub exited: Option<Exited>,
    /// When all of it was over, nanoseconds since 1970.
    pub ended_ns: Option<u64>,
    /// How long the program ran by CLOCK_BOOTTIME, if known.
    pub ran: Option<Duration>,
    /// Why there is no exit status.
    pub failure: Option<Failure>,
    /// Output may be missing.
    pub incomplete: bool,
    /// Whether its shim answers.
    pub contact: Contact,
}

impl Snapshot {
    /// A job that has just been accepted.
    pub fn starting() -> Snapshot {
        Snapshot {
            state: State::Starting,
            started: None,
            exited: None,
            ended_ns: None,
            ran: None,
            failure: None,
            incomplete: false,
            contact: Contact::Good,
        }
    }

    /// Whether the question "did it start?" has an answer. A shim that lives and is silent will not
    /// tell more; one that was left alone before GO would have gone.
    pub fn is_past_start(&self) -> bool {
        self.started.is_some() || self.state.is_over() || self.contact == Contact::Silent
    }

    /// Why its program never ran, if it never did.
    pub fn start_failure(&self) -> Option<Failure> {
        if self.state != State::Finished || self.exited.is_some() {
            return None;
        }
        self.failure.clone()
    }

    /// Whether its request may be made anew: it never ran, and only the broker's own end was why, or that
    /// the host was short of something.
    pub fn is_retryable(&self) -> bool {
        self.start_failure().is_some_and(|f| RETRYABLE_STEPS.contains(&f.step.as_str()))
    }

    /// How long its program has run, `now` or until its end. `begun` is when that began, since the host
    /// was started; where it is not known, as of a job of an earlier release, the clock of the wall has
    /// to do, which may have been set meanwhile.
    pub fn wall_time(&self, begun: Option<Duration>, now: Now) -> Option<Duration> {
        let started_ns = self.started?.time_ns;
        let ended_ns = self.exited.as_ref().map(|exited| exited.time_ns).or(self.ended_ns);
        match (self.ran, ended_ns, begun) {
            (Some(ran), ..) => Some(ran),
            (None, None, Some(begun)) => Some(now.since_boot.saturating_sub(begun)),
            (None, ended_ns, _) => {
                let until_ns = ended_ns.unwrap_or(now.wall_ns);
                Some(Duration::from_nanos(until_ns.saturating_sub(started_ns)))
            }
        }
    }

    /// Takes one event in.
    ///
    /// # Errors
    /// [`InvalidTransition`]; the snapshot stays as it was.
    pub fn apply(&mut self, event: Event, now_ns: u64) -> Result<(), InvalidTransition> {
        self.state = next(self.state, &event)?;
        match event {
            Event::Started(started) => self.started = Some(started),
            Event::Exited(exited) => self.exited = Some(exited),
            Event::Paused | Event::Resumed | Event::StopRequested => {}
            Event::Ended { time_ns, incomplete } => {
                self.ended_ns = Some(time_ns);
                self.incomplete = incomplete;
            }
            Event::StartFailed(failure) => {
                self.failure = Some(failure);
                self.ended_ns = Some(now_ns);
            }
            Event::ShimLost(failure) => {
                self.failure = Some(failure);
                self.ended_ns = Some(now_ns);
                self.incomplete = true;
            }
        }
        Ok(())
    }
}

/// The steps at which a start fails when the broker ends before GO: as its own recovery calls it,
/// and as the shim that was left alone does; and when the host is short of something.
const RETRYABLE_STEPS: [&str; 3] = ["broker", "abandoned", SHORTAGE];

/// What the output came to, for the final record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bytes in `stdout.log`.
    pub stdout: u64,
    /// Bytes in `stderr.log`.
    pub stderr: u64,
    /// Entries in `output.idx`.
    pub entries: u64,
    /// Bytes that were not kept.
    pub dropped: u64,
}

impl Totals {
    /// Bytes on the disk: of output, and of its index.
    pub fn kept(&self) -> u64 {
        let index = job_shim::index::length(self.entries);
        self.stdout.saturating_add(self.stderr).saturating_add(index)
    }
}

impl From<Progress> for Totals {
    fn from(p: Progress) -> Self {
        Totals { stdout: p.stdout, stderr: p.stderr, entries: p.entries, dropped: p.dropped }
    }
}

impl From<Totals> for Progress {
    fn from(t: Totals) -> Self {
        Progress {
            stdout: t.stdout,
            stderr: t.stderr,
            entries: t.entries,
            dropped: t.dropped,
            blocked: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_shim::wire::{Cause, Source};

    fn events() -> [Event; 8] {
        let failure = Failure { step: "exec".into(), errno: 2, message: "no".into() };
        let exited = Exited {
            wait_status: 0,
            cause: Cause::Exited,
            source: Source::None,
            by: String::new(),
            time_ns: 5,
        };
        [
            Event::Started(Started { pid: 1, time_ns: 1 }),
            Event::StartFailed(failure.clone()),
            Event::StopRequested,
            Event::Exited(exited),
            Event::Ended { time_ns: 9, incomplete: false },
            Event::ShimLost(failure),
            Event::Paused,
            Event::Resumed,
        ]
    }

    #[test]
    fn every_cell_of_the_table_is_as_written_here() {
        use State::*;
        // Columns: started, start failed, stop requested, exited, ended, shim lost, paused, resumed.
        let (run, pause, stop, lost) = (Some(Running), Some(Paused), Some(Stopping), Some(Lost));
        let over = Some(Finished);
        let table = [
            (Starting, [run, over, stop, None, None, lost, None, None]),
            (Running, [run, None, stop, stop, None, lost, pause, run]),
            (Paused, [pause, None, stop, stop, None, lost, pause, run]),
            // A start may fail after it was asked to stop.
            (Stopping, [stop, over, stop, stop, over, lost, None, None]),
            (Finished, [None, None, over, None, None, None, None, None]),
            (Lost, [None, None, lost, None, None, None, None, None]),
        ];
        for (state, row) in table {
            for (event, expected) in events().iter().zip(row) {
                assert_eq!(next(state, event).ok(), expected, "{state:?} x {}", event.name());
            }
        }
    }

    #[test]
    fn an_impossible_event_changes_nothing() {
        let mut snapshot = Snapshot::starting();
        let before = snapshot.clone();
        assert!(snapshot.apply(events()[4].clone(), 7).is_err());
        assert_eq!(snapshot, before);
    }

    /// What was 1 h for 12 s.
    #[test]
    fn a_clock_that_is_set_changes_no_wall_time() {
        const SECOND: u64 = 1_000_000_000;
        let at = |wall: u64, boot: u64| Now {
            wall_ns: wall * SECOND,
            since_boot: Duration::from_secs(boot),
        };
        let (begun, second) = (Some(Duration::from_secs(500)), Duration::from_secs(1));
        let mut job = Snapshot::starting();
        assert_eq!(job.wall_time(begun, at(1_000, 500)), None);
        job.started = Some(Started { pid: 1, time_ns: 1_000 * SECOND });
        for wall in [1_012, 1_012 + 3600, 512] {
            assert_eq!(job.wall_time(begun, at(wall, 512)), Some(12 * second), "{wall}");
        }
        let Event::Exited(exited) = &events()[3] else { panic!("it is the fourth") };
        for wall in [1_012, 1_012 + 3600, 512] {
            job.exited = Some(Exited { time_ns: wall * SECOND, ..exited.clone() });
            job.ran = Some(12 * second);
            assert_eq!(job.wall_time(begun, at(wall, 999)), Some(12 * second), "{wall}");
        }
        // Of an earlier release, the clock of the wall; never less than nothing.
        job.ran = None;
        assert_eq!(job.wall_time(begun, at(2_000, 999)), Some(Duration::ZERO));
        job.exited = None;
        assert_eq!(job.wall_time(None, at(1_005, 999)), Some(5 * second));
    }

    #[test]
    fn a_job_without_its_shim_is_lost_and_incomplete() {
        let mut snapshot = Snapshot::starting();
        snapshot.apply(events()[0].clone(), 1).unwrap();
        snapshot.apply(events()[5].clone(), 7).unwrap();
        assert_eq!((snapshot.state, snapshot.ended_ns), (State::Lost, Some(7)));
        assert!(snapshot.incomplete);
    }
}
