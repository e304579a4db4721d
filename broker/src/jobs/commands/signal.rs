//! Sends one signal to a job. Records nothing: the message is in the shim's socket before the caller has
//! its answer, so the shim delivers the signal even if the broker dies.

use std::sync::Arc;

use job_shim::wire::{self, ToShim};

use crate::auth::{Authorized, Signal};
use crate::jobs::channel::Unreachable;
use crate::jobs::commands::stop::source;
use crate::jobs::job::Job;
use crate::journal::AUDIT;

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

/// One signal to the process group of the main process.
///
/// # Errors
/// [`SignalError`].
pub(crate) async fn signal(
    job: &Authorized<Signal, Arc<Job>>,
    number: i32,
) -> Result<(), SignalError> {
    let (caller, job) = (job.caller(), job.subject());
    job.wait_for_contact().await;
    let known = job.snapshot();
    if known.state.is_over() || known.exited.is_some() {
        return Err(SignalError::Over);
    }
    let (source, by) = (source(caller.role()), caller.identity().to_string());
    tracing::info!(target: AUDIT, job = %job.id(), by, number, "signal");
    match job.send_whole(&ToShim::Signal(wire::Signal { number, source, by })) {
        Err(Unreachable) if job.has_ended_late().await => Err(SignalError::Over),
        sent => Ok(sent?),
    }
}
