//! What a panic does to others: nothing to those who lock, and a fault of the broker to who waits for its task.

use tokio::task::JoinError;

pub(crate) use job_launch::sync::lock;

/// A task that did what a caller asked for has panicked. That is a fault of the broker, whatever the task
/// was doing: callers learn INTERNAL, and never that a disk or a job is at fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a fault of the broker broke the call off: {0}")]
pub struct Panicked(String);

impl From<JoinError> for Panicked {
    fn from(error: JoinError) -> Panicked {
        Panicked(error.to_string())
    }
}
