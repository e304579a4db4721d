//! Errors of the launcher's setup and of one launch. Worded for callers in `failure`.

use std::io;
use std::path::PathBuf;

use job_shim::wire::Failed;

use crate::audit::Unrecorded;
use crate::cgroup::hierarchy;
use crate::cgroup::limits::LimitError;
use crate::launch::accounts;
use crate::model::state::UNRECORDED;

/// Why there can be no launches at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No place for the jobs.
    #[error(transparent)]
    Hierarchy(#[from] hierarchy::HierarchyError),
    /// No account for the shims.
    #[error("jobs.shim_user: {0}")]
    Account(#[from] accounts::AccountError),
    /// A file that must be there.
    #[error("cannot {step} {path}: {source}")]
    Io {
        /// "open", "create".
        step: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The step at which a start failed; nothing of the job is left but its files.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is a step, named in its message")]
pub(crate) enum LaunchError {
    #[error("cannot create {path}: {source}")]
    CreateState { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    WriteSpec { path: PathBuf, source: io::Error },
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
    #[error("cannot write {path}: {source}")]
    WriteSpawn { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Unrecorded(Unrecorded),
    #[error("the shim did not answer GO: {0}")]
    Go(io::Error),
    #[error("the shim failed at {}", .0.step.name())]
    Shim(Failed),
}

impl LaunchError {
    /// As the contract names it.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            LaunchError::CreateState { .. } => "create_state",
            LaunchError::WriteSpec { .. } => "write_spec",
            LaunchError::CreateCgroup { .. } => "create_cgroup",
            LaunchError::Limits(_) => "limits",
            LaunchError::CreateJobDir { .. } => "create_job_dir",
            LaunchError::Isolate(_) => "isolate",
            LaunchError::Descriptors(_) => "descriptors",
            LaunchError::Spawn(_) => "spawn",
            LaunchError::Hello(_) => "hello",
            LaunchError::WriteSpawn { .. } => "write_spawn",
            LaunchError::Unrecorded(_) => UNRECORDED,
            LaunchError::Go(_) => "go",
            LaunchError::Shim(failed) => failed.step.name(),
        }
    }

    /// Whether the host, or the broker itself, is short of something that others give back: nothing of
    /// the job has run, and the same start may work in a moment. What the shim is short of counts
    /// against the job: its account, or its limits.
    pub(crate) fn is_shortage(&self) -> bool {
        const SHORT: [i32; 5] =
            [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::ENOBUFS];
        let is_before_go =
            !matches!(self, LaunchError::Shim(_) | LaunchError::Hello(_) | LaunchError::Go(_));
        matches!(self, LaunchError::Unrecorded(_)) || is_before_go && SHORT.contains(&self.errno())
    }

    /// errno(3), 0 where none applies.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            LaunchError::CreateState { source, .. }
            | LaunchError::WriteSpec { source, .. }
            | LaunchError::CreateCgroup { source, .. }
            | LaunchError::CreateJobDir { source, .. }
            | LaunchError::WriteSpawn { source, .. }
            | LaunchError::Descriptors(source)
            | LaunchError::Spawn(source)
            | LaunchError::Hello(source)
            | LaunchError::Go(source) => source.raw_os_error().unwrap_or(0),
            LaunchError::Limits(LimitError::Io { source, .. }) => {
                source.raw_os_error().unwrap_or(0)
            }
            LaunchError::Limits(LimitError::Differs { .. })
            | LaunchError::Isolate(_)
            | LaunchError::Unrecorded(_) => 0,
            LaunchError::Shim(failed) => failed.errno,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_is_short_of_is_told_from_what_the_job_may_not() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN] {
            assert!(LaunchError::Spawn(error(errno)).is_shortage());
            assert!(LaunchError::Descriptors(error(errno)).is_shortage());
            let path = PathBuf::from("/x");
            assert!(LaunchError::CreateState { path, source: error(errno) }.is_shortage());
            let failed = Failed { step: job_shim::step::Step::MakePipes, errno };
            assert!(!LaunchError::Shim(failed).is_shortage(), "by the limits of its account");
            assert!(!LaunchError::Go(error(errno)).is_shortage(), "it may have run");
        }
        assert!(!LaunchError::Spawn(error(libc::ENOENT)).is_shortage());
    }
}
