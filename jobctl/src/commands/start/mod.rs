//! Commands that start a job: `run` and `start`.

mod input;
mod request;
pub(crate) mod run;
