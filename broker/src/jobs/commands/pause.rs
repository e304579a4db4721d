//! Pausing a job and letting it go on: `cgroup.freeze`, written here, and where a stopping job must not
//! stay frozen: in its shim and in `monitor/session.rs`. Whether a job is paused is the kernel's to know,
//! so it survives the broker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_shim::crash::{self, Point};
use tokio::time::timeout;

use crate::auth::{Authorized, Pause};
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::shared::calls::Call;
use crate::journal::AUDIT;
use crate::model::identity::Identity;
use crate::model::state::{Event, State};
use crate::sync::Panicked;

/// How long a shim has to say why it has let a job go on that was about to stand still.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// A task of the broker has panicked.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// Freezes all processes of a job that runs. Answers when they stand still.
///
/// # Errors
/// [`PauseError`].
pub(crate) async fn pause(
    shared: &Arc<Shared>,
    job: &Authorized<Pause, Arc<Job>>,
    call: Call,
) -> Result<(), PauseError> {
    let (own, by, job) =
        (Arc::clone(shared), job.caller().identity().clone(), Arc::clone(job.subject()));
    // Detached, as resume() is: a caller that hangs up does not leave a job that stands still and is
    // said to run.
    let pause = shared.runtime.spawn(async move {
        let _call = call;
        let _turn = job.change_turn.lock().await;
        pause_now(&own, &job, &by).await
    });
    pause.await.map_err(Panicked::from)?
}

/// Lets a paused job go on, also one that is being stopped; any other is left alone.
///
/// # Errors
/// [`PauseError`].
pub(crate) async fn resume(
    shared: &Arc<Shared>,
    job: &Authorized<Pause, Arc<Job>>,
    call: Call,
) -> Result<(), PauseError> {
    let (own, by, job) =
        (Arc::clone(shared), job.caller().identity().clone(), Arc::clone(job.subject()));
    let resume = shared.runtime.spawn(async move {
        let _call = call;
        let _turn = job.change_turn.lock().await;
        resume_now(&own, &job, &by).await
    });
    resume.await.map_err(Panicked::from)?
}

async fn pause_now(shared: &Shared, job: &Job, by: &Identity) -> Result<(), PauseError> {
    job.wait_for_contact().await; // its shim may have begun to stop it while no broker was there
    match job.snapshot().state {
        State::Paused => return Ok(()),
        State::Running => {}
        other => return Err(PauseError::NotRunning(other.name())),
    }
    tracing::info!(target: AUDIT, job = %job.id(), %by, "pause");
    let frozen = freeze(shared, job, by, true).await;
    if frozen.is_ok() && job.try_apply(Event::Paused).is_ok() {
        return Ok(());
    }
    // It may have been asked to stop meanwhile, and must be able to.
    if let Err(e) = freeze(shared, job, by, false).await {
        tracing::error!(job = %job.id(), "its pause cannot be taken back: {e}");
    }
    if frozen.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {
        let mut snapshot = job.watch_snapshot();
        let left_running = snapshot.wait_for(|known| known.state != State::Running);
        let _ = timeout(STATE_TIMEOUT, left_running).await; // else it was somebody else
    }
    match (frozen, job.snapshot().state) {
        (Err(e), State::Running) => Err(PauseError::Freeze(e)),
        (_, other) => Err(PauseError::NotRunning(other.name())),
    }
}

async fn resume_now(shared: &Shared, job: &Job, by: &Identity) -> Result<(), PauseError> {
    // One that is being stopped may stand still, too, while its shim cannot be told.
    if !matches!(job.snapshot().state, State::Paused | State::Stopping) {
        return Ok(());
    }
    tracing::info!(target: AUDIT, job = %job.id(), %by, "resume");
    freeze(shared, job, by, false).await.map_err(PauseError::Thaw)?;
    let _ = job.try_apply(Event::Resumed); // unless it is being stopped
    Ok(())
}

/// A cgroup that is gone has nothing that could go on.
async fn freeze(shared: &Shared, job: &Job, by: &Identity, freeze: bool) -> io::Result<()> {
    let cgroup = shared.launcher.hierarchy().job(job.id());
    let write = move || {
        crash::at(Point::FreezeDue);
        match cgroup.freeze(freeze) {
            Err(e) if !freeze && e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    };
    let changes = &shared.threads.changes;
    changes.run(by, &shared.runtime, write).await.map_err(io::Error::other)?
}
