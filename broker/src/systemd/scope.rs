//! `job-broker-jobs.scope` in `jobs.slice`: where jobs live under systemd. Not below the service: a
//! service whose cgroup still holds processes cannot be started again (219/CGROUP on 252, EBUSY on
//! later versions). The scope outlives restart, kill, upgrade and `daemon-reexec`.

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

/// The unit's name, fixed: a restarted broker finds its jobs by it.
pub(crate) const NAME: &str = "job-broker-jobs.scope";
const SLICE: &str = "jobs.slice";
/// Stops all jobs in good order when the host goes down; see packaging/systemd.
const DRAIN: &str = "job-broker-drain.service";
/// How long a start waits at most for a scope that is just leaving or just coming, which takes systemd
/// a moment, and longer on a busy host.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether systemd has such a scope, and jobs may be in it. Blocks; where nobody can be asked, there
/// may be one.
pub(crate) fn exists() -> bool {
    !matches!(bus::find(NAME), Ok(UnitState::Absent))
}

/// Its cgroup.
pub(crate) fn cgroup_path(mount: &Path) -> PathBuf {
    mount.join(SLICE).join(NAME)
}

/// The scope.
#[derive(Debug)]
pub(crate) struct Scope {
    mount: PathBuf,
    path: PathBuf,
    program: File,
    keeper: Mutex<Option<Keeper>>,
    /// Held by the one thread that sees to it that there is a scope.
    establishing: Mutex<()>,
    /// The keeper's pidfd, for whoever waits for its end.
    keeper_pidfd: watch::Sender<Option<Arc<OwnedFd>>>,
}

/// What had to be done before a job could be put into the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nothing.
    Ready,
    /// The keeper was dead, and perhaps the scope gone.
    Recreated,
}

/// What became of a scope whose keeper has died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScopeState {
    /// It was the keeper alone; there is a new one.
    KeeperReplaced,
    /// systemd is ending all that is in the scope.
    Stopping,
    /// It is gone, and is made anew when a job wants to start.
    Gone,
}

impl Scope {
    /// The scope that an earlier broker has left, or a new one. One that is just being stopped is
    /// taken as it is: its jobs are still to be seen to their end. Blocks.
    ///
    /// # Errors
    /// Bus or systemd cannot be reached and no scope with a keeper is there, or systemd refuses.
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
                tracing::warn!("{NAME} is {state}; no job can start before it is gone");
            }
            Err(e) => match Keeper::find(&scope.path) {
                Some(keeper) => {
                    tracing::warn!("{e}; going on in {}, which is kept", scope.path.display());
                    scope.set_keeper(keeper);
                }
                None => return Err(e),
            },
            Ok(_) => _ = scope.ensure()?,
        }
        Ok(scope)
    }

    /// Its cgroup; the same for every scope of this name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that the scope is there and stays. One poll(2) if all is well. Blocks.
    ///
    /// # Errors
    /// The scope is being stopped, or systemd cannot make one.
    pub(crate) fn ensure(&self) -> io::Result<Readiness> {
        let has_keeper = || self.lock().as_ref().is_some_and(Keeper::lives);
        if has_keeper() {
            return Ok(Readiness::Ready);
        }
        let _alone = lock(&self.establishing);
        let until = Instant::now() + TIMEOUT;
        while !has_keeper() {
            match self.establish() {
                Err(_) if Instant::now() < until => sleep(Duration::from_millis(50)), // a try apart
                established => established?,
            }
        }
        Ok(Readiness::Recreated)
    }

    /// Tells the keeper's pidfd whenever there is a new keeper.
    pub(crate) fn watch_keeper(&self) -> watch::Receiver<Option<Arc<OwnedFd>>> {
        self.keeper_pidfd.subscribe()
    }

    /// To be called when the keeper has died. Blocks.
    ///
    /// # Errors
    /// Bus or systemd cannot be reached.
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
                let fault =
                    format!("{NAME} is {state}: it has been stopped; try again when it is gone");
                Err(io::Error::new(io::ErrorKind::ResourceBusy, fault))
            }
        }
    }

    /// The scope is there: so has to be a keeper in it.
    fn keep(&self, cgroup: &Path) -> io::Result<()> {
        self.expect(cgroup)?;
        keeper::move_into_leaf(&self.path)?;
        if let Some(keeper) = Keeper::find(&self.path) {
            tracing::info!(keeper = keeper.pid, "{NAME} was there already");
            self.set_keeper(keeper);
            return Ok(());
        }
        let keeper = Keeper::start_in(&self.path, self.program.as_fd())?;
        tracing::warn!(keeper = keeper.pid, "{NAME} had lost its keeper, and has a new one");
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
        tracing::info!(keeper = keeper.pid, cgroup = %self.path.display(), "{NAME} made");
        self.set_keeper(keeper);
        Ok(())
    }

    /// It is a subtree of the mount that systemd sees; in a container that need not be so.
    fn expect(&self, cgroup: &Path) -> io::Result<()> {
        let path = self.mount.join(cgroup);
        if path == self.path {
            return Ok(());
        }
        let fault =
            format!("systemd has {NAME} in {}, not {}", path.display(), self.path.display());
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
