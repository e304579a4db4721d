//! What callers do to jobs: one verb a file, each a free function over [`Shared`](super::shared::Shared)
//! that takes the proof of authorization. No verb calls another, except `drain` and `revocation`.

pub(crate) mod delete;
mod detached;
pub(crate) mod drain;
pub(crate) mod input;
mod launch_task;
pub(crate) mod output;
pub(crate) mod pause;
mod prepare;
mod program;
pub(crate) mod revocation;
pub(crate) mod signal;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod update;
pub(crate) mod wait;
