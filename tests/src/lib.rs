//! End-to-end tests: an environment with a real broker, and what the suites under `tests/` need to
//! drive and judge it.
//!
//! [`Env`] starts the real programs in isolation and leaves nothing behind. Test names are sentences
//! about behaviour; a test of a row in `docs/FAULTS.md` names the row's number.
//! `cargo test -p job-tests` runs them here, `cargo xtask test` here and in the testbed VM, where
//! `JOB_TESTBED` is set and loads are smaller ([`scaled`]). A test that needs a feature of the host asks
//! for it ([`host`]).
//!
//! A host may stall for a second at any point. So tests order events explicitly: with a [`Gate`], with a
//! line that the job prints, with a limit that an update sets ([`api::end_in`]). Measurements have several
//! windows ([`measure::windows`]), and tests with a time bound have [`trials`]: a wrong program fails in
//! all of them. `cargo xtask test` repeats a failed test once, alone: if it passes then, the run does not
//! fail, and the summary calls the test flaky. Look into it: a race in a program looks the same.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

pub mod api;
pub mod attack;
mod broker;
mod cgroup;
mod env;
pub mod finished;
mod gate;
mod hold;
pub mod host;
mod jobctl;
pub mod ledger;
pub mod machine;
pub mod measure;
pub mod metrics;
pub mod oracle;
mod programs;
pub mod refusal;
mod scratch;
mod small_disk;
pub mod small_root;
mod wait;

pub use broker::{Broker, CRASH_AT, HOLD_AT};
pub use cgroup::{Cgroup, mount as cgroup_mount};
pub use env::{Builder, Env};
pub use gate::Gate;
pub use hold::Hold;
pub use jobctl::{Finished, Running};
pub use programs::{Programs, target_dir};
pub use scratch::next_port;
pub use wait::{TIMEOUT, eventually, is_running, is_testbed, scaled, trials, until};
