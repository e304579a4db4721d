//! What all measurements share: the programs, a reference to compare with, a directory for jobs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::ssh::Sshd;
use crate::programs::{Profile, Programs};
use crate::site::Throwaway;
use crate::{interrupt, workspace};

/// What all measurements share.
pub(super) struct Bench {
    pub(super) programs: Programs,
    pub(super) sshd: Sshd,
    /// 0755, unlike a site's: what is in it can be run and read by `nobody`.
    pub(super) open_dir: TempDir,
    pub(super) quick: bool,
    /// Running jobs, where other than the usual number is asked for.
    pub(super) jobs: Option<usize>,
    pub(super) profile: Profile,
}

impl Bench {
    /// Starts what references need, and copies xtask to where jobs may run it.
    pub(super) fn new(
        profile: Profile,
        programs: Programs,
        quick: bool,
        jobs: Option<usize>,
    ) -> Result<Self> {
        Ok(Self { programs, sshd: Sshd::start()?, open_dir: open_dir()?, quick, jobs, profile })
    }

    /// One of two numbers of rounds.
    pub(super) fn rounds(&self, quick: usize, full: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A broker that has done nothing yet.
    pub(super) fn broker(&self) -> Result<Throwaway> {
        interrupt::check()?;
        Throwaway::open(self.profile, &self.programs)
    }

    /// xtask's own program, where jobs may run it.
    pub(super) fn writer(&self) -> String {
        self.open_dir.path().join("xtask").display().to_string()
    }
}

fn open_dir() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("job-bench-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(workspace::own_program()?, dir.path().join("xtask")).context("cannot copy xtask")?;
    Ok(dir)
}
