//! Locks that outlive a panic: one thread's panic must not take a job away from everybody else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinError;

/// The lock, also after a panic of whoever held it: what is behind these locks is changed in steps that
/// each leave it whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
