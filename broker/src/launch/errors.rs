//! Errors of the launcher's setup and of one start. Worded for callers in `failure`.

use std::io;
use std::path::PathBuf;

use job_launch::errors::{self, SpawnError, is_short};

use crate::audit::Unrecorded;
use crate::model::state::UNRECORDED;
use job_launch::accounts;
use job_launch::cgroup::hierarchy;

/// Why there can be no launches at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No place for the jobs.
    #[error(transparent)]
    Hierarchy(#[from] hierarchy::HierarchyError),
    /// systemd or D-Bus failed.
    #[error(
        "cannot create the scope {name} for the jobs: {source}; set jobs.cgroup in the configuration \
         to use a plain cgroup without systemd"
    )]
    Scope {
        /// The name of the unit.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No account for the shims.
    #[error("jobs.shim_user: {0}")]
    Account(#[from] accounts::AccountError),
    /// A file that must be there.
    #[error(transparent)]
    File(#[from] errors::SetupError),
}

/// The step at which a start failed; nothing of the job is left but its files.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is a step, named in its message")]
pub(crate) enum LaunchError {
    #[error("cannot create {path}: {source}")]
    CreateState { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    WriteSpec { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    WriteSpawn { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Unrecorded(Unrecorded),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl LaunchError {
    /// As the contract names it.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            LaunchError::CreateState { .. } => "create_state",
            LaunchError::WriteSpec { .. } => "write_spec",
            LaunchError::WriteSpawn { .. } => "write_spawn",
            LaunchError::Unrecorded(_) => UNRECORDED,
            LaunchError::Spawn(error) => error.step(),
        }
    }

    /// Whether the host, or the broker itself, is short of something that others give back: nothing of
    /// the job has run, and the same start may work in a moment.
    pub(crate) fn is_shortage(&self) -> bool {
        match self {
            LaunchError::Unrecorded(_) => true,
            LaunchError::Spawn(error) => error.is_shortage(),
            other => is_short(other.errno()),
        }
    }

    /// errno(3), 0 where none applies.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            LaunchError::CreateState { source, .. }
            | LaunchError::WriteSpec { source, .. }
            | LaunchError::WriteSpawn { source, .. } => source.raw_os_error().unwrap_or(0),
            LaunchError::Unrecorded(_) => 0,
            LaunchError::Spawn(error) => error.errno(),
        }
    }
}
