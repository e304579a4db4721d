//! Mutexes without poisoning: a panic in one thread must not make a job unusable for every other thread. It must
//! guard only data that every single step leaves consistent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinError;

/// Locks the mutex, also after a panic of a thread that held it.
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
