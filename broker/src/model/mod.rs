//! The words that all rooms share: identities, requests, states; those of a launch are `job_launch`'s. Pure data and rules;
//! nothing here does I/O or knows how anything is done.

pub(crate) mod call;
pub(crate) mod certificates;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod identity;
pub(crate) mod request;
pub(crate) mod state;

pub(crate) use job_launch::model::{account, glob, id, isolation, limits, spec, usage};
