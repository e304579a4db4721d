//! Opens the program of a caller whose roles list programs, before the policy judges it, and holds it until its shim has
//! it. It must not judge, and opens nothing for anybody else.

use std::path::PathBuf;
use std::sync::Arc;

use crate::jobs::shared::Shared;
use crate::model::account::Account;
use crate::model::identity::Identity;
use crate::model::spec::JobSpec;
use crate::quota::fair_queue::FairPermit;
use crate::sync::Panicked;
use job_launch::program::{self, Invocation, OpenProgram, ProgramError};

/// A program that is to be executed by its descriptor. What the policy has not judged must not be launched.
#[derive(Debug)]
pub(crate) struct HeldProgram {
    open: OpenProgram,
    /// A share of the descriptors.
    _permit: FairPermit<Identity>,
}

/// Where the program of a job may be, in this directory or in its `PATH`.
pub(crate) fn places(spec: &JobSpec, directory: &str) -> Vec<PathBuf> {
    let (argv, path) = program::what_is_searched(spec);
    program::candidates(argv.first().map_or("", String::as_str), &path, directory)
}

impl HeldProgram {
    /// Opens the program of a job as its user, on a thread for look-ups: the file system may hang.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        owner: &Identity,
        spec: &JobSpec,
        directory: &str,
        account: &Account,
    ) -> Result<Result<HeldProgram, ProgramError>, Panicked> {
        let permit = shared.threads.programs.acquire(owner).await;
        let (argv, path) = program::what_is_searched(spec);
        let (directory, account) = (directory.to_owned(), account.clone());
        let open = move || program::open(&argv, &path, &directory, &account);
        let open = shared.threads.lookups.run(owner, &shared.runtime, open).await?;
        Ok(open.map(|open| HeldProgram { open, _permit: permit }))
    }

    /// All that the policy must allow.
    pub(crate) fn invocations(&self) -> Vec<Invocation> {
        self.open.invocations()
    }

    /// For its launch.
    pub(crate) fn program(&self) -> &OpenProgram {
        &self.open
    }
}
