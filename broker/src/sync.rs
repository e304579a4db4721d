//! Locks that outlive a panic: one thread's panic must not take a job away from everybody else.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock, also after a panic of whoever held it: what is behind these locks is changed in steps that
/// each leave it whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
