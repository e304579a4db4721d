//! Pauses and resumes a job through `cgroup.freeze`. Records nothing: the kernel keeps the state, so a
//! pause survives the broker.
//!
//! A stopping job never stays frozen: the shim and `monitor/session.rs` thaw it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_shim::crash::{self, Point};
use tokio::time::timeout;

use crate::auth::{Authorized, Pause};
use crate::jobs::commands::detached;
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::shared::calls::Call;
use crate::journal::AUDIT;
use crate::metrics::METRICS;
use crate::metrics::labels::CgroupOperation;
use crate::model::identity::Identity;
use crate::model::state::{Event, State};
use crate::sync::Panicked;

/// How long a shim has to report why it thawed a job during a pause.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a job was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The job has not started, is being stopped, or has ended.
    #[error("the job is {0}; only a running job can be paused")]
    NotRunning(&'static str),
    /// The kernel did not freeze all processes.
    #[error("not all processes of the job could be frozen, so the job keeps running: {0}")]
    Freeze(io::Error),
    /// The processes are still frozen.
    #[error("the processes of the job could not be thawed; try again: {0}")]
    Thaw(io::Error),
    /// A task of the broker has panicked.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// Freezes all processes of a running job. Returns once they are frozen.
///
/// # Errors
/// [`PauseError`].
pub(crate) async fn pause(
    shared: &Arc<Shared>,
    job: &Authorized<Pause, Arc<Job>>,
    call: Call,
) -> Result<(), PauseError> {
    detached::run(shared, job, call, |shared, job, by| async move {
        pause_now(&shared, &job, &by, by.as_str()).await
    })
    .await
}

/// Thaws a job that is paused or being stopped; does nothing to any other.
///
/// # Errors
/// [`PauseError`].
pub(crate) async fn resume(
    shared: &Arc<Shared>,
    job: &Authorized<Pause, Arc<Job>>,
    call: Call,
) -> Result<(), PauseError> {
    detached::run(shared, job, call, |shared, job, by| async move {
        resume_now(&shared, &job, &by).await
    })
    .await
}

/// `turn` is whose share of the blocking threads it takes, `by` what the log names.
pub(super) async fn pause_now(
    shared: &Shared,
    job: &Job,
    turn: &Identity,
    by: &str,
) -> Result<(), PauseError> {
    job.wait_for_contact().await; // the shim may have begun to stop the job while no broker ran
    match job.snapshot().state {
        State::Paused => return Ok(()),
        State::Running => {}
        other => return Err(PauseError::NotRunning(other.name())),
    }
    tracing::info!(target: AUDIT, job = %job.id(), by, "pause");
    let frozen = freeze(shared, job, turn, true).await;
    if frozen.is_ok() && job.try_apply(Event::Paused).is_ok() {
        return Ok(());
    }
    // A stop may have been requested meanwhile, and a frozen job cannot end.
    if let Err(e) = freeze(shared, job, turn, false).await {
        tracing::error!(job = %job.id(), "the job cannot be thawed after a failed pause: {e}");
    }
    if frozen.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {
        let mut snapshot = job.watch_snapshot();
        let left_running = snapshot.wait_for(|known| known.state != State::Running);
        let _ = timeout(STATE_TIMEOUT, left_running).await; // else another process thawed the job
    }
    match (frozen, job.snapshot().state) {
        (Err(e), State::Running) => Err(PauseError::Freeze(e)),
        (_, other) => Err(PauseError::NotRunning(other.name())),
    }
}

async fn resume_now(shared: &Shared, job: &Job, by: &Identity) -> Result<(), PauseError> {
    // A stopping job may be frozen, too, while its shim cannot be reached.
    if !matches!(job.snapshot().state, State::Paused | State::Stopping) {
        return Ok(());
    }
    tracing::info!(target: AUDIT, job = %job.id(), %by, "resume");
    freeze(shared, job, by, false).await.map_err(PauseError::Thaw)?;
    let _ = job.try_apply(Event::Resumed); // unless it is being stopped
    Ok(())
}

/// Writes `cgroup.freeze`. To thaw a removed cgroup is no error.
async fn freeze(shared: &Shared, job: &Job, by: &Identity, freeze: bool) -> io::Result<()> {
    let cgroup = shared.launcher.hierarchy().job(job.id());
    let write = move || {
        crash::at(Point::FreezeDue);
        match cgroup.freeze(freeze) {
            Err(e) if !freeze && e.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(()) => Ok(()),
            Err(e) => {
                METRICS.cgroup_errors.add(CgroupOperation::Freeze, 1);
                Err(e)
            }
        }
    };
    let changes = &shared.threads.changes;
    changes.run(by, &shared.runtime, write).await.map_err(io::Error::other)?
}
