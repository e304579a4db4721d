//! Jobs that are over. TODO

pub(crate) mod archive;
pub(crate) mod quarantine;
pub(crate) mod retention;
