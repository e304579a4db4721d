//! Reads and follows a job's output. A reader holds a position and one piece, waits for the shim's progress
//! instead of polling, and never slows the job or another reader.

#[cfg(any(test, fuzzing))]
pub(in crate::jobs) mod fuzzing;
mod locate;
mod open_logs;
mod range;
mod reader;
mod readers;
#[cfg(test)]
mod samples;
mod tail;
mod turns;

pub use range::Range;
pub use reader::OutputReader;
pub(crate) use reader::{OutputError, Piece};
pub(crate) use readers::Readers;
