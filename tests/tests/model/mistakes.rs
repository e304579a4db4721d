//! Plans with a mistake: the checker must catch each one. A comment marks the mistakes that the programs once had.

use job_broker::decisions::recovery_rules::decide;
use job_broker::decisions::{Facts, Verdict};

use crate::plan::Do::*;
use crate::plan::{Do, End, Plan, RIGHT};
use crate::world::Left;
use crate::{CALM, assert_caught};

const BROKER: Left = Left { broker_crashes: 1, ..CALM };
const SHIM: Left = Left { shim_crashes: 1, ..CALM };
const HOST: Left = Left { host_crashes: 1, ..CALM };

#[test]
fn a_recovery_that_runs_again_after_go_is_caught() {
    fn careless(facts: Facts) -> Verdict {
        match facts.exit.outcome {
            None if !facts.shim_lives && facts.finished.is_none() => Verdict::NeverRan,
            _ => decide(facts),
        }
    }
    let left = Left { broker_crashes: 1, shim_crashes: 1, ..CALM };
    assert_caught(Plan { decide: careless, ..RIGHT }, left, "never ran, and GO was said");
}

#[test]
fn a_recovery_that_adopts_whatever_has_a_record_is_caught() {
    fn careless(facts: Facts) -> Verdict {
        match decide(facts) {
            Verdict::Settle => Verdict::Adopt,
            verdict => verdict,
        }
    }
    assert_caught(Plan { decide: careless, ..RIGHT }, BROKER, "adopts a dead shim");
}

#[test]
fn a_spawn_record_after_go_is_caught() {
    let launch: &[Do] =
        &[WriteSpec, CreateCgroup, Spawn, MakeSpecDurable, Go, SaveSpawn, AwaitStarted];
    assert_caught(Plan { launch, ..RIGHT }, BROKER, "never ran, and GO was said");
}

#[test]
fn go_before_the_spec_is_durable_is_caught() {
    let launch: &[Do] =
        &[WriteSpec, CreateCgroup, Spawn, SaveSpawn, Go, MakeSpecDurable, AwaitStarted];
    assert_caught(Plan { launch, ..RIGHT }, HOST, "it may have run, and is discarded");
}

#[test]
fn a_cgroup_before_the_spec_is_caught() {
    let launch: &[Do] =
        &[CreateCgroup, WriteSpec, Spawn, SaveSpawn, MakeSpecDurable, Go, AwaitStarted];
    assert_caught(Plan { launch, ..RIGHT }, BROKER, "its cgroup is left");
}

#[test]
fn a_start_that_failed_after_go_and_may_be_repeated_is_caught() {
    let plan = Plan { repeats_failures: true, ..RIGHT };
    assert_caught(plan, SHIM, "one request was run twice");
}

#[test]
fn two_brokers_without_a_lock_are_caught() {
    let left = Left { second_brokers: 1, ..CALM };
    assert_caught(Plan { locks: false, ..RIGHT }, left, "two brokers");
}

#[test]
fn a_shim_that_obeys_an_older_broker_is_caught() {
    let left = Left { broker_crashes: 2, requests: 1, ..CALM };
    assert_caught(Plan { knows_epochs: false, ..RIGHT }, left, "obeys an older broker");
}

/// A former bug: a broker that died between the two steps left a socket.
#[test]
fn a_socket_that_goes_after_its_cgroup_is_caught() {
    let settle: &[Do] =
        &[KillWork, LearnEnd, RenameLast, SyncLast, Publish, RemoveCgroup, RemoveSocket, Rest];
    assert_caught(Plan { settle, ..RIGHT }, BROKER, "its socket is left");
}

/// A former bug: after a host crash the name without its bytes did not parse.
#[test]
fn a_last_record_that_is_renamed_before_it_is_synced_is_caught() {
    let settle: &[Do] = &[
        KillWork,
        LearnEnd,
        RenameUnsyncedLast,
        SyncLast,
        Publish,
        RemoveSocket,
        RemoveCgroup,
        Rest,
    ];
    assert_caught(Plan { settle, ..RIGHT }, HOST, "was put aside");
}

/// A former bug: spawn.json is not synced, so a host crash quarantined every running job, and its request was
/// forgotten.
#[test]
fn a_recovery_that_wants_the_spawn_record_of_another_boot_is_caught() {
    let plan = Plan { reads_foreign_spawn: true, ..RIGHT };
    assert_caught(plan, HOST, "was put aside");
}

/// A former bug: the next broker did not know of a stop that its predecessor had enforced.
#[test]
fn an_end_that_is_shown_before_it_is_on_record_is_caught() {
    let settle: &[Do] =
        &[KillWork, LearnEnd, Publish, RenameLast, SyncLast, RemoveSocket, RemoveCgroup, Rest];
    let left = Left { broker_crashes: 1, stops: 1, requests: 1, ..CALM };
    assert_caught(Plan { settle, ..RIGHT }, left, "was shown as Exited(Stopped)");
}

#[test]
fn a_kill_of_the_brokers_that_is_shown_as_a_stop_before_that_is_on_record_is_caught() {
    let left = Left { broker_crashes: 1, stops: 1, requests: 1, ..CALM };
    let plan = Plan { waits_with_kills: false, ..RIGHT };
    assert_caught(plan, left, "was shown as Exited(Stopped), and now as Exited(Killed)");
}

#[test]
fn a_shim_that_tells_before_it_records_is_caught() {
    let end: &[End] = &[
        End::SayExited,
        End::RecordOutcome,
        End::SayEnded,
        End::SyncLogs,
        End::RecordEnded,
        End::SyncExit,
        End::Leave,
    ];
    let left = Left { broker_crashes: 1, shim_crashes: 1, requests: 1, ..CALM };
    assert_caught(Plan { end, ..RIGHT }, left, "was shown as Exited(Own), and now as Lost");
}

#[test]
fn a_second_record_before_the_logs_are_durable_is_caught() {
    let end: &[End] = &[
        End::RecordOutcome,
        End::SayExited,
        End::SayEnded,
        End::RecordEnded,
        End::SyncLogs,
        End::SyncExit,
        End::Leave,
    ];
    assert_caught(Plan { end, ..RIGHT }, CALM, "logs are durable, and they are not");
}

/// A former bug: a stop was only in memory until the shim had received it.
#[test]
fn a_stop_that_is_acknowledged_before_it_is_on_record_is_caught() {
    let left = Left { broker_crashes: 1, stops: 1, requests: 1, ..CALM };
    let plan = Plan { records_stops: false, ..RIGHT };
    assert_caught(plan, left, "an acknowledged stop has not happened");
}

/// A former bug: of a failed start, or a job that never ran, only the end was durable.
#[test]
fn an_end_that_is_durable_before_its_beginning_is_caught() {
    let give_up: &[Do] =
        &[EndShim, RemoveSocket, KillWork, RemoveCgroup, RenameLast, SyncLast, Publish, Rest];
    let left = Left { host_crashes: 1, failures: 1, ..CALM };
    assert_caught(Plan { give_up, ..RIGHT }, left, "was put aside for a crash");
}
