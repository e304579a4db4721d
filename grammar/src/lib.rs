//! The grammar of what people type and read of jobs, for all programs. Pure: no I/O, and nothing of the contract.
//!
//! [`units`] reads and writes sizes, durations, rates and CPUs; [`names`] holds the rules of everything that a user may
//! name; [`signals`] their names and numbers; [`echo`] bounds what a message repeats of its input.

pub mod echo;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod names;
pub mod signals;
pub mod units;
