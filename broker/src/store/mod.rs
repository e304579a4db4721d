//! The state directory: who holds it, and where each job's files are. The truth about jobs is
//! here; whatever the broker has in memory was read from it or has been written to it.

pub(crate) mod damage;
mod durable;
pub(crate) mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod index;
mod lock;
pub(crate) mod log;
pub(crate) mod owner;
pub mod records;
pub(crate) mod repair;
mod seal;
mod state_dir;

pub(crate) use durable::{make_durable, replace, replace_durably};
pub(crate) use error::OpenError;
pub(crate) use lock::{lock, lock_now};
pub(crate) use state_dir::{StateDir, directories, jobs_in, make_private};
