//! Cgroup limits: which file gets which value, and which limit is effective. It must not accept a limit that the
//! kernel does not enforce: the kernel silently changes some values (`0x10`, too large numbers), so every value
//! is read back and compared. Source: cgroup-v2.rst.

mod disks;
mod errors;
pub(super) mod file;
mod plan;
mod reading;
pub mod resolve;
mod value;

pub use disks::ResolvedDisks;
pub use errors::{LimitError, Unenforceable};
pub use plan::Plan;
pub use reading::{Reading, readings};
pub use value::Value;
