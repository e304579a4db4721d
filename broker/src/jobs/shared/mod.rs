//! The shared state of one supervisor: registry, index, limits of threads and calls. Nothing here changes
//! a job.

pub(crate) mod calls;
pub(crate) mod capacity;
pub(crate) mod live_output;
pub(crate) mod reach;
pub(crate) mod threads;
pub(crate) mod watches;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::audit::Audit;
use crate::config;
use crate::jobs::events::Events;
use crate::jobs::output::Readers;
use crate::jobs::registry::Registry;
use crate::jobs::shared::calls::Calls;
use crate::jobs::shared::live_output::LiveOutput;
use crate::jobs::shared::reach::Reach;
use crate::jobs::shared::threads::Threads;
use crate::jobs::shared::watches::Watches;
use crate::launch::Launcher;
use crate::model::account::Account;
use crate::model::isolation::IsolationRules;
use crate::model::limits::LimitTables;
use crate::quota::Quotas;
use crate::quota::descriptors::Shares;
use crate::store::StateDir;
use crate::store::index::Index;
use crate::sync::lock;
use job_launch::accounts::Pool;
use job_launch::host::BootId;

/// The state that all tasks of one supervisor share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: config::Jobs,
    pub(crate) limits: watch::Sender<Arc<LimitTables>>,
    pub(crate) isolation: watch::Sender<Arc<IsolationRules>>,
    pub(crate) retention: watch::Sender<Arc<config::Retention>>,
    /// What each identity may take.
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) state: StateDir,
    pub(crate) launcher: Launcher,
    pub(crate) audit: Audit,
    pub(crate) boot_id: BootId,
    pub(crate) pool: Arc<Pool>,
    /// The account of jobs that run as `nobody`, which need not look it up.
    pub(crate) nobody: Account,
    /// Jobs that may run at a time.
    pub(crate) max_running: u64,
    /// What is left of the tries to read requests during a shortage, of all jobs together: a takeover of
    /// ten thousand jobs must not wait for each of them.
    pub(crate) shortage_tries: AtomicU32,
    pub(crate) events: Events,
    pub(crate) calls: Calls,
    pub(crate) threads: Threads,
    pub(crate) readers: Arc<Readers>,
    pub(crate) live_output: LiveOutput,
    /// The order of reconnects.
    pub(crate) reach: Arc<Reach>,
    /// The inotify watches of jobs without a connection.
    pub(crate) watches: Arc<Watches>,
    /// The runtime of all tasks of jobs.
    pub(crate) runtime: Handle,
    /// Whether the registry has all jobs that are on disk, or never will.
    recovered: watch::Sender<Option<Result<(), NotRecovered>>>,
    /// Before `registry`, where both are held.
    index: Mutex<Option<Index>>,
    registry: Mutex<Registry>,
    /// Jobs that cannot be read and are where they were, with the reasons.
    unreadable: Mutex<BTreeMap<String, String>>,
}

/// The jobs of an earlier broker could not be read: what is not in memory may be on disk.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the jobs on disk could not be read: {0}")]
pub struct NotRecovered(pub(crate) String);

/// What a [`Shared`] is made of: see its fields.
pub(crate) struct Parts {
    pub(crate) config: config::Jobs,
    pub(crate) limits: LimitTables,
    pub(crate) isolation: IsolationRules,
    pub(crate) retention: config::Retention,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) state: StateDir,
    pub(crate) launcher: Launcher,
    pub(crate) audit: Audit,
    pub(crate) boot_id: BootId,
    pub(crate) nobody: Account,
}

/// With a pause of 100 ms between two of them, 10 s.
const SHORTAGE_TRIES: u32 = 100;

impl Shared {
    /// Of a state directory whose jobs have still to be recovered. Must be called within the runtime of
    /// the jobs.
    pub(crate) fn new(parts: Parts) -> Shared {
        let Parts {
            config,
            limits,
            isolation,
            retention,
            quotas,
            state,
            launcher,
            audit,
            boot_id,
            nobody,
        } = parts;
        let shares = Shares::of_this_process();
        let max_running = capacity::max_running(config.max_running);
        tracing::debug!(max_running, "jobs that may run at a time");
        Shared {
            pool: Pool::new(config.pool, launcher.shim_uid()),
            config,
            limits: watch::Sender::new(Arc::new(limits)),
            isolation: watch::Sender::new(Arc::new(isolation)),
            retention: watch::Sender::new(Arc::new(retention)),
            state,
            launcher,
            audit,
            boot_id,
            nobody,
            max_running,
            shortage_tries: AtomicU32::new(SHORTAGE_TRIES),
            events: Events::new(),
            calls: Calls::new(&quotas),
            threads: Threads::new(shares, &quotas),
            readers: Readers::new(shares, &quotas),
            quotas,
            live_output: LiveOutput::default(),
            reach: Arc::new(Reach::new()),
            watches: Arc::default(),
            runtime: Handle::current(),
            recovered: watch::Sender::new(None),
            index: Mutex::default(),
            registry: Mutex::default(),
            unreadable: Mutex::default(),
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// Nothing until it has been read.
    pub(crate) fn index(&self) -> MutexGuard<'_, Option<Index>> {
        lock(&self.index)
    }

    /// What jobs may use, as of the last reload.
    pub(crate) fn limits(&self) -> Arc<LimitTables> {
        Arc::clone(&self.limits.borrow())
    }

    /// What jobs see of the host, as of the last reload.
    pub(crate) fn isolation(&self) -> Arc<IsolationRules> {
        Arc::clone(&self.isolation.borrow())
    }

    /// What is kept, as of the last reload.
    pub(crate) fn retention(&self) -> Arc<config::Retention> {
        Arc::clone(&self.retention.borrow())
    }

    /// A job cannot be read, and stays where it is; whether that is new.
    pub(crate) fn mark_unreadable(&self, name: String, reason: String) -> bool {
        self.unreadable().insert(name, reason.clone()) != Some(reason)
    }

    /// It can be read again, or is gone.
    pub(crate) fn clear_unreadable(&self, name: &str) {
        self.unreadable().remove(name);
    }

    pub(crate) fn unreadable(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        lock(&self.unreadable)
    }

    /// Tells those who wait in [`Shared::recovered`]. The first verdict counts.
    pub(crate) fn set_recovered(&self, verdict: Result<(), NotRecovered>) {
        self.recovered.send_if_modified(|known| {
            let is_open = known.is_none();
            *known = known.take().or(Some(verdict));
            is_open
        });
    }

    /// Answers when the registry has all jobs that are on disk.
    ///
    /// # Errors
    /// [`NotRecovered`].
    pub(crate) async fn recovered(&self) -> Result<(), NotRecovered> {
        let mut known = self.recovered.subscribe();
        let known = known.wait_for(Option::is_some).await;
        // The sender is ours, and gives a verdict; should it not, nothing is known.
        let none = || Err(NotRecovered("the recovery has ended without a verdict".into()));
        known.ok().and_then(|known| known.clone()).unwrap_or_else(none)
    }
}
