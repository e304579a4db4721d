//! What to do about a job that an earlier broker left: a pure decision over what is on disk, by
//! the table of ARCHITECTURE.md. After GO a job is never run again.

use job_shim::record::ExitFile;

use crate::store::records::{FinalRecord, SpawnRecord};

/// What is on disk, and whether the shim of `spawn.json` still lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) same_boot: bool,
    pub(super) spawned: Option<SpawnRecord>,
    pub(super) shim_lives: bool,
    pub(super) exit: ExitFile,
    pub(super) finished: Option<FinalRecord>,
}

/// What follows from that.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It was over; remove what a crash may have left of cgroup and socket.
    Over(Box<FinalRecord>),
    /// Its shim lives: connect.
    Adopt,
    /// The shim has ended; its records tell, or nobody does.
    Settle,
    /// GO was never said.
    NeverRan,
    /// The host went down under it.
    LostWithHost,
}

pub(super) fn decide(facts: Facts) -> Verdict {
    if let Some(finished) = facts.finished {
        return Verdict::Over(Box::new(finished));
    }
    match (facts.spawned, facts.same_boot) {
        (None, true) => Verdict::NeverRan,
        // spawn.json is not synced before GO: after a crash of the host its absence says nothing.
        (None, false) => Verdict::LostWithHost,
        (Some(_), true) if facts.shim_lives => Verdict::Adopt,
        (Some(_), true) => Verdict::Settle,
        (Some(_), false) if facts.exit.outcome.is_some() => Verdict::Settle,
        (Some(_), false) => Verdict::LostWithHost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::state::{State, Totals};
    use crate::launch::usage::Usage;
    use job_shim::record::Outcome;
    use job_shim::wire::{Failed, Step};
    use uuid::Uuid;

    fn spawned() -> Option<SpawnRecord> {
        let (boot_id, nonce) = (Uuid::nil(), Uuid::nil());
        Some(SpawnRecord { format: 1, boot_id, shim_pid: 7, shim_start_time: 9, nonce })
    }

    fn exit() -> ExitFile {
        let failed = Failed { step: Step::Exec, errno: 2 };
        ExitFile { outcome: Some(Outcome::Failed(failed)), ended: None }
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
        ];
        for (facts, expected) in cases {
            assert_eq!(decide(facts.clone()), expected, "{facts:?}");
        }
    }

    #[test]
    fn what_is_final_stays_final() {
        let record = FinalRecord {
            format: 1,
            state: State::Finished,
            started: None,
            exit: None,
            failure: None,
            ended_ns: 1,
            totals: Totals::default(),
            incomplete: false,
            usage: Usage::default(),
            limits: Vec::new(),
        };
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
