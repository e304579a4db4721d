//! What each command does, in the groups of [`crate::cli`].

pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod control;
mod notes;
pub(crate) mod query;
pub(crate) mod selfcheck;
pub(crate) mod start;
