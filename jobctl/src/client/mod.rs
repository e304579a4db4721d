//! The broker as the commands see it: where it is, calls that survive a lost connection, a job's
//! output and input continued at the exact byte. Prints nothing but notices on standard error.

pub(crate) mod calls;
pub(crate) mod connection;
pub(crate) mod contexts;
mod expiry;
pub(crate) mod follow;
pub(crate) mod kept;
pub(crate) mod lookup;
pub(crate) mod settings;
