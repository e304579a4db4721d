//! Following a job's output. A reader holds a position and one piece, nothing else; it waits for
//! the shim's word and never polls; a slow one costs nobody anything.

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
