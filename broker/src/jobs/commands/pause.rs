//! Pausing a job and letting it go on: `cgroup.freeze`, written here and nowhere else but where a
//! paused job is to end: in its shim, and in `contact.rs`. Whether a job is paused is the kernel's to
//! know, so it survives the broker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_shim::crash::{self, Point};
use tokio::time::timeout;

use crate::auth::Authorized;
use crate::jobs::commands::start::Core;
use crate::jobs::errors::PauseError;
use crate::jobs::job::Job;
use crate::jobs::shared::calls::Call;
use crate::jobs::supervisor::Supervisor;
use crate::journal::AUDIT;
use crate::model::identity::Identity;
use crate::model::state::{Event, State};

/// How long a shim has to say why it has let a job go on that was about to stand still.
const PATIENCE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Freezes all processes of a job that runs. Answers when they stand still.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn pause(&self, job: &Authorized<Arc<Job>>, call: Call) -> Result<(), PauseError> {
        let (core, by) = (Arc::clone(&self.core), job.caller().identity().clone());
        let job = Arc::clone(job.subject());
        // Detached, as resume() is: a caller that hangs up does not leave a job that stands still and is
        // said to run.
        let pause = self.core.runtime.spawn(async move {
            let _call = call;
            let _turn = job.change_turn.lock().await;
            core.pause(&job, &by).await
        });
        pause.await.unwrap_or_else(|panic| Err(PauseError::Freeze(io::Error::other(panic))))
    }

    /// Lets a paused job go on, also one that is being stopped; any other is left alone.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn resume(&self, job: &Authorized<Arc<Job>>, call: Call) -> Result<(), PauseError> {
        let (core, by) = (Arc::clone(&self.core), job.caller().identity().clone());
        let job = Arc::clone(job.subject());
        let resume = self.core.runtime.spawn(async move {
            let _call = call;
            let _turn = job.change_turn.lock().await;
            core.resume(&job, &by).await
        });
        resume.await.unwrap_or_else(|panic| Err(PauseError::Thaw(io::Error::other(panic))))
    }
}

impl Core {
    async fn pause(&self, job: &Job, by: &Identity) -> Result<(), PauseError> {
        job.contacted().await; // its shim may have begun to stop it while no broker was there
        match job.snapshot().state {
            State::Paused => return Ok(()),
            State::Running => {}
            other => return Err(PauseError::NotRunning(other.name())),
        }
        tracing::info!(target: AUDIT, job = %job.id(), %by, "pause");
        let frozen = self.freeze(job, by, true).await;
        if frozen.is_ok() && job.try_apply(Event::Paused).is_ok() {
            return Ok(());
        }
        // It may have been asked to stop meanwhile, and must be able to.
        if let Err(e) = self.freeze(job, by, false).await {
            tracing::error!(job = %job.id(), "its pause cannot be taken back: {e}");
        }
        if frozen.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {
            let mut snapshot = job.watch_snapshot();
            let told = snapshot.wait_for(|known| known.state != State::Running);
            let _ = timeout(PATIENCE, told).await; // else it was somebody else
        }
        match (frozen, job.snapshot().state) {
            (Err(e), State::Running) => Err(PauseError::Freeze(e)),
            (_, other) => Err(PauseError::NotRunning(other.name())),
        }
    }

    async fn resume(&self, job: &Job, by: &Identity) -> Result<(), PauseError> {
        // One that is being stopped may stand still, too, while its shim cannot be told.
        if !matches!(job.snapshot().state, State::Paused | State::Stopping) {
            return Ok(());
        }
        tracing::info!(target: AUDIT, job = %job.id(), %by, "resume");
        self.freeze(job, by, false).await.map_err(PauseError::Thaw)?;
        let _ = job.try_apply(Event::Resumed); // unless it is being stopped
        Ok(())
    }

    /// A cgroup that is gone has nothing that could go on.
    async fn freeze(&self, job: &Job, by: &Identity, freeze: bool) -> io::Result<()> {
        let cgroup = self.ground.launcher.tree().job(job.id());
        let write = move || {
            crash::at(Point::FreezeDue);
            match cgroup.freeze(freeze) {
                Err(e) if !freeze && e.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            }
        };
        let changes = &self.ground.threads.changes;
        changes.run(by, &self.runtime, write).await.map_err(io::Error::other)?
    }
}
