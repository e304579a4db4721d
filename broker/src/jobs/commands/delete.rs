//! Deletes a job that has ended, with its output. Never stops a job.

use std::io;
use std::sync::Arc;

use crate::auth::{Authorized, Delete};
use crate::jobs::history::archive;
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::journal::AUDIT;
use crate::sync::Panicked;

/// Why a job was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Stop it first.
    #[error("the job has not ended; stop it first")]
    Running,
    /// The file system.
    #[error("cannot remove the job's files: {0}")]
    Io(#[from] io::Error),
    /// A task of the broker has panicked.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// Removes an ended job and its output.
///
/// # Errors
/// [`DeleteError`].
pub(crate) async fn delete(
    shared: &Arc<Shared>,
    job: &Authorized<Delete, Arc<Job>>,
) -> Result<(), DeleteError> {
    let (caller, job) = (job.caller(), job.subject());
    job.wait_for_contact().await; // the job may have ended while no broker ran
    if !job.snapshot().state.is_over() {
        return Err(DeleteError::Running);
    }
    let by = caller.identity();
    tracing::info!(target: AUDIT, job = %job.id(), owner = %job.owner(), %by, "delete");
    // The final record is being written.
    let _ = job.watch_settled().wait_for(|settled| *settled).await;
    let (own, id) = (Arc::clone(shared), job.id());
    let remove = move || archive::remove(&own, &[id]);
    let removed = shared.threads.reads.run(caller.identity(), &shared.runtime, remove).await;
    for (_, removed) in removed.map_err(Panicked::from)? {
        removed?; // false: a concurrent call removed the job
    }
    Ok(())
}
