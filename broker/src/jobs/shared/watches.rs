//! Watches the output index of jobs without a connection, through one inotify(7) instance: a watch costs no
//! descriptor. Reports growth, and the close by the shim's exit; reads no file.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::Notify;

use crate::store::log;
use crate::sync::lock;
use crate::sys;

/// Watches of all jobs. The kernel may refuse them (`fs.inotify.max_user_instances` and
/// `max_user_watches`, which are shared by all of root's programs): then files are looked at when
/// somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The kernel has refused, and operators have been told.
    is_reported: bool,
    /// Made for the first who needs it, and kept: to close one may block for 5 to 15 ms (measured).
    inotify: Option<Arc<Inotify>>,
    events: HashMap<WatchDescriptor, Arc<FileEvents>>,
}

#[derive(Debug, Default)]
struct FileEvents {
    changed: Notify,
    is_closed: AtomicBool,
}

/// A job's files, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Watch {
    watches: Arc<Watches>,
    inotify: Arc<Inotify>,
    descriptor: WatchDescriptor,
    events: Arc<FileEvents>,
}

/// What has happened to a job's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is more output, perhaps.
    Grown,
    /// Its shim has closed them: it has ended, or is about to.
    Closed,
}

impl Watches {
    /// Watches the files in a job's directory. Must be called within the runtime.
    ///
    /// # Errors
    /// EMFILE, ENOSPC: the kernel gives no more; else as open(2).
    pub(crate) fn watch(self: &Arc<Watches>, dir: &Path) -> io::Result<Watch> {
        let watch = self.try_watch(dir);
        let refused = |e: &io::Error| {
            [libc::EMFILE, libc::ENFILE, libc::ENOSPC].map(Some).contains(&e.raw_os_error())
        };
        if let Err(e) = &watch
            && refused(e)
            && !std::mem::replace(&mut self.state().is_reported, true)
        {
            tracing::warn!(
                "inotify cannot watch the output of jobs, the broker polls it while a reader follows: {e}; see \
                 fs.inotify.max_user_instances and max_user_watches, and the limit of descriptors"
            );
        }
        watch
    }

    fn try_watch(self: &Arc<Watches>, dir: &Path) -> io::Result<Watch> {
        let mut state = self.state();
        let inotify = match &state.inotify {
            Some(inotify) => Arc::clone(inotify),
            None => {
                let inotify = open(self)?;
                Arc::clone(state.inotify.insert(inotify))
            }
        };
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        let descriptor = inotify.add_watch(&dir.join(log::INDEX_NAME), events)?;
        let events = Arc::<FileEvents>::default();
        state.events.insert(descriptor, Arc::clone(&events));
        drop(state);
        Ok(Watch { watches: Arc::clone(self), inotify, descriptor, events })
    }

    fn dispatch(&self, inotify: &Inotify) -> io::Result<()> {
        let events = inotify.read_events()?;
        let state = self.state();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                state.events.values().for_each(|events| events.changed.notify_one()); // any may have changed
            } else if let Some(events) = state.events.get(&event.wd) {
                let is_closed = event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE);
                events.is_closed.fetch_or(is_closed, Ordering::AcqRel);
                events.changed.notify_one();
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Watch {
    /// Answers when something has happened since the last answer.
    pub(crate) async fn changed(&self) -> Change {
        self.events.changed.notified().await;
        match self.events.is_closed.swap(false, Ordering::AcqRel) {
            true => Change::Closed,
            false => Change::Grown,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.watches.state();
        let _ = self.inotify.rm_watch(self.descriptor); // a file that is gone has none
        state.events.remove(&self.descriptor);
    }
}

/// Opens the instance, with a task that dispatches its events for as long as `watches` lives.
fn open(watches: &Arc<Watches>) -> io::Result<Arc<Inotify>> {
    let inotify = Arc::new(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?);
    let readable = sys::watch_readable(Arc::new(inotify.as_fd().try_clone_to_owned()?))?;
    let (watches, reader) = (Arc::downgrade(watches), Arc::clone(&inotify));
    tokio::spawn(async move {
        while let Ok(mut events) = readable.readable().await {
            let Some(watches) = watches.upgrade() else { return };
            if let Ok(Err(e)) = events.try_io(|_| watches.dispatch(&reader)) {
                tracing::error!("inotify failed, the output of jobs is no longer watched: {e}");
                return;
            }
        }
    });
    Ok(inotify)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[tokio::test]
    async fn a_watch_tells_of_growth_and_of_the_end_of_whoever_writes() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watches = Arc::<Watches>::default();
        assert!(watches.watch(one.path()).is_err(), "there is nothing yet");
        let open = |dir: &Path| File::create(dir.join(log::INDEX_NAME)).unwrap();
        let (mut writer, _other) = (open(one.path()), open(other.path()));
        let (watch, quiet) =
            (watches.watch(one.path()).unwrap(), watches.watch(other.path()).unwrap());
        std::io::Write::write_all(&mut writer, b"entry").unwrap();
        assert_eq!(watch.changed().await, Change::Grown);
        drop(writer);
        assert_eq!(watch.changed().await, Change::Closed);
        assert!(!quiet.events.is_closed.load(Ordering::Acquire));
        drop((watch, quiet));
        assert!(watches.state().events.is_empty());
        fs::write(one.path().join(log::INDEX_NAME), "again").unwrap();
        let again = watches.watch(one.path()).unwrap();
        fs::write(one.path().join(log::INDEX_NAME), "again").unwrap();
        again.changed().await;
    }
}
