//! The protocol between broker and shim: messages, the launch that a shim inherits, and the records
//! that it writes. No I/O beyond reading and writing these; the filters of system calls; and, in
//! development builds, the points at which tests crash either program.

pub mod codec;
pub mod crash;
pub mod filter;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod index;
pub mod isolation;
pub mod launch;
pub mod record;
pub mod search;
pub mod step;
pub mod wire;
