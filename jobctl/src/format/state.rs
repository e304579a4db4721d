//! Which states are those of a live job.

use job_api::v1::Job;
use job_api::v1::job::State;

/// The states of a job that has not ended.
pub(crate) const LIVE: [State; 4] =
    [State::Starting, State::Running, State::Paused, State::Stopping];

/// Whether it has not ended.
pub(crate) fn is_live(job: &Job) -> bool {
    LIVE.contains(&job.state())
}
