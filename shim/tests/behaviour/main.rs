//! What a shim does, seen from its broker: each test plays that part. They need root and a cgroup2
//! hierarchy; without them they say so and pass.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod broker;
mod checked_program;
mod ending;
mod frozen;
mod host;
mod isolation;
mod limits;
mod memory;
mod output;
mod reconnect;
mod rlimits;
mod start;
