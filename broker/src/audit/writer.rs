//! The way to the thread that writes the audit: entries wait here until it takes them. Nothing here may block on a disk, or
//! hold more than a bounded number of bytes that nobody waits for.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch};

use crate::audit::chain::Dropped;
use crate::audit::checkpoint::Signer;
use crate::audit::entry::Entry;
use crate::audit::fold::Folder;
use crate::model::identity::Identity;
use crate::sync::lock;

/// Bytes of entries that nobody waits for and that the disk has not taken; further ones are counted and dropped.
pub(super) const MAX_BACKLOG: usize = 16 << 20;
/// How long the program's end waits for the last lines.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The audit could not be written, and the change was not made.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the audit cannot be written ({0}), and nothing is done that it would not have; an operator has to look at it"
)]
pub struct Unrecorded(pub(crate) String);

/// What becomes of an entry that the disk does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Its waiter is refused, and the entry forgotten.
    Durable,
    /// Its waiter goes on, and the entry stays in memory until the disk takes it.
    Kept,
}

pub(super) type Waiter = oneshot::Sender<Result<(), Unrecorded>>;

/// An entry that is not durable.
pub(super) struct Item {
    pub(super) object: String,
    pub(super) need: Need,
    pub(super) waiter: Option<Waiter>,
    pub(super) dropped: Option<Dropped>,
    pub(super) pushed: Instant,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Entries that found no room since the last line.
    lost: u64,
    /// When the oldest entry was pushed that is not durable.
    behind_since: Option<Instant>,
    folder: Folder,
    signer: Option<Signer>,
    checkpoint_now: bool,
    is_closing: bool,
    is_closed: bool,
}

/// What the thread has to do.
pub(super) struct Work {
    pub(super) items: VecDeque<Item>,
    /// Entries that found no room since the last work.
    pub(super) lost: u64,
    /// By whom, and how many, of what was counted instead of written.
    pub(super) folded: Vec<(String, u64)>,
    pub(super) checkpoint_now: bool,
    pub(super) is_closing: bool,
}

/// The way to the thread.
pub(super) struct Writer {
    queue: Mutex<Queue>,
    changed: Condvar,
    dir: PathBuf,
    /// Number of the last durable line; `None` until the files were opened.
    durable: watch::Sender<Option<u64>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Without a thread, to which nothing else leads.
    pub(super) fn new(dir: PathBuf, signer: Option<Signer>) -> Writer {
        let queue = Mutex::new(Queue { signer, ..Queue::default() });
        Writer { queue, changed: Condvar::new(), dir, durable: watch::Sender::new(None) }
    }

    /// Adds an entry. Never blocks.
    pub(super) fn push(&self, entry: &Entry, need: Need, waiter: Option<Waiter>) {
        let object = entry.to_json(SystemTime::now());
        let mut queue = self.queue();
        if waiter.is_none() && queue.bytes + object.len() > MAX_BACKLOG {
            queue.lost += 1;
            return;
        }
        queue.bytes += object.len();
        let pushed = Instant::now();
        queue.behind_since.get_or_insert(pushed);
        queue.items.push_back(Item { object, need, waiter, dropped: None, pushed });
        drop(queue);
        self.changed.notify_all();
    }

    /// Whether an entry by this identity, of what changes nothing, is a line of its own. `None`: a peer without an accepted
    /// certificate.
    pub(super) fn allows(&self, by: Option<&Identity>) -> bool {
        let mut queue = self.queue();
        let had_none = queue.folder.due().is_none();
        let allows = queue.folder.allows(by, Instant::now());
        if !allows && had_none {
            self.changed.notify_all(); // the thread has a time to wake up
        }
        allows
    }

    /// Signs with this key from now on, beginning with a checkpoint.
    pub(super) fn set_signer(&self, signer: Signer) {
        let mut queue = self.queue();
        queue.signer = Some(signer);
        queue.checkpoint_now = true;
        drop(queue);
        self.changed.notify_all();
    }

    /// Writes what is there, and a last checkpoint. Blocks, for [`CLOSE_TIMEOUT`] at most.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closing = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(queue, CLOSE_TIMEOUT, |q| !q.is_closed);
        drop(waited);
    }

    /// Where the files are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of the last durable line, `None` until the files were opened.
    pub(super) fn durable(&self) -> watch::Receiver<Option<u64>> {
        self.durable.subscribe()
    }

    /// How long the oldest entry that is not durable has waited; zero if there is none.
    pub(super) fn lag(&self) -> Duration {
        self.queue().behind_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until there is an entry or another thing to do, or until `due`.
    pub(super) fn wait(&self, due: Instant) -> Work {
        let mut queue = self.queue();
        loop {
            let now = Instant::now();
            let due = queue.folder.due().map_or(due, |fold| fold.min(due));
            let is_asked = queue.checkpoint_now || queue.is_closing;
            if !queue.items.is_empty() || is_asked || due <= now {
                queue.bytes = 0;
                let is_closing = queue.is_closing;
                return Work {
                    items: std::mem::take(&mut queue.items),
                    lost: std::mem::take(&mut queue.lost),
                    folded: queue.folder.take((!is_closing).then_some(now)),
                    checkpoint_now: std::mem::take(&mut queue.checkpoint_now),
                    is_closing,
                };
            }
            let waited = self.changed.wait_timeout(queue, due - now);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that lines up to this one are durable.
    pub(super) fn set_durable(&self, seq: u64) {
        self.durable.send_replace(Some(seq));
    }

    /// Says since when the oldest entry waits that was taken and is not durable.
    pub(super) fn set_behind(&self, since: Option<Instant>) {
        let mut queue = self.queue();
        queue.behind_since = since.or_else(|| queue.items.front().map(|item| item.pushed));
    }

    /// Counts an entry that was taken and found no room.
    pub(super) fn add_lost(&self) {
        self.queue().lost += 1;
    }

    /// The key that signs.
    pub(super) fn signer(&self) -> Option<Signer> {
        self.queue().signer.clone()
    }

    /// Lets those go on who wait for the thread's end.
    pub(super) fn set_closed(&self) {
        self.queue().is_closed = true;
        self.changed.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}
