//! Values of the contract as text for people. Pure functions: no call, no file, no terminal.

pub(crate) mod cause;
pub(crate) mod errno;
pub(crate) mod escape;
pub(crate) mod isolation;
pub(crate) mod limits;
pub(crate) mod rlimit;
pub(crate) mod start_failure;
pub(crate) mod state;
pub(crate) mod time;
pub(crate) mod tls;
pub(crate) mod usage;
