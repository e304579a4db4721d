//! One verb a file: what a caller does to a job. TODO

pub(crate) mod input;
pub(crate) mod launching;
pub(crate) mod pause;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod update;
