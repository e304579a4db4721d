//! Opens a job's output for reading. Reads nothing itself: [`OutputReader`] does.

use std::sync::Arc;

use crate::auth::{Authorized, Logs};
use crate::jobs::job::Job;
use crate::jobs::output::{OutputError, OutputReader, Range};
use crate::jobs::shared::Shared;
use crate::jobs::stats;
use crate::model::state::State;

/// A reader of the job's output.
///
/// # Errors
/// [`OutputError`].
pub(crate) async fn output(
    shared: &Arc<Shared>,
    job: &Authorized<Logs, Arc<Job>>,
    range: Range,
) -> Result<OutputReader, OutputError> {
    let (caller, job) = (job.caller(), Arc::clone(job.subject()));
    // A job has no log files before its start.
    let _ = job.watch_snapshot().wait_for(|known| known.state != State::Starting).await;
    stats::refresh(shared, &job);
    let dir = shared.state.job(job.id());
    OutputReader::open(&shared.readers, caller, job, dir, range).await
}
