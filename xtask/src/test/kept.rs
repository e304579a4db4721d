//! What a process says that runs beside others: kept in a file, and passed on when it is its turn.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use crate::{process, workspace};

/// A file in the target directory.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// An empty one, `testbed-<name>.log`.
    ///
    /// # Errors
    /// It cannot be created.
    pub(super) fn create(name: &str) -> Result<Log> {
        let path = workspace::target_dir()?.join(format!("testbed-{name}.log"));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Log { path, file })
    }

    /// Runs to the end, and keeps all that it says.
    ///
    /// # Errors
    /// It cannot be run.
    pub(super) fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        command.stdout(self.file.try_clone()?).stderr(self.file.try_clone()?);
        process::status(command)
    }

    /// What has been said, passed on to stdout.
    pub(super) fn pass_on(&self) -> String {
        let said = fs::read(&self.path).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        print!("{said}");
        said
    }
}
