//! What broker and shim agree on: the words between them, what the shim is given at startup, and
//! the records that it leaves on disk. No I/O beyond reading and writing these; and in builds for
//! development the points at which both can be made to crash.

pub mod codec;
pub mod crash;
pub mod frame;
pub mod index;
pub mod launch;
pub mod record;
pub mod step;
pub mod wire;
