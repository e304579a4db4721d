//! A kept connection of jobctl, in a directory of its own, as ssh's ControlMaster is the reference's. It must not be
//! found by other commands than those that ask for it.

use std::process::{Command, Stdio};

use anyhow::Result;
use tempfile::TempDir;

use crate::process;

/// A connection; dropping it ends it.
pub(super) struct Keeper {
    dir: TempDir,
    stop: Option<Command>,
}

impl Keeper {
    /// `jobctl` makes the command without its arguments, which says where the broker is.
    ///
    /// # Errors
    /// There is no connection.
    pub(super) fn start(jobctl: impl Fn() -> Command) -> Result<Keeper> {
        let dir = tempfile::Builder::new().prefix("job-bench-kept-").tempdir()?;
        let mut keeper = Keeper { dir, stop: None };
        process::check(keeper.on(&mut jobctl()).arg("connect").stdout(Stdio::null()))?;
        let mut stop = jobctl();
        keeper.on(&mut stop).args(["connect", "--stop"]);
        keeper.stop = Some(stop);
        Ok(keeper)
    }

    /// The same command, over this connection.
    pub(super) fn on<'a>(&self, jobctl: &'a mut Command) -> &'a mut Command {
        jobctl.env("XDG_RUNTIME_DIR", self.dir.path()).env("JOBCTL_PERSIST", "10m")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It ends with the broker, too.
        let _ = self.stop.take().map(|mut stop| process::check(&mut stop));
    }
}
