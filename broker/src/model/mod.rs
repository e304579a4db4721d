//! The words that all rooms share: identities, requests, limits, states, usage. Pure data and rules; nothing
//! here does I/O or knows how anything is done.

pub(crate) mod abridged;
pub(crate) mod account;
pub(crate) mod call;
pub(crate) mod certificates;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod glob;
pub(crate) mod id;
pub(crate) mod identity;
pub(crate) mod isolation;
pub(crate) mod limits;
pub(crate) mod request;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod usage;
