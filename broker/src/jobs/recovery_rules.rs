//! Decides what to do about a job that an earlier broker left, and how a job ended whose shim is gone, by
//! the table of ARCHITECTURE.md. Pure: nothing here reads or writes a file.
//!
//! After GO a job is never run again. The model in `tests/tests/model` checks these functions.

use job_shim::record::{ExitFile, Outcome};
use job_shim::wire::{Cause, Ended, Exited, Failed, Source, Started};

use crate::model::state::{Event, Failure, InvalidTransition, Snapshot, State};
use crate::store::records::{FinalRecord, SpawnRecord};

/// What is on disk, and whether the shim of `spawn.json` still lives.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The job was requested in this boot.
    pub same_boot: bool,
    /// `spawn.json`, in the job's own boot only: the file is not synced, so a crash of the host may tear it.
    pub spawned: Option<SpawnRecord>,
    /// The process of `spawn.json` lives: same pid and same start time.
    pub shim_lives: bool,
    /// The shim's exit file.
    pub exit: ExitFile,
    /// `final.json`.
    pub finished: Option<FinalRecord>,
}

/// What the broker does with the job.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The job has a final record: remove a left-over cgroup and socket.
    Over(Box<FinalRecord>),
    /// The shim lives: connect.
    Adopt,
    /// The shim has ended: settle the job from its exit file.
    Settle,
    /// The broker died before GO.
    NeverRan,
    /// The host went down while the job ran.
    LostWithHost,
}

/// Who requested a stop, and from when on a SIGKILL may be the broker's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOrigin {
    /// In which role.
    pub source: Source,
    /// By name.
    pub by: String,
    /// The end of the grace period, nanoseconds since 1970.
    pub kills_from_ns: u64,
}

/// The table of recovery.
pub fn decide(facts: Facts) -> Verdict {
    if let Some(finished) = facts.finished {
        return Verdict::Over(Box::new(finished));
    }
    match (facts.same_boot, facts.spawned) {
        (true, None) => Verdict::NeverRan,
        (true, Some(_)) if facts.shim_lives => Verdict::Adopt,
        (true, Some(_)) => Verdict::Settle,
        (false, _) if facts.exit.outcome.is_some() => Verdict::Settle,
        // The absence of spawn.json says nothing then.
        (false, _) => Verdict::LostWithHost,
    }
}

/// The end of a job whose shim is gone, from the shim's exit file: finished, or lost. An exit that was
/// published stays as it is.
///
/// `stop` is the stop request that the broker may have enforced itself. `describe` words a failed start.
/// `created_ns` stands in for an unknown start time.
///
/// # Errors
/// [`InvalidTransition`]: the exit file contradicts the snapshot.
pub fn settle(
    known: &Snapshot,
    exit: ExitFile,
    stop: Option<&StopOrigin>,
    describe: impl FnOnce(Failed) -> Failure,
    created_ns: u64,
    now_ns: u64,
) -> Result<Snapshot, InvalidTransition> {
    let mut known = known.clone();
    known.ran = exit.ran.or(known.ran);
    let incomplete = exit.ended.as_ref().is_none_or(Ended::is_incomplete);
    let published = known.exited.clone().map(Outcome::Exited);
    let recorded = || match exit.outcome {
        Some(Outcome::Exited(exited)) => {
            Some(Outcome::Exited(as_broker_kill(stop, &exited).unwrap_or(exited)))
        }
        Some(failed) => Some(failed),
        None => stop.map(|stop| Outcome::Exited(stopped(stop, &unattributed_kill(now_ns)))),
    };
    match published.or_else(recorded) {
        Some(Outcome::Exited(exited)) => {
            if known.started.is_none() {
                // This broker never received STARTED, so the pid is unknown.
                known.apply(Event::Started(Started { pid: 0, time_ns: created_ns }), now_ns)?;
            }
            let time_ns = exited.time_ns;
            known.apply(Event::Exited(exited), now_ns)?;
            known.apply(Event::Ended { time_ns, incomplete }, now_ns)?;
        }
        Some(Outcome::Failed(failed)) => {
            // An adopted job counts as running until its shim reports; this one never ran.
            known = Snapshot { contact: known.contact, ..Snapshot::starting() };
            known.apply(Event::StartFailed(describe(failed)), now_ns)?;
        }
        None => {
            let message = "the shim ended without a record; the exit status is not known";
            let failure = Failure { step: "shim".into(), errno: 0, message: message.into() };
            known.apply(Event::ShimLost(failure), now_ns)?;
        }
    }
    Ok(known)
}

/// How the final record contradicts the shim's exit file, which has its own checksum. A missing entry
/// contradicts nothing.
pub fn contradiction(last: &FinalRecord, exit: &ExitFile) -> Option<String> {
    if let Some(known) = &last.exit
        && !is_end(known.wait_status)
    {
        return Some(format!("wait status {} is not that of an ended process", known.wait_status));
    }
    match (&exit.outcome, &last.exit) {
        (Some(Outcome::Exited(recorded)), Some(known)) => {
            let is_same = known.cause == recorded.cause as u8
                || (known.cause == Cause::Stopped as u8 && is_unattributed_kill(recorded));
            let is_one = known.wait_status == recorded.wait_status && is_same;
            (!is_one).then(|| "it contradicts the end that the shim recorded".into())
        }
        (Some(Outcome::Exited(_)), None) if last.state == State::Lost => {
            Some("it says that the end is unknown, but the shim recorded it".into())
        }
        (Some(Outcome::Failed(_)), Some(_)) => Some(
            "it says how the program ended, but the shim recorded that the program never ran"
                .into(),
        ),
        _ => None,
    }
}

/// Whether this is the wait(2) status of an ended process.
pub(crate) fn is_end(wait_status: i32) -> bool {
    let has_ended = libc::WIFEXITED(wait_status) || libc::WIFSIGNALED(wait_status);
    (0..=0xffff).contains(&wait_status) && has_ended
}

/// Whether the shim recorded a SIGKILL without a sender.
fn is_unattributed_kill(recorded: &Exited) -> bool {
    let killed = recorded.cause == Cause::Signaled && recorded.wait_status == libc::SIGKILL;
    killed && recorded.source == Source::System && recorded.by.is_empty()
}

/// The exit as a stop, if the broker's own SIGKILL caused it. The shim records a broker's SIGKILL without
/// a sender; a SIGKILL with a sender, or before the end of the grace period, is not the broker's.
pub(crate) fn as_broker_kill(stop: Option<&StopOrigin>, recorded: &Exited) -> Option<Exited> {
    let stop = stop?;
    let is_broker_kill = is_unattributed_kill(recorded) && recorded.time_ns >= stop.kills_from_ns;
    is_broker_kill.then(|| stopped(stop, recorded))
}

/// The same exit, with the stop as its cause.
fn stopped(stop: &StopOrigin, recorded: &Exited) -> Exited {
    let (source, by) = (stop.source, stop.by.clone());
    Exited { cause: Cause::Stopped, source, by, ..recorded.clone() }
}

/// The exit that the shim would have recorded.
fn unattributed_kill(time_ns: u64) -> Exited {
    let (cause, source) = (Cause::Signaled, Source::System);
    Exited { wait_status: libc::SIGKILL, cause, source, by: String::new(), time_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Totals;
    use crate::model::usage::Usage;
    use job_shim::wire::Step;
    use uuid::Uuid;

    fn spawned() -> Option<SpawnRecord> {
        let (boot_id, nonce, request) = (Uuid::nil(), Uuid::nil(), None);
        Some(SpawnRecord { format: 1, boot_id, shim_pid: 7, shim_start_time: 9, nonce, request })
    }

    fn exit() -> ExitFile {
        let failed = Failed { step: Step::Exec, errno: 2 };
        ExitFile { outcome: Some(Outcome::Failed(failed)), ..ExitFile::default() }
    }

    #[test]
    fn the_table_of_recovery() {
        let here = Facts { same_boot: true, ..Facts::default() };
        let cases = [
            (here.clone(), Verdict::NeverRan),
            (Facts { spawned: spawned(), shim_lives: true, ..here.clone() }, Verdict::Adopt),
            (Facts { spawned: spawned(), ..here.clone() }, Verdict::Settle),
            (Facts { spawned: spawned(), exit: exit(), ..here }, Verdict::Settle),
            (Facts::default(), Verdict::LostWithHost),
            (Facts { spawned: spawned(), ..Facts::default() }, Verdict::LostWithHost),
            (Facts { spawned: spawned(), exit: exit(), ..Facts::default() }, Verdict::Settle),
            (Facts { exit: exit(), ..Facts::default() }, Verdict::Settle),
        ];
        for (facts, expected) in cases {
            assert_eq!(decide(facts.clone()), expected, "{facts:?}");
        }
    }

    fn exited(cause: Cause, wait_status: i32) -> Exited {
        Exited { wait_status, cause, source: Source::System, by: String::new(), time_ns: 3 }
    }

    fn recorded(exited: Exited) -> ExitFile {
        ExitFile { outcome: Some(Outcome::Exited(exited)), ..ExitFile::default() }
    }

    fn settled(known: &Snapshot, exit: ExitFile, stop: Option<&StopOrigin>) -> Snapshot {
        let describe = |failed: Failed| Failure {
            step: failed.step.name().into(),
            errno: failed.errno,
            message: String::new(),
        };
        settle(known, exit, stop, describe, 1, 9).unwrap()
    }

    fn stop() -> StopOrigin {
        StopOrigin { source: Source::User, by: "user-a".into(), kills_from_ns: 3 }
    }

    #[test]
    fn what_was_told_of_an_exit_stands_whatever_the_records_say() {
        let mut known = Snapshot::starting();
        known.apply(Event::Started(Started { pid: 1, time_ns: 1 }), 1).unwrap();
        known.apply(Event::Exited(exited(Cause::Signaled, libc::SIGKILL)), 2).unwrap();
        for (exit, by_us) in [
            (ExitFile::default(), None),
            (recorded(exited(Cause::Signaled, libc::SIGKILL)), Some(&stop())),
        ] {
            let settled = settled(&known, exit, by_us);
            assert_eq!((settled.state, &settled.exited), (State::Finished, &known.exited));
        }
    }

    #[test]
    fn a_job_without_a_record_is_lost_unless_we_killed_it() {
        let known = Snapshot { state: State::Running, ..Snapshot::starting() };
        let lost = settled(&known, ExitFile::default(), None);
        assert_eq!((lost.state, lost.failure.unwrap().step.as_str()), (State::Lost, "shim"));
        let killed = settled(&known, ExitFile::default(), Some(&stop()));
        assert_eq!(killed.exited.unwrap().cause, Cause::Stopped);
        let by_itself = settled(&known, recorded(exited(Cause::Exited, 0)), Some(&stop()));
        assert_eq!(by_itself.exited.unwrap().cause, Cause::Exited);
    }

    #[test]
    fn a_kill_that_was_another_s_is_no_stop_of_ours() {
        let ours = exited(Cause::Signaled, libc::SIGKILL);
        let stopped = as_broker_kill(Some(&stop()), &ours).unwrap();
        assert_eq!((stopped.cause, stopped.source), (Cause::Stopped, Source::User));
        assert_eq!((stopped.by.as_str(), stopped.time_ns), ("user-a", 3));
        for other in [
            Exited { source: Source::User, by: "user-b".into(), ..ours.clone() },
            Exited { source: Source::Admin, ..ours.clone() },
            Exited { by: "user-b".into(), ..ours.clone() },
            Exited { time_ns: 2, ..ours.clone() }, // it still had its grace
            exited(Cause::OutOfMemory, libc::SIGKILL),
            exited(Cause::Signaled, libc::SIGTERM),
        ] {
            assert_eq!(as_broker_kill(Some(&stop()), &other), None, "{other:?}");
            let known = Snapshot { state: State::Stopping, ..Snapshot::starting() };
            let end = settled(&known, recorded(other.clone()), Some(&stop()));
            assert_eq!(end.exited, Some(other));
        }
        assert_eq!(as_broker_kill(None, &ours), None);
    }

    #[test]
    fn an_adopted_job_that_never_ran_is_a_failed_start() {
        let known = Snapshot { state: State::Running, ..Snapshot::starting() };
        let failed = settled(&known, exit(), None);
        assert_eq!(failed.start_failure().unwrap().step, "exec");
    }

    fn last(state: State, exited: Option<Exited>) -> FinalRecord {
        let known = Snapshot { state, exited, ended_ns: Some(1), ..Snapshot::starting() };
        FinalRecord::new(&known, Totals::default(), Usage::default(), Vec::new())
    }

    #[test]
    fn a_last_record_that_the_shim_contradicts_is_not_believed() {
        let seven = || exited(Cause::Exited, 7 << 8);
        let killed = || exited(Cause::Signaled, libc::SIGKILL);
        let agrees = |state, known: Option<Exited>, exit: &ExitFile| {
            contradiction(&last(state, known), exit).is_none()
        };
        let finished = |known: Exited, exit: &ExitFile| agrees(State::Finished, Some(known), exit);
        assert!(finished(seven(), &recorded(seven())) && finished(seven(), &ExitFile::default()));
        assert!(!finished(exited(Cause::Exited, 0), &recorded(seven())));
        assert!(!finished(exited(Cause::TimedOut, 7 << 8), &recorded(seven())));
        assert!(finished(exited(Cause::Stopped, 9), &recorded(killed())), "the broker's own kill");
        assert!(!finished(exited(Cause::Stopped, 15), &recorded(killed())));
        assert!(!finished(seven(), &exit()), "it never ran");
        assert!(!agrees(State::Lost, None, &recorded(seven())));
        assert!(agrees(State::Lost, None, &ExitFile::default()));
        assert!(agrees(State::Finished, None, &exit()), "a start that failed");
        for status in [-1, 0x7f, 0x1_0000, i32::MIN] {
            assert!(!finished(exited(Cause::Exited, status), &ExitFile::default()), "{status}");
        }
    }

    #[test]
    fn what_is_final_stays_final() {
        let record = last(State::Finished, None);
        let facts = Facts {
            same_boot: true,
            spawned: spawned(),
            shim_lives: true,
            finished: Some(record.clone()),
            ..Facts::default()
        };
        assert_eq!(decide(facts), Verdict::Over(Box::new(record)));
    }
}
