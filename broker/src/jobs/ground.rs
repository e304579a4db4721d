//! What all who look after the jobs of one state directory share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::files::Files;
use super::reach::Reach;
use super::table::Table;
use super::threads::Threads;
use crate::descriptors::Shares;
use crate::host;
use crate::launch::Launcher;
use crate::launch::accounts::Pool;
use crate::store::StateDir;
use crate::store::index::Index;

/// What attendants work with.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) state: StateDir,
    pub(super) launcher: Launcher,
    pub(super) boot_id: host::BootId,
    pub(super) pool: Arc<Pool>,
    /// Whether the table has all jobs that are on disk, or never will.
    pub(super) known: watch::Sender<Option<Result<(), NotKnown>>>,
    /// A job has ended and is no burden but to the disk.
    pub(super) ended: Notify,
    /// Jobs have come to be, have ended or were removed.
    pub(super) counted: watch::Sender<()>,
    pub(super) threads: Threads,
    /// Whose shim is reached next.
    pub(super) reach: Arc<Reach>,
    /// What is known of jobs whose shims have no connection.
    pub(super) files: Arc<Files>,
    /// Before `table`, where both are held.
    index: Mutex<Option<Index>>,
    table: Mutex<Table>,
    /// Jobs that cannot be read and are where they were, with the reasons.
    left: Mutex<BTreeMap<String, String>>,
}

/// The jobs of an earlier broker could not be read: what is not in memory may be on disk.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the jobs on disk could not be read: {0}")]
pub struct NotKnown(pub(super) String);

impl Ground {
    pub(super) fn new(
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

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing until it has been read.
    pub(super) fn index(&self) -> MutexGuard<'_, Option<Index>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is new.
    pub(super) fn leave(&self, name: String, reason: String) -> bool {
        self.left().insert(name, reason.clone()) != Some(reason)
    }

    pub(super) fn take_back(&self, name: &str) {
        self.left().remove(name);
    }

    pub(super) fn left(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers when the table has all jobs that are on disk.
    ///
    /// # Errors
    /// [`NotKnown`].
    pub(super) async fn all_known(&self) -> Result<(), NotKnown> {
        let mut known = self.known.subscribe();
        let known = known.wait_for(Option::is_some).await;
        // The sender is ours, and gives a verdict; should it not, nothing is known.
        let none = || Err(NotKnown("nobody reads them".into()));
        known.ok().and_then(|known| known.clone()).unwrap_or_else(none)
    }
}
