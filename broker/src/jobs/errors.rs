//! Why something was not done to a job, by whose doing. `grpc/refuse.rs` words the answers.

use std::io;

use super::job::Unreachable;
use super::state::Failure;
use crate::id::JobId;
use crate::launch::SetupError;
use crate::launch::accounts::AccountError;
use crate::store::OpenError;

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
    /// It is known as a job, and its program never ran.
    #[error("{failure}")]
    Failed {
        /// Which job tells of it.
        job: JobId,
        /// What did not work.
        failure: Failure,
    },
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
