//! What each identity may take, and whether there is more: quotas by configuration, and bounds on concurrent use. It
//! counts and rejects; it must not authorize, and knows no job: what runs is summed up by the registry that has it.
//!
//! [`Quotas`] is what everybody asks. A start and a change of limits are checked against a sum over the jobs that live
//! ([`jobs`]), under the lock of those; what is held for a time is a [`Permit`] of a [`Quota`] ([`counter`]).

pub(crate) mod counter;
pub(crate) mod descriptors;
pub(crate) mod fair_queue;
pub(crate) mod jobs;
pub(crate) mod kind;
pub(crate) mod limits;
pub(crate) mod pressure;
pub(crate) mod quotas;
mod refusal;
mod starts;

pub(crate) use counter::{Exceeded, Permit, Quota};
pub use quotas::Quotas;
pub(crate) use refusal::OverQuota;
