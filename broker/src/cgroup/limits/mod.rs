//! Cgroup limits: which file gets which value, and which limit is effective. It must not accept a limit that the
//! kernel does not enforce: the kernel silently changes some values (`0x10`, too large numbers), so every value
//! is read back and compared. Source: cgroup-v2.rst.

mod disks;
mod errors;
pub(super) mod file;
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
