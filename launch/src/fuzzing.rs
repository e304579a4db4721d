//! The fuzz targets of the launch: functions that must have an answer for any bytes of a kernel or an owner of a program.
//! In no program: only tests and `cargo xtask fuzz` have them. Each is in the room that reads.

pub use crate::cgroup::fuzzing::{limit_files, mountinfo, usage};
pub use crate::program::fuzzing::script;

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! { limit_files mountinfo usage script }
}
