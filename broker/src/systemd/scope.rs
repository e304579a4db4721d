//! `job-broker-jobs.scope` in `jobs.slice`, the cgroup of all jobs under systemd. It must not be below the service: a
//! service whose cgroup still holds processes cannot be started again (219/CGROUP on 252, EBUSY on later versions).
//! The scope outlives restart, kill and upgrade of the broker and `daemon-reexec`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::sync::lock;
use crate::systemd::bus;
use crate::systemd::bus::{ScopeSpec, UnitState};
use crate::systemd::keeper;
use crate::systemd::keeper::Keeper;
use job_launch::cgroup::hierarchy;
use job_launch::cgroup::hierarchy::{Readiness, Scope as _};

/// The name of the unit. It must not change: a restarted broker finds its jobs by this name.
pub(crate) const NAME: &str = "job-broker-jobs.scope";
const SLICE: &str = "jobs.slice";
/// The unit that stops all jobs at shutdown; see packaging/systemd.
const DRAIN: &str = "job-broker-drain.service";
/// How long a start waits while systemd creates or removes the scope.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether systemd has the scope; true if systemd does not answer. Blocks.
pub(crate) fn exists() -> bool {
    !matches!(bus::find(NAME), Ok(UnitState::Absent))
}

/// The cgroup of the scope.
pub(crate) fn cgroup_path(mount: &Path) -> PathBuf {
    mount.join(SLICE).join(NAME)
}

/// The scope of all jobs.
#[derive(Debug)]
pub(crate) struct Scope {
    mount: PathBuf,
    path: PathBuf,
    program: File,
    keeper: Mutex<Option<Keeper>>,
    /// Held by the one thread that creates the scope or its keeper.
    establishing: Mutex<()>,
    /// The keeper's pidfd, for a task that waits for its end.
    keeper_pidfd: watch::Sender<Option<Arc<OwnedFd>>>,
}

/// The state of a scope whose keeper has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScopeState {
    /// Only the keeper had ended; a new one runs.
    KeeperReplaced,
    /// systemd is stopping the scope.
    Stopping,
    /// The scope is gone; the next start of a job creates it again.
    Gone,
}

impl hierarchy::Scope for Scope {
    /// Makes sure that the scope and its keeper exist. Costs one poll(2) if they do. Blocks.
    ///
    /// # Errors
    /// The scope is being stopped, or systemd cannot create one.
    fn ensure(&self) -> io::Result<Readiness> {
        let has_keeper = || self.lock().as_ref().is_some_and(Keeper::lives);
        if has_keeper() {
            return Ok(Readiness::Ready);
        }
        let _alone = lock(&self.establishing);
        let until = Instant::now() + TIMEOUT;
        while !has_keeper() {
            match self.establish() {
                Err(_) if Instant::now() < until => sleep(Duration::from_millis(50)), // before the next attempt
                established => established?,
            }
        }
        Ok(Readiness::Recreated)
    }
}

impl Scope {
    /// Opens the scope of an earlier broker, or creates one. A scope that is being stopped is opened as it is,
    /// since the broker still has to record the ends of its jobs. Blocks.
    ///
    /// # Errors
    /// systemd does not answer and no scope with a keeper exists, or systemd rejects the scope.
    pub(crate) fn open(mount: &Path, program: &File) -> io::Result<Scope> {
        let scope = Scope {
            mount: mount.into(),
            path: cgroup_path(mount),
            program: program.try_clone()?,
            keeper: Mutex::default(),
            establishing: Mutex::default(),
            keeper_pidfd: watch::Sender::new(None),
        };
        match bus::find(NAME) {
            Ok(UnitState::Deactivating(state)) if scope.path.is_dir() => {
                tracing::warn!(
                    "{NAME} is {state}; no job can start before systemd has removed the scope"
                );
            }
            Err(e) => match Keeper::find(&scope.path) {
                Some(keeper) => {
                    tracing::warn!(
                        "{e}; using the existing scope {}, whose keeper is alive",
                        scope.path.display()
                    );
                    scope.set_keeper(keeper);
                }
                None => return Err(e),
            },
            Ok(_) => _ = scope.ensure()?,
        }
        Ok(scope)
    }

    /// The cgroup of the scope.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Watches the keeper's pidfd; every new keeper changes it.
    pub(crate) fn watch_keeper(&self) -> watch::Receiver<Option<Arc<OwnedFd>>> {
        self.keeper_pidfd.subscribe()
    }

    /// The state of the scope after its keeper has ended; starts a new keeper if possible. Blocks.
    ///
    /// # Errors
    /// systemd does not answer.
    pub(crate) fn state(&self) -> io::Result<ScopeState> {
        match bus::find(NAME)? {
            UnitState::Active(_) => self.ensure().map(|_| ScopeState::KeeperReplaced),
            UnitState::Deactivating(_) => Ok(ScopeState::Stopping),
            UnitState::Absent => Ok(ScopeState::Gone),
        }
    }

    fn establish(&self) -> io::Result<()> {
        match bus::find(NAME)? {
            UnitState::Active(cgroup) => self.keep(&cgroup),
            UnitState::Absent => self.create(),
            UnitState::Deactivating(state) => {
                let fault = format!(
                    "{NAME} is {state}: the scope was stopped; try again when systemd has removed it"
                );
                Err(io::Error::new(io::ErrorKind::ResourceBusy, fault))
            }
        }
    }

    /// Finds or starts the keeper of an existing scope.
    fn keep(&self, cgroup: &Path) -> io::Result<()> {
        self.expect(cgroup)?;
        keeper::move_into_leaf(&self.path)?;
        if let Some(keeper) = Keeper::find(&self.path) {
            tracing::info!(keeper = keeper.pid, "using the existing {NAME}");
            self.set_keeper(keeper);
            return Ok(());
        }
        let keeper = Keeper::start_in(&self.path, self.program.as_fd())?;
        tracing::warn!(keeper = keeper.pid, "the keeper of {NAME} had ended; started a new one");
        self.set_keeper(keeper);
        Ok(())
    }

    fn create(&self) -> io::Result<()> {
        let keeper = Keeper::start_here(&self.mount, self.program.as_fd())?;
        let spec = ScopeSpec {
            name: NAME,
            description: "Jobs of job-broker.service",
            slice: SLICE,
            before: DRAIN,
            pid: keeper.pid,
        };
        let made = bus::create(&spec).and_then(|found| match found {
            UnitState::Active(cgroup) => self.expect(&cgroup),
            other => Err(io::Error::other(format!("{NAME} is not active: {other:?}"))),
        });
        if let Err(e) = made.and_then(|()| keeper::move_into_leaf(&self.path)) {
            keeper.end();
            return Err(e);
        }
        tracing::info!(keeper = keeper.pid, cgroup = %self.path.display(), "created {NAME}");
        self.set_keeper(keeper);
        Ok(())
    }

    /// Checks the path of the scope. In a container, systemd's path and the broker's mount may differ.
    fn expect(&self, cgroup: &Path) -> io::Result<()> {
        let path = self.mount.join(cgroup);
        if path == self.path {
            return Ok(());
        }
        let fault = format!(
            "systemd reports {NAME} in {}, expected {}",
            path.display(),
            self.path.display()
        );
        Err(io::Error::other(fault))
    }

    fn set_keeper(&self, keeper: Keeper) {
        self.keeper_pidfd.send_replace(keeper.pidfd.try_clone().ok().map(Arc::new));
        *self.lock() = Some(keeper);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Keeper>> {
        lock(&self.keeper)
    }
}
