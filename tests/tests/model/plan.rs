//! The order in which brokers and shims do things, as lists: what the real functions do, and,
//! for each way to get it wrong, a list with the mistake.

use job_broker::decisions::{Facts, Verdict, decide};

/// One thing that a broker does about a job, and the function that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Do {
    /// `launch::write_spec`
    WriteSpec,
    /// `JobCgroup::create`, `Plan::apply`; these may be refused.
    CreateCgroup,
    /// `Launcher::spawn`: binds the socket, clones the shim.
    Spawn,
    /// `records::save` of `spawn.json`
    SaveSpawn,
    /// `store::make_durable`
    MakeSpecDurable,
    /// `Shim::go`
    Go,
    /// `Shim::expect_hello`, `Shim::expect_started`
    AwaitStarted,
    /// `Shim::end`
    EndShim,
    /// `attend::attend`: `contact::keep` until the shim has ended
    Attend,
    /// `JobCgroup::kill_work`
    KillWork,
    /// `attend::learn_end`
    LearnEnd,
    /// The first half of `store::replace_durably` with `final.json`
    RenameLast,
    /// The same without its first sync
    RenameUnsyncedLast,
    /// The second half
    SyncLast,
    /// `attend::write_final`, its first step
    SyncSpec,
    /// Its last
    ForgetStop,
    /// `Job::restore`
    Publish,
    /// `Launcher::clean`, its first and its last step
    RemoveSocket,
    RemoveCgroup,
    /// `Job::set_settled`
    Rest,
}

/// What a shim does once its main process has ended: `Job::main_ended`, `Job::end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    RecordOutcome,
    SayExited,
    SayEnded,
    SyncLogs,
    RecordEnded,
    SyncExit,
    Leave,
}

/// All that can be got right or wrong.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// `Launcher::launch`
    pub(crate) launch: &'static [Do],
    pub(crate) attend: &'static [Do],
    /// `attend::settle`
    pub(crate) settle: &'static [Do],
    /// The error path of `Launcher::launch`, `Core::give_up`
    pub(crate) give_up: &'static [Do],
    /// `adopt::over`
    pub(crate) sweep: &'static [Do],
    pub(crate) end: &'static [End],
    pub(crate) decide: fn(Facts) -> Verdict,
    /// `store::try_lock`
    pub(crate) locks: bool,
    /// `Control::recognize`
    pub(crate) knows_epochs: bool,
    /// `adopt::facts`: spawn.json of another boot is not even read.
    pub(crate) reads_foreign_spawn: bool,
    /// `contact::main_ended`: what the broker has killed itself is shown when that is on record.
    pub(crate) waits_with_kills: bool,
    /// `Core::stop_for_good`: on record before whoever asked is answered.
    pub(crate) records_stops: bool,
    /// `Snapshot::is_retryable`
    pub(crate) repeats_failures: bool,
}

use Do::*;

pub(crate) const RIGHT: Plan = Plan {
    launch: &[WriteSpec, CreateCgroup, Spawn, SaveSpawn, MakeSpecDurable, Go, AwaitStarted],
    attend: &[Attend],
    settle: &[
        KillWork,
        LearnEnd,
        SyncSpec,
        RenameLast,
        SyncLast,
        ForgetStop,
        Publish,
        RemoveSocket,
        RemoveCgroup,
        Rest,
    ],
    give_up: &[
        EndShim,
        RemoveSocket,
        KillWork,
        RemoveCgroup,
        SyncSpec,
        RenameLast,
        SyncLast,
        ForgetStop,
        Publish,
        Rest,
    ],
    sweep: &[RemoveSocket, KillWork, RemoveCgroup, Rest],
    end: &[
        End::RecordOutcome,
        End::SayExited,
        End::SayEnded,
        End::SyncLogs,
        End::RecordEnded,
        End::SyncExit,
        End::Leave,
    ],
    decide: decide::decide,
    locks: true,
    knows_epochs: true,
    reads_foreign_spawn: false,
    waits_with_kills: true,
    records_stops: true,
    repeats_failures: false,
};
