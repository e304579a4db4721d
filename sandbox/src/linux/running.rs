//! One command, from its launch to nothing left: whoever drops it ends it. What it says is for `session`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use job_launch::cgroup::job::{JobCgroup, Leaf};
use job_launch::errors::SpawnError;
use job_launch::handshake::{self, Shim};
use job_launch::model::id::JobId;
use job_launch::model::spec::JobSpec;
use job_launch::model::usage::Usage;
use job_launch::request::LaunchRequest;

use super::inner::Inner;

/// A command that is launched, and not yet cleaned up after.
#[derive(Debug)]
pub(super) struct Running(Option<Left>);

/// What is left of it.
#[derive(Debug)]
struct Left {
    sandbox: Arc<Inner>,
    id: JobId,
    /// Of the shim, once there is one.
    pidfd: Option<OwnedFd>,
}

/// What came out of a launch.
pub(super) struct Launched {
    pub(super) running: Running,
    pub(super) shim: Shim,
    pub(super) id: JobId,
    pub(super) nonce: uuid::Uuid,
    /// Of its output.
    pub(super) directory: PathBuf,
}

impl Running {
    /// Launches it, and says GO. Blocks; must be called within a runtime.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing has run, and nothing is left.
    pub(super) fn launch(sandbox: &Arc<Inner>, spec: &JobSpec) -> Result<Launched, SpawnError> {
        let id = JobId::fresh();
        let mut left = Left { sandbox: Arc::clone(sandbox), id, pidfd: None };
        match left.launch(spec) {
            Ok((mut shim, nonce, directory)) => {
                let running = Running(Some(left));
                shim.go()?;
                Ok(Launched { running, shim, id, nonce, directory })
            }
            Err(error) => {
                let _ = left.clean(); // the launch has said what is wrong
                Err(error)
            }
        }
    }

    /// What it has used so far.
    pub(super) fn usage(&self) -> Usage {
        let Some(left) = &self.0 else { return Usage::default() };
        left.cgroup().usage(left.sandbox.launcher().hierarchy().features())
    }

    /// Ends what is left, and removes it. Blocks, for some milliseconds as a rule.
    ///
    /// # Errors
    /// Something cannot be ended: a process that waits for a device, or a server of files.
    pub(super) fn clean(mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), Left::clean)
    }
}

impl Left {
    fn launch(&mut self, spec: &JobSpec) -> Result<(Shim, uuid::Uuid, PathBuf), SpawnError> {
        let directory = self.directory();
        fs::create_dir(&directory).map_err(SpawnError::Descriptors)?;
        let request = LaunchRequest {
            id: self.id,
            spec,
            account: &self.sandbox.accounts.command,
            disks: &Default::default(),
            program: None,
            root: None,
            rules: &self.sandbox.defaults.isolation,
        };
        let spawned = self.sandbox.launcher().spawn(&directory, request, |_| ())?;
        match spawned.shim.pidfd.try_clone() {
            Ok(pidfd) => self.pidfd = Some(pidfd),
            Err(e) => {
                spawned.shim.end();
                return Err(SpawnError::Descriptors(e));
            }
        }
        Ok((spawned.shim, spawned.nonce, directory))
    }

    fn directory(&self) -> PathBuf {
        self.sandbox.directories.state().join(self.id.to_string())
    }

    fn cgroup(&self) -> JobCgroup {
        self.sandbox.launcher().hierarchy().job(self.id)
    }

    /// Kills all of it, and does not wait.
    fn kill(&self) {
        let _ = fs::write(self.cgroup().leaf(Leaf::Work).join("cgroup.kill"), "1"); // gone is as good
    }

    fn clean(self) -> io::Result<()> {
        self.kill();
        if let Some(pidfd) = &self.pidfd {
            handshake::end(pidfd.as_fd());
        }
        let cleaned = self.sandbox.launcher().clean(self.id);
        let _ = fs::remove_dir_all(self.directory()); // goes with the sandbox otherwise
        cleaned
    }
}

impl Drop for Running {
    /// Killed at once; to wait for that, and to remove what is left, takes a thread.
    fn drop(&mut self) {
        let Some(left) = self.0.take() else { return };
        left.kill();
        let cleaning = thread::Builder::new().name("job-sandbox".into());
        // Without a thread it stays for the end of the sandbox.
        let _ = cleaning.spawn(move || left.clean());
    }
}
