//! Pausing a job and letting it go on: `cgroup.freeze`, written here and nowhere else but in a shim
//! that asks a paused job to end. Whether a job is paused is the kernel's to know, so it survives
//! the broker.

use std::io;
use std::sync::Arc;

use super::errors::PauseError;
use super::job::Job;
use super::state::{Event, State};
use super::supervisor::Supervisor;
use crate::authorize::Authorized;

impl Supervisor {
    /// Freezes all processes of a job that runs. Answers when they stand still.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn pause(&self, job: &Authorized<Arc<Job>>) -> Result<(), PauseError> {
        let (by, job) = (job.caller().identity(), job.subject());
        let _turn = job.change_turn.lock().await;
        match job.snapshot().state {
            State::Paused => return Ok(()),
            State::Running => {}
            other => return Err(PauseError::NotRunning(other.name())),
        }
        tracing::info!(job = %job.id(), %by, "pause");
        self.freeze(job, true).await.map_err(PauseError::Freeze)?;
        if job.snapshot().state != State::Running {
            // Asked to stop meanwhile: it must be able to.
            self.freeze(job, false).await.map_err(PauseError::Freeze)?;
            return Err(PauseError::NotRunning(job.snapshot().state.name()));
        }
        job.apply(Event::Paused);
        Ok(())
    }

    /// Lets a paused job go on; any other is left alone.
    ///
    /// # Errors
    /// [`PauseError`].
    pub async fn resume(&self, job: &Authorized<Arc<Job>>) -> Result<(), PauseError> {
        let (by, job) = (job.caller().identity(), job.subject());
        let _turn = job.change_turn.lock().await;
        if job.snapshot().state != State::Paused {
            return Ok(());
        }
        tracing::info!(job = %job.id(), %by, "resume");
        self.freeze(job, false).await.map_err(PauseError::Freeze)?;
        if job.snapshot().state == State::Paused {
            job.apply(Event::Resumed);
        }
        Ok(())
    }

    async fn freeze(&self, job: &Job, freeze: bool) -> io::Result<()> {
        let cgroup = self.cgroup().job(job.id());
        let frozen = tokio::task::spawn_blocking(move || cgroup.freeze(freeze)).await;
        frozen.map_err(io::Error::other)?
    }
}
