//! What all who look after the jobs of one state directory share.

pub(crate) mod calls;
pub(crate) mod capacity;
pub(crate) mod reach;
pub(crate) mod threads;
pub(crate) mod watches;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::host;
use crate::jobs::registry::Table;
use crate::jobs::shared::reach::Reach;
use crate::jobs::shared::threads::Threads;
use crate::jobs::shared::watches::Files;
use crate::launch::Launcher;
use crate::launch::accounts::Pool;
use crate::quota::descriptors::Shares;
use crate::store::StateDir;
use crate::store::index::Index;

/// What attendants work with.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) state: StateDir,
    pub(crate) launcher: Launcher,
    pub(crate) boot_id: host::BootId,
    pub(crate) pool: Arc<Pool>,
    /// Whether the table has all jobs that are on disk, or never will.
    pub(crate) known: watch::Sender<Option<Result<(), NotKnown>>>,
    /// A job has ended and is no burden but to the disk.
    pub(crate) ended: Notify,
    /// Jobs have come to be, have ended or were removed.
    pub(crate) counted: watch::Sender<()>,
    pub(crate) threads: Threads,
    /// Whose shim is reached next.
    pub(crate) reach: Arc<Reach>,
    /// What is known of jobs whose shims have no connection.
    pub(crate) files: Arc<Files>,
    /// Before `table`, where both are held.
    index: Mutex<Option<Index>>,
    table: Mutex<Table>,
    /// Jobs that cannot be read and are where they were, with the reasons.
    left: Mutex<BTreeMap<String, String>>,
}

/// The jobs of an earlier broker could not be read: what is not in memory may be on disk.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the jobs on disk could not be read: {0}")]
pub struct NotKnown(pub(crate) String);

impl Ground {
    pub(crate) fn new(
        state: StateDir,
        launcher: Launcher,
        boot_id: host::BootId,
        pool: Arc<Pool>,
    ) -> Ground {
        Ground {
            state,
            launcher,
            boot_id,
            pool,
            known: watch::Sender::new(None),
            ended: Notify::new(),
            counted: watch::Sender::new(()),
            threads: Threads::new(Shares::of_this_process()),
            reach: Arc::new(Reach::new()),
            files: Arc::default(),
            index: Mutex::default(),
            table: Mutex::default(),
            left: Mutex::default(),
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing until it has been read.
    pub(crate) fn index(&self) -> MutexGuard<'_, Option<Index>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is new.
    pub(crate) fn leave(&self, name: String, reason: String) -> bool {
        self.left().insert(name, reason.clone()) != Some(reason)
    }

    pub(crate) fn take_back(&self, name: &str) {
        self.left().remove(name);
    }

    pub(crate) fn left(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers when the table has all jobs that are on disk.
    ///
    /// # Errors
    /// [`NotKnown`].
    pub(crate) async fn all_known(&self) -> Result<(), NotKnown> {
        let mut known = self.known.subscribe();
        let known = known.wait_for(Option::is_some).await;
        // The sender is ours, and gives a verdict; should it not, nothing is known.
        let none = || Err(NotKnown("nobody reads them".into()));
        known.ok().and_then(|known| known.clone()).unwrap_or_else(none)
    }
}
