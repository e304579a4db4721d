//! What the runs of a sandbox share: its launcher, its place, and who they run as. Gone with the last of them.

use std::fs;
use std::time::Duration;

use job_launch::cgroup::limits::Plan;
use job_launch::host;
use job_launch::launcher::Launcher;
use job_launch::model::spec::{Defaults, JobSpec};
use job_launch::settings::Settings;
use tokio::sync::Semaphore;

use super::held::Held;
use super::place::{self, Directories};
use super::request::{self, Accounts};
use crate::builder::Builder;
use crate::error::Error;

/// What the runs of a sandbox share.
#[derive(Debug)]
pub(super) struct Inner {
    /// Until the end.
    launcher: Option<Launcher>,
    root: Held,
    pub(super) directories: Directories,
    pub(super) accounts: Accounts,
    pub(super) defaults: Defaults,
    pub(super) boot_id: host::BootId,
    /// Turns to launch: each takes a dozen descriptors for a moment.
    pub(super) launches: Semaphore,
}

/// How many commands are launched at once; any number may run.
const LAUNCHES: usize = 8;

impl Inner {
    /// Makes all of it.
    ///
    /// # Errors
    /// `Refused`, `Setup`.
    pub(super) fn open(
        builder: &Builder,
        program: fs::File,
        accounts: Accounts,
        defaults: Defaults,
    ) -> Result<Inner, Error> {
        let setup = |step| move |source| Error::Setup { step, source };
        let boot_id = host::boot_id().map_err(setup("read the boot id"))?;
        let (tree, root) = place::hierarchy(builder)?;
        let opened = Directories::make(builder).and_then(|directories| {
            let settings = Settings {
                program,
                run_dir: &directories.run(),
                work_dir: &directories.work(),
                shim_account: accounts.shim,
                leftover_grace: Duration::ZERO,
                // Sizes of directories are not limited.
                job_dir_projects: (1, 1),
                tied: true,
                boot_id,
            };
            let launcher = Launcher::open(tree, &defaults.isolation, settings);
            let launcher = launcher.map_err(|e| Error::Setup { step: e.step, source: e.source })?;
            Ok((Some(launcher), directories))
        });
        let launches = Semaphore::new(LAUNCHES);
        let (launcher, directories) = opened.inspect_err(|_| _ = fs::remove_dir(root.path()))?;
        Ok(Inner { launcher, root, directories, accounts, defaults, boot_id, launches })
    }

    /// Whether this host can do all of it.
    ///
    /// # Errors
    /// `Refused`.
    pub(super) fn check(&self, spec: &JobSpec) -> Result<(), Error> {
        let launcher = self.launcher();
        Plan::new(&spec.limits, &Default::default())
            .check(launcher.hierarchy())
            .map_err(|e| request::unenforceable(&e))?;
        let missing = launcher.isolator().missing();
        let lacks = missing.into_iter().find(|(profile, _)| *profile == spec.isolation.profile);
        match lacks {
            Some((_, reason)) if spec.isolation.has_files() => {
                Err(Error::refused("isolation", reason))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn launcher(&self) -> &Launcher {
        self.launcher.as_ref().expect("it is there until the end")
    }
}

impl Drop for Inner {
    /// Nothing runs any more: each command has held this.
    fn drop(&mut self) {
        if let Some(launcher) = self.launcher.take() {
            launcher.close();
        }
        let _ = fs::remove_dir(self.root.path()); // what could not be ended keeps it
    }
}
