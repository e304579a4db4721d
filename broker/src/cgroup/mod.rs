//! TODO

pub(crate) mod disk;
pub(crate) mod hierarchy;
pub(crate) mod job;
pub(crate) mod limits;
pub(crate) mod usage;
