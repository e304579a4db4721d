//! End-to-end tests: an environment with a real broker, and what the suites under `tests/` need to
//! drive and judge it.
//!
//! [`Env`] starts the real programs in a place of their own and leaves nothing behind. The suites
//! are sentences about behaviour; one that stands for a row of the table of faults names its number.
//! `cargo test -p job-tests` runs them here, `cargo xtask test` here and in the testbed VM, where
//! `JOB_TESTBED` is set and loads are smaller ([`scaled`]). What a host must have for a test, the
//! test asks for ([`host`]).
//!
//! A host may stand still for a second at any point. So what must come in some order is brought into
//! it: by a [`Gate`], by a word of the job's, by a limit that an update sets then ([`api::end_in`]).
//! What is measured has further windows ([`measure::windows`]), and what has a bound on its time
//! [`trials`]: a wrong program fails in all of them. What fails all the same, `cargo xtask test` looks at
//! once more, alone: a test that passes then rejects nothing, and the summary calls it flaky. Look into
//! it: a race in a program shows itself in the same way.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

pub mod api;
pub mod attack;
mod broker;
mod cgroup;
mod env;
pub mod finished;
mod gate;
pub mod host;
mod jobctl;
pub mod ledger;
pub mod machine;
pub mod measure;
pub mod oracle;
mod programs;
pub mod refusal;
mod scratch;
mod small_disk;
mod wait;

pub use broker::{Broker, CRASH_AT, HOLD_AT};
pub use cgroup::Cgroup;
pub use env::{Builder, Env};
pub use gate::Gate;
pub use jobctl::{Finished, Running};
pub use programs::{Programs, target_dir};
pub use wait::{TIMEOUT, eventually, is_running, is_testbed, scaled, trials, until};
