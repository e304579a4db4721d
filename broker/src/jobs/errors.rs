//! Why something was not done to a job, by whose doing. `grpc/refuse.rs` words the answers.

use std::io;

use crate::cgroup::limits::{LimitError, Unenforceable};
use crate::jobs::channel::Unreachable;
use crate::jobs::history::retention::NoRoom;
use crate::jobs::shared::NotKnown;
use crate::launch::SetupError;
use crate::launch::accounts::AccountError;
use crate::model::id::JobId;
use crate::model::limits::Violations;
use crate::model::state::Failure;
use crate::store::OpenError;
use crate::store::records;

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] OpenError),
    /// Cgroups, shim, accounts.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The jobs of an earlier broker.
    #[error("cannot read the jobs on disk: {0}")]
    Adopt(io::Error),
    /// `/proc`.
    #[error("cannot read this host's boot id: {0}")]
    Host(io::Error),
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another request had this id.
    #[error("request id {request_id:?} belongs to job {job}, which was another request")]
    RequestReused {
        /// As sent.
        request_id: String,
        /// Whose it is.
        job: JobId,
    },
    /// The job of this request is in quarantine.
    #[error(
        "request id {request_id:?} belongs to job {job}, whose records are damaged: it is in \
         quarantine, and may have run; to run it all the same, use another request id"
    )]
    RequestAside {
        /// As sent.
        request_id: String,
        /// Whose it is.
        job: JobId,
    },
    /// A live job of the same owner has this name.
    #[error("the name {name:?} belongs to job {job}, which has not ended")]
    NameTaken {
        /// As sent.
        name: String,
        /// Whose it is.
        job: JobId,
    },
    /// Whom it should run as.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// What it may use.
    #[error(transparent)]
    Unenforceable(#[from] Unenforceable),
    /// The disk is, or keeps, too full.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// As many jobs run as may.
    #[error(
        "{0} jobs run, and no more may at a time (jobs.max_running); try again when one of them has ended"
    )]
    TooMany(u64),
    /// For this moment. Nothing has run, and no job is kept of it.
    #[error("{0}")]
    Shortage(String),
    /// Whether it was started before cannot be said.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It is known as a job, and its program never ran.
    #[error("{failure}")]
    Failed {
        /// Which job tells of it.
        job: JobId,
        /// What did not work.
        failure: Failure,
    },
}

/// Why a job was not looked up.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It may be on disk.
    #[error(transparent)]
    NotKnown(#[from] NotKnown),
    /// It is on disk.
    #[error("cannot read its records: {0}")]
    Io(#[from] io::Error),
}

impl From<NotKnown> for StartError {
    fn from(error: NotKnown) -> Self {
        FindError::from(error).into()
    }
}

/// Why a job was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Stop it first.
    #[error("the job has not ended; stop it first")]
    Running,
    /// The file system.
    #[error("cannot remove its files: {0}")]
    Io(#[from] io::Error),
}

/// It is being stopped, but not for good.
#[derive(Debug, thiserror::Error)]
#[error(
    "the job is being stopped, but its shim does not answer and {name} cannot be written: {0}; \
     stop it again if the broker is restarted before the job has ended",
    name = records::STOP
)]
pub struct StopError(#[source] pub(crate) io::Error);

/// A job that has ended takes no signal.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// Too late.
    #[error("the job has ended")]
    Over,
    /// Try again in a moment.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// Why limits were not changed; all of them are as they were.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Too late.
    #[error("the job has ended")]
    Over,
    /// It is being started.
    #[error("the job has not started yet; try again in a moment")]
    Starting,
    /// Fields that break a rule.
    #[error("invalid limits")]
    Invalid(Violations),
    /// This host cannot.
    #[error(transparent)]
    Unenforceable(#[from] Unenforceable),
    /// The kernel would kill.
    #[error(
        "the job uses {used} bytes of memory, more than the new memory.max of {asked}: the kernel \
         would reclaim, and kill the job if that is not enough; use force to accept that"
    )]
    MemoryInUse {
        /// `memory.current`.
        used: u64,
        /// The new limit.
        asked: u64,
    },
    /// Whether the kernel would kill cannot be told now.
    #[error(
        "how much memory the job uses cannot be read now ({0}); try again, or use force to change the \
         limit all the same"
    )]
    Unmeasured(#[source] io::Error),
    /// The kernel did not take it.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Try again in a moment.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// `spec.json`.
    #[error("cannot write its record: {0}")]
    Record(io::Error),
}

/// Why a job was not paused, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// Too late, or too early.
    #[error("the job is {0}, and only one that runs can be paused")]
    NotRunning(&'static str),
    /// Its processes did not come to a stand.
    #[error("not all processes of the job could be frozen, and all go on: {0}")]
    Freeze(io::Error),
    /// They still stand.
    #[error("the processes of the job could not be let go on; try again: {0}")]
    Thaw(io::Error),
}
