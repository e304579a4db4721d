//! Finished jobs: archive, retention, quarantine, and the admission of new jobs. Nothing here touches a
//! live job.

pub(crate) mod admission;
pub(crate) mod archive;
pub(crate) mod quarantine;
pub(crate) mod retention;
