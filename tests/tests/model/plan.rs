//! The order of the brokers' and shims' steps, as lists: the real functions' order here, and the orders with a
//! mistake in `mistakes.rs`. A list must not decide anything.

use job_broker::decisions::{Facts, Verdict, recovery_rules};

/// A step of a broker for a job, and the function that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Do {
    /// `launch::write_spec`
    WriteSpec,
    /// `JobCgroup::create`, `Plan::apply`; the kernel may reject either.
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
    /// `monitor::monitor`: `connection::keep_connected` until the shim has ended
    Attend,
    /// `JobCgroup::kill_work`
    KillWork,
    /// `finalize::learn_end`
    LearnEnd,
    /// The first half of `store::replace_durably` with `final.json`
    RenameLast,
    /// The same step without its first sync
    RenameUnsyncedLast,
    /// The second half of `store::replace_durably`
    SyncLast,
    /// The first step of `finalize::write_final`
    SyncSpec,
    /// The last step of `finalize::write_final`
    ForgetStop,
    /// `Job::restore`
    Publish,
    /// The first and the last step of `Launcher::clean`
    RemoveSocket,
    RemoveCgroup,
    /// `Job::set_settled`
    Rest,
}

/// The shim's steps after its main process has ended: `Job::main_ended`, `Job::end`.
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

/// The choices of a plan, each of which can be a mistake.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// `launch_task::launch`
    pub(crate) launch: &'static [Do],
    pub(crate) attend: &'static [Do],
    /// `finalize::settle`
    pub(crate) settle: &'static [Do],
    /// The error path of `launch_task::launch`, `launch_task::give_up`
    pub(crate) give_up: &'static [Do],
    /// `adopt::sweep`
    pub(crate) sweep: &'static [Do],
    pub(crate) end: &'static [End],
    pub(crate) decide: fn(Facts) -> Verdict,
    /// `lock::try_lock`
    pub(crate) locks: bool,
    /// `Control::recognize`
    pub(crate) knows_epochs: bool,
    /// `adopt::facts`: never reads spawn.json of another boot.
    pub(crate) reads_foreign_spawn: bool,
    /// `session::main_ended`: shows an end by the broker's own kill once it is on record.
    pub(crate) waits_with_kills: bool,
    /// `stop::record_stop`: a stop is on record before its caller is answered.
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
    decide: recovery_rules::decide,
    locks: true,
    knows_epochs: true,
    reads_foreign_spawn: false,
    waits_with_kills: true,
    records_stops: true,
    repeats_failures: false,
};
