//! The broker's knowledge of a job and the shim's records: the programs' real types, in a finite form. Every decision
//! about them must be the real functions'.

use std::time::Duration;

use job_broker::decisions::records::{FORMAT, FinalRecord, SpawnRecord};
use job_broker::decisions::{
    Contact, Event, Failure, Snapshot, State, StopOrigin, Totals, Usage, recovery_rules,
};
use job_shim::record::{self, ExitFile};
use job_shim::wire::{Cause, Ended, Exited, Failed, Progress, Source, Started, Step};
use uuid::Uuid;

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    /// By its own exit.
    Own,
    /// By a SIGKILL that the shim did not send.
    Killed,
    /// By a requested stop.
    Stopped,
}

/// The step at which a start failed.
pub(crate) type Why = &'static str;

/// The steps that can fail in this model.
const WHYS: [Why; 7] = ["broker", "host", "shim", "go", "limits", "exec", "abandoned"];

/// The first record of `exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Exited(Status),
    Failed(Why),
}

/// A [`Snapshot`] without times and texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) state: State,
    pub(crate) started: bool,
    pub(crate) exited: Option<Status>,
    pub(crate) failure: Option<Why>,
}

/// A job's end, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Exited(Status),
    /// The request may be retried.
    NeverRan,
    Failed(Why),
    Lost(Why),
}

impl Status {
    fn exited(self) -> Exited {
        let (wait_status, cause, source) = match self {
            Status::Own => (0, Cause::Exited, Source::None),
            Status::Killed => (9, Cause::Signaled, Source::System),
            Status::Stopped => (9, Cause::Stopped, Source::User),
        };
        Exited { wait_status, cause, source, by: String::new(), time_ns: 1 }
    }

    fn of(exited: &Exited) -> Status {
        match exited.cause {
            Cause::Signaled => Status::Killed,
            Cause::Stopped => Status::Stopped,
            _ => Status::Own,
        }
    }
}

impl Known {
    pub(crate) fn starting() -> Known {
        Known::of(&Snapshot::starting())
    }

    /// The first state of an adopted job that may run.
    pub(crate) fn running() -> Known {
        Known { state: State::Running, ..Known::starting() }
    }

    pub(crate) fn snapshot(self) -> Snapshot {
        Snapshot {
            state: self.state,
            started: self.started.then_some(Started { pid: 1, time_ns: 1 }),
            exited: self.exited.map(Status::exited),
            ended_ns: self.state.is_over().then_some(1),
            ran: None,
            failure: self.failure.map(failure),
            incomplete: false,
            contact: Contact::Good,
        }
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Known {
        Known {
            state: snapshot.state,
            started: snapshot.started.is_some(),
            exited: snapshot.exited.as_ref().map(Status::of),
            failure: snapshot.failure.as_ref().map(|failure| why(&failure.step)),
        }
    }

    /// `Snapshot::apply`
    pub(crate) fn apply(&mut self, event: Event) -> Result<(), String> {
        let mut snapshot = self.snapshot();
        snapshot.apply(event, 1).map_err(|impossible| impossible.to_string())?;
        *self = Known::of(&snapshot);
        Ok(())
    }

    /// `recovery_rules::settle`
    pub(crate) fn settle(self, exit: ExitFile, stop_asked: bool) -> Result<Known, String> {
        // Without a grace period: the model has no time.
        let stopper = StopOrigin { source: Source::User, by: String::new(), kills_from_ns: 1 };
        let asked = stop_asked.then_some(&stopper);
        let describe = |failed: Failed| failure(why(failed.step.name()));
        recovery_rules::settle(&self.snapshot(), exit, asked, describe, 1, 1)
            .map(|snapshot| Known::of(&snapshot))
            .map_err(|impossible| impossible.to_string())
    }

    pub(crate) fn end(self) -> Option<End> {
        match (self.exited, self.failure) {
            (Some(status), _) => Some(End::Exited(status)),
            _ if self.snapshot().is_retryable() => Some(End::NeverRan),
            (None, Some(why)) if self.state == State::Lost => Some(End::Lost(why)),
            (None, Some(why)) => Some(End::Failed(why)),
            (None, None) => None,
        }
    }

    /// `FinalRecord::new`
    pub(crate) fn record(self) -> FinalRecord {
        FinalRecord::new(&self.snapshot(), Totals::default(), Usage::default(), Vec::new())
    }

    pub(crate) fn from_record(record: &FinalRecord) -> Known {
        Known {
            state: record.state,
            started: record.started.is_some(),
            exited: record.exit.clone().map(|exit| Status::of(&exit.into())),
            failure: record.failure.as_ref().map(|failure| why(&failure.step)),
        }
    }
}

pub(crate) fn failure(why: Why) -> Failure {
    Failure { step: why.into(), errno: 1, message: why.into() }
}

pub(crate) fn started() -> Event {
    Event::Started(Started { pid: 1, time_ns: 1 })
}

pub(crate) fn exited(status: Status) -> Event {
    Event::Exited(status.exited())
}

pub(crate) fn spawned() -> SpawnRecord {
    let (boot_id, nonce, request) = (Uuid::nil(), Uuid::nil(), None);
    SpawnRecord { format: FORMAT, boot_id, shim_pid: 1, shim_start_time: 1, nonce, request }
}

/// The file `exit`, encoded and decoded.
pub(crate) fn exit_file(outcome: Option<Outcome>, ended: bool) -> ExitFile {
    const BOOT: [u8; 16] = [1; 16];
    let first = outcome.map(|outcome| match outcome {
        Outcome::Exited(status) => record::Outcome::Exited(status.exited()),
        Outcome::Failed(why) => record::Outcome::Failed(Failed { step: step(why), errno: 1 }),
    });
    let first = first.map_or([0; record::RECORD], |outcome| {
        record::outcome_record(&outcome, Duration::ZERO, &BOOT)
    });
    let second = Ended { progress: Progress::default() };
    let second = if ended { record::ended_record(&second, &BOOT) } else { [0; record::RECORD] };
    ExitFile::from_bytes(&[first, second].concat(), &BOOT)
}

fn step(why: Why) -> Step {
    if why == "abandoned" { Step::Abandoned } else { Step::Exec }
}

fn why(step: &str) -> Why {
    WHYS.into_iter().find(|why| *why == step).unwrap_or("unknown")
}
