//! The audit log: events that say who did what, or was denied. They are lines of the log, with a target of their own;
//! this module must not decide what is one.

/// The target of audit events: an identity's action on a job or on the broker. No rate limits them, and no other line
/// displaces them.
pub(crate) const AUDIT: &str = "job_broker::audit";
