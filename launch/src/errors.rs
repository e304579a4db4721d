//! Errors of the launcher's setup and of one launch.

use std::io;
use std::path::PathBuf;

use job_shim::wire::Failed;

use crate::cgroup::limits::LimitError;

/// Why there can be no launches at all: a file that must be there.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path}: {source}")]
pub struct SetupError {
    /// "open", "create".
    pub step: &'static str,
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The step at which a launch failed; nothing of the job is left but its files.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is a step, named in its message")]
pub enum SpawnError {
    #[error("cannot create the cgroup {path}: {source}")]
    CreateCgroup { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Limits(LimitError),
    #[error("cannot create {path}: {source}")]
    CreateJobDir { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Isolate(String),
    #[error("cannot prepare the shim's descriptors: {0}")]
    Descriptors(io::Error),
    #[error("cannot spawn the shim: {0}")]
    Spawn(io::Error),
    #[error("the shim did not say hello: {0}")]
    Hello(io::Error),
    #[error("the shim did not answer GO: {0}")]
    Go(io::Error),
    #[error("the shim failed at {}", .0.step.name())]
    Shim(Failed),
}

impl SpawnError {
    /// As the contract names it.
    pub fn step(&self) -> &'static str {
        match self {
            SpawnError::CreateCgroup { .. } => "create_cgroup",
            SpawnError::Limits(_) => "limits",
            SpawnError::CreateJobDir { .. } => "create_job_dir",
            SpawnError::Isolate(_) => "isolate",
            SpawnError::Descriptors(_) => "descriptors",
            SpawnError::Spawn(_) => "spawn",
            SpawnError::Hello(_) => "hello",
            SpawnError::Go(_) => "go",
            SpawnError::Shim(failed) => failed.step.name(),
        }
    }

    /// Whether the host, or the broker itself, is short of something that others give back: nothing of
    /// the job has run, and the same start may work in a moment. What the shim is short of counts
    /// against the job: its account, or its limits.
    pub fn is_shortage(&self) -> bool {
        let is_before_go =
            !matches!(self, SpawnError::Shim(_) | SpawnError::Hello(_) | SpawnError::Go(_));
        is_before_go && is_short(self.errno())
    }

    /// errno(3), 0 where none applies.
    pub fn errno(&self) -> i32 {
        match self {
            SpawnError::CreateCgroup { source, .. }
            | SpawnError::CreateJobDir { source, .. }
            | SpawnError::Descriptors(source)
            | SpawnError::Spawn(source)
            | SpawnError::Hello(source)
            | SpawnError::Go(source) => source.raw_os_error().unwrap_or(0),
            SpawnError::Limits(LimitError::Io { source, .. }) => source.raw_os_error().unwrap_or(0),
            SpawnError::Limits(LimitError::Differs { .. }) | SpawnError::Isolate(_) => 0,
            SpawnError::Shim(failed) => failed.errno,
        }
    }
}

/// Whether this errno tells of something that others give back.
pub fn is_short(errno: i32) -> bool {
    const SHORT: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::ENOBUFS];
    SHORT.contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_is_short_of_is_told_from_what_the_job_may_not() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN] {
            assert!(SpawnError::Spawn(error(errno)).is_shortage());
            assert!(SpawnError::Descriptors(error(errno)).is_shortage());
            let path = PathBuf::from("/x");
            assert!(SpawnError::CreateJobDir { path, source: error(errno) }.is_shortage());
            let failed = Failed { step: job_shim::step::Step::MakePipes, errno };
            assert!(!SpawnError::Shim(failed).is_shortage(), "by the limits of its account");
            assert!(!SpawnError::Go(error(errno)).is_shortage(), "it may have run");
        }
        assert!(!SpawnError::Spawn(error(libc::ENOENT)).is_shortage());
    }
}
