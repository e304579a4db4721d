//! Everything about cgroup v2: the hierarchy, the features of this host, one job's cgroup, limits, usage, and
//! the disks that I/O limits name. It must not know records, callers or the shim protocol.
//! Source: Documentation/admin-guide/cgroup-v2.rst.

pub(crate) mod disk;
pub mod features;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod hierarchy;
pub mod job;
pub mod limits;
pub(crate) mod usage;
