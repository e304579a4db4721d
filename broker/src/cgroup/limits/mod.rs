//! Limits as the kernel keeps them: what is written where, read back and compared; and what binds
//! in the end. Sources: cgroup-v2.rst; what a kernel takes without a word and does not keep
//! (`0x10`, too large numbers) is why every value is read back.

mod disks;
mod errors;
mod file;
mod plan;
mod reading;
pub(crate) mod resolve;
mod value;

pub(crate) use disks::ResolvedDisks;
pub(crate) use errors::{LimitError, Unenforceable};
pub(crate) use plan::Plan;
pub(crate) use reading::{Reading, readings};
#[cfg(test)]
pub(crate) use value::Value;
