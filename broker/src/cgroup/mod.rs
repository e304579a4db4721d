//! Cgroups: where those of jobs are and what this host gives them, one job's cgroup, its limits and usage,
//! and the disks that limits speak of. Nothing here knows records, callers or shims.
//! Source: Documentation/admin-guide/cgroup-v2.rst.

pub(crate) mod disk;
pub(crate) mod features;
pub(crate) mod hierarchy;
pub(crate) mod job;
pub(crate) mod limits;
pub(crate) mod usage;
