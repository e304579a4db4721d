//! Commands that start a job, `run` and `start`, and `auth can-i`, which asks whether they may.

pub(crate) mod can_i;
mod input;
mod request;
pub(crate) mod run;
