//! Jobs that are over: their summaries and records, what is removed of them, what cannot be read, and
//! whether there is room for more. Nothing here touches a job that lives.

pub(crate) mod admission;
pub(crate) mod archive;
pub(crate) mod quarantine;
pub(crate) mod retention;
