//! The shared setup of all measurements: the programs, the references, a directory for jobs. It must not measure
//! anything.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::disk::State;
use super::ssh::Sshd;
use crate::programs::{Profile, Programs};
use crate::site::Throwaway;
use crate::{interrupt, workspace};

/// The shared setup.
pub(super) struct Bench {
    pub(super) programs: Programs,
    pub(super) sshd: Sshd,
    state: State,
    /// Mode 0755, unlike a site's directory: `nobody` can run and read its files.
    pub(super) open_dir: TempDir,
    pub(super) quick: bool,
    /// The number of running jobs, if not the default.
    pub(super) jobs: Option<usize>,
    /// The number of finished jobs, if not the default.
    pub(super) finished: Option<usize>,
    pub(super) profile: Profile,
}

impl Bench {
    /// Starts the references, and copies xtask to a directory that jobs can use.
    pub(super) fn new(
        profile: Profile,
        programs: Programs,
        state: State,
        quick: bool,
        (jobs, finished): (Option<usize>, Option<usize>),
    ) -> Result<Self> {
        Ok(Self {
            programs,
            sshd: Sshd::start()?,
            state,
            open_dir: open_dir()?,
            quick,
            jobs,
            finished,
            profile,
        })
    }

    /// The number of rounds, quick or full.
    pub(super) fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A new broker without jobs.
    pub(super) fn broker(&self) -> Result<Throwaway> {
        interrupt::check()?;
        Throwaway::open_in(&self.state.path(), self.profile, &self.programs)
    }

    /// The same for gigabytes: its state is on the host's own file system, without a loop device between.
    pub(super) fn broker_for_much(&self) -> Result<Throwaway> {
        interrupt::check()?;
        let dir = match &self.state {
            State::Own(_) => env::temp_dir(),
            State::There(dir) => dir.clone(),
        };
        Throwaway::open_in(&dir, self.profile, &self.programs)
    }

    /// The path of xtask's copy for jobs.
    pub(super) fn writer(&self) -> String {
        self.open_dir.path().join("xtask").display().to_string()
    }
}

/// Not below `/tmp`, which jobs have their own of.
fn open_dir() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("job-bench-").tempdir_in("/var/lib")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(workspace::own_program()?, dir.path().join("xtask")).context("cannot copy xtask")?;
    Ok(dir)
}
