//! The thread that writes the audit. Entries of changes wait for fdatasync(2), and many share one; others are written
//! without anybody waiting. It must not lose an entry that it has accepted, nor say that one is durable that is not.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use job_shim::crash::{self, Point};
use nix::fcntl::Flock;

use crate::audit::chain::Head;
use crate::audit::checkpoint;
use crate::audit::checkpoint::Signer;
use crate::audit::entry::{Entry, OwnAction, Phase};
use crate::audit::files::{self, LogFile};
use crate::audit::writer::{Item, MAX_BACKLOG, Need, Unrecorded, Work, Writer};
use crate::config::OnFailure;
use crate::journal::AUDIT;
use crate::metrics::METRICS;
use crate::store;

/// How long entries that nobody waits for may be in the page cache alone.
const LAZY_SYNC: Duration = Duration::from_secs(1);
/// Between two attempts to write after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread needs to know.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) dir: PathBuf,
    pub(super) file_size: u64,
    pub(super) files: u32,
    pub(super) checkpoint: Duration,
    pub(super) on_failure: OnFailure,
}

/// Starts the thread. A directory that cannot be used is a failure as any later one: it is tried again.
///
/// # Errors
/// As pthread_create(3).
pub(super) fn start(settings: Settings, signer: Option<Signer>) -> io::Result<Arc<Writer>> {
    let writer = Arc::new(Writer::new(settings.dir.clone(), signer));
    let log = Log::new(settings, Arc::clone(&writer));
    std::thread::Builder::new().name("audit".into()).spawn(move || log.run())?;
    Ok(writer)
}

/// The thread's own.
struct Log {
    settings: Settings,
    writer: Arc<Writer>,
    /// Of the directory, from the first success on: another broker's lines would break the chain.
    lock: Option<Flock<File>>,
    /// `None` before it was opened, and after a failure.
    open: Option<LogFile>,
    /// The last line written; that of the last sync; that of the last checkpoint.
    head: Head,
    synced: Head,
    checked: Head,
    /// Entries that are not durable, oldest first.
    backlog: VecDeque<Item>,
    unsynced_since: Option<Instant>,
    next_checkpoint: Instant,
    /// Since when it fails, and why.
    failing: Option<(Instant, String)>,
    was_opened: bool,
}

impl Log {
    fn new(settings: Settings, writer: Arc<Writer>) -> Log {
        let next_checkpoint = Instant::now() + settings.checkpoint;
        Log {
            settings,
            writer,
            lock: None,
            open: None,
            head: Head::EMPTY,
            synced: Head::EMPTY,
            checked: Head::EMPTY,
            backlog: VecDeque::new(),
            unsynced_since: None,
            next_checkpoint,
            failing: None,
            was_opened: false,
        }
    }

    /// Writes until the program ends.
    fn run(mut self) {
        loop {
            let Work { items, lost, folded, checkpoint_now, is_closing } = self.wait();
            let must_sync = items.iter().any(|item| item.waiter.is_some());
            self.backlog.extend(items);
            self.backlog.extend(folded.iter().map(|(who, count)| own(&folded_entry(who, *count))));
            self.note_lost(lost);
            if checkpoint_now {
                self.next_checkpoint = Instant::now();
            }
            let outcome = self.write(must_sync || is_closing);
            self.settle(outcome);
            self.writer.set_behind(self.backlog.front().map(|item| item.pushed));
            if is_closing {
                let _ = self.checkpoint(); // logged
                self.lock = None; // whoever waits for the end may be followed by another broker
                return self.writer.set_closed();
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Work {
        let retry = self.failing.as_ref().map(|(tried, _)| *tried + RETRY);
        let first = (!self.was_opened && self.failing.is_none()).then(Instant::now);
        let sync = self.unsynced_since.map(|since| since + LAZY_SYNC);
        let due = [retry, first, sync].into_iter().flatten().min();
        self.writer.wait(due.unwrap_or(self.next_checkpoint).min(self.next_checkpoint))
    }

    /// Entries that found no room are counted in a line: none is lost silently.
    fn note_lost(&mut self, lost: u64) {
        if lost > 0 {
            METRICS.audit_lost.add(lost);
            tracing::error!(target: AUDIT, lost, "entries of the audit found no room in memory");
            let entry = Entry::own(Phase::Broker, OwnAction::AuditLost).end("lost", lost);
            self.backlog.push_back(own(&entry));
        }
    }

    /// Writes the backlog, and syncs it if somebody waits or it has waited long enough.
    fn write(&mut self, must_sync: bool) -> io::Result<()> {
        self.open()?;
        self.append()?;
        let is_late = self.unsynced_since.is_some_and(|since| since.elapsed() >= LAZY_SYNC);
        if must_sync || is_late {
            self.sync()?;
        }
        let is_full = self.open.as_ref().is_some_and(|log| log.length >= self.settings.file_size);
        if is_full || Instant::now() >= self.next_checkpoint {
            self.sync()?;
            // The next attempt is due in an interval, whatever becomes of this one: lines are not held up by it.
            if let Err(e) = self.checkpoint() {
                tracing::error!("no checkpoint of the audit can be written: {e}");
            }
            self.next_checkpoint = Instant::now() + self.settings.checkpoint;
        }
        if is_full {
            self.rotate()?;
        }
        Ok(())
    }

    /// Opens the newest file, or begins the first.
    fn open(&mut self) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let dir = self.settings.dir.clone();
        store::make_private(&dir)?;
        self.lock(&dir)?;
        if self.was_opened {
            return self.open_again();
        }
        let mut entries = Vec::new();
        let log = match files::reopen(&dir)? {
            None => {
                self.head = Head::EMPTY;
                files::create(&dir, Head::EMPTY)?
            }
            Some((log, head, torn)) => {
                self.head = head;
                if let Some(torn) = torn {
                    let message = format!(
                        "a crash left {} bytes of a line that nobody was answered for, sha256 {}; they were removed",
                        torn.bytes, torn.hash
                    );
                    tracing::warn!("{}: {message}", log.path.display());
                    let entry = Entry::own(Phase::Broker, OwnAction::AuditRepair).message(message);
                    entries.push(own(&entry));
                }
                log
            }
        };
        entries.extend(self.missing(&dir));
        for item in entries.into_iter().rev() {
            self.backlog.push_front(item);
        }
        (self.synced, self.was_opened, self.open) = (self.head, true, Some(log));
        self.writer.set_durable(self.synced.seq);
        tracing::info!(target: AUDIT, head = %self.head, "the audit goes on");
        Ok(())
    }

    /// Only the first attempt waits for a predecessor that ends just now: entries wait as long as this does.
    fn lock(&mut self, dir: &Path) -> io::Result<()> {
        if self.lock.is_none() {
            let is_first = self.failing.is_none();
            let lock = if is_first { store::lock(dir) } else { store::lock_now(dir) };
            self.lock = Some(lock.map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// After a failure: what was written and is not known to be durable goes, and is written again from the backlog.
    fn open_again(&mut self) -> io::Result<()> {
        let (_, path) = files::list(&self.settings.dir)?
            .into_iter()
            .rfind(|(first, _)| *first <= self.synced.seq.max(1))
            .ok_or_else(|| io::Error::other("its files are gone"))?;
        let log = files::cut_behind(&path, self.synced)?;
        (self.head, self.open) = (self.synced, Some(log));
        Ok(())
    }

    /// Says in the chain that lines which a checkpoint knows are not there.
    fn missing(&self, dir: &Path) -> Option<Item> {
        let (signed, _) = checkpoint::load(dir).ok()?;
        let last = signed.last()?.head;
        (last.seq > self.head.seq).then(|| {
            let message = format!(
                "the checkpoint {last} knows lines up to {}, and the last one here is {}",
                last.seq, self.head.seq
            );
            tracing::error!(target: AUDIT, "lines of the audit are missing: {message}");
            own(&Entry::own(Phase::Broker, OwnAction::AuditMissing).message(message))
        })
    }

    /// Writes the entries of the backlog that are in no file.
    fn append(&mut self) -> io::Result<()> {
        let written = (self.head.seq - self.synced.seq) as usize;
        let (mut head, mut text) = (self.head, String::new());
        for item in self.backlog.iter().skip(written) {
            text.push_str(&head.append(&item.object, item.dropped.clone()));
            text.push('\n');
        }
        let Some(log) = self.open.as_mut().filter(|_| !text.is_empty()) else { return Ok(()) };
        log.file.write_all(text.as_bytes())?;
        crash::at(Point::AuditWritten);
        log.length += text.len() as u64;
        self.head = head;
        self.unsynced_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Makes all that is written durable, and answers those who wait.
    fn sync(&mut self) -> io::Result<()> {
        let Some(log) = self.open.as_ref().filter(|_| self.head != self.synced) else {
            return Ok(());
        };
        log.file.sync_data()?;
        crash::at(Point::AuditSynced);
        (self.synced, self.unsynced_since) = (self.head, None);
        self.writer.set_durable(self.synced.seq);
        for item in self.backlog.drain(..) {
            if let Some(waiter) = item.waiter {
                let _ = waiter.send(Ok(())); // its caller has hung up
            }
        }
        Ok(())
    }

    /// Begins a new file, and removes the oldest ones: first the line that says so, then they.
    fn rotate(&mut self) -> io::Result<()> {
        self.open = Some(files::create(&self.settings.dir, self.head)?);
        let Some((surplus, dropped)) = files::surplus(&self.settings.dir, self.settings.files)?
        else {
            return Ok(());
        };
        let message = format!(
            "lines {} to {} are no longer kept (audit.files)",
            dropped.last_seq + 1 - dropped.lines,
            dropped.last_seq
        );
        let entry = Entry::own(Phase::Broker, OwnAction::AuditDrop).message(&message);
        tracing::info!(target: AUDIT, "audit: {message}");
        self.backlog.push_back(Item { dropped: Some(dropped), ..own(&entry) });
        self.append()?;
        self.sync()?;
        surplus.iter().try_for_each(std::fs::remove_file)
    }

    /// Signs the head, and tells the journal.
    fn checkpoint(&mut self) -> io::Result<()> {
        if self.synced == self.checked || self.open.is_none() {
            return Ok(()); // nothing is new
        }
        let head = self.synced;
        tracing::info!(target: AUDIT, %head, "audit checkpoint");
        let signer = self.writer.signer();
        if let Some(signer) = signer {
            checkpoint::add(&self.settings.dir, &signer, head)?;
        }
        self.checked = head;
        Ok(())
    }

    /// After a failure: refuses those who must be refused, keeps what must be kept, and lets the others go on.
    fn settle(&mut self, outcome: io::Result<()>) {
        let Err(error) = outcome else {
            METRICS.audit_failing.set(0);
            if let Some((_, fault)) = self.failing.take() {
                tracing::info!(target: AUDIT, "the audit can be written again, after: {fault}");
            }
            return;
        };
        METRICS.audit_failing.set(1);
        let fault = error.to_string();
        if self.failing.as_ref().is_none_or(|(_, known)| *known != fault) {
            tracing::error!(target: AUDIT, "the audit cannot be written: {}: {fault}", self.settings.dir.display());
        }
        self.failing = Some((Instant::now(), fault.clone()));
        self.open = None;
        self.unsynced_since = None;
        let refuses = self.settings.on_failure == OnFailure::Refuse;
        let mut kept = 0;
        for mut item in std::mem::take(&mut self.backlog) {
            let Some(waiter) = item.waiter.take() else {
                kept += item.object.len();
                if kept <= MAX_BACKLOG {
                    self.backlog.push_back(item);
                } else {
                    self.writer.add_lost();
                }
                continue;
            };
            if refuses && item.need == Need::Durable {
                let _ = waiter.send(Err(Unrecorded(fault.clone())));
                continue;
            }
            tracing::warn!(target: AUDIT, "an entry of the audit is kept in memory: {}", item.object);
            let _ = waiter.send(Ok(()));
            kept += item.object.len();
            self.backlog.push_back(item);
        }
    }
}

/// Says how many entries were not lines of their own.
fn folded_entry(who: &str, count: u64) -> Entry {
    let message = format!("{count} further reads and refusals");
    Entry::own(Phase::Broker, OwnAction::AuditFolded)
        .by_name(who)
        .message(message)
        .end("folded", count)
}

/// An entry of the writer's own.
fn own(entry: &Entry) -> Item {
    let object = entry.to_json(SystemTime::now());
    Item { object, need: Need::Kept, waiter: None, dropped: None, pushed: Instant::now() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn start(dir: &Path) -> Arc<Writer> {
        let settings = Settings {
            dir: dir.into(),
            file_size: 1 << 20,
            files: 4,
            checkpoint: Duration::from_secs(60),
            on_failure: OnFailure::Refuse,
        };
        super::start(settings, None).unwrap()
    }

    fn change(writer: &Writer) -> Result<(), Unrecorded> {
        let (waiter, ticket) = oneshot::channel();
        writer.push(&Entry::new(Phase::Allowed, "start"), Need::Durable, Some(waiter));
        ticket.blocking_recv().unwrap()
    }

    #[test]
    fn two_brokers_never_write_one_chain_and_the_second_goes_on_when_the_first_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let first = start(dir.path());
        change(&first).unwrap();
        let second = start(dir.path());
        let refused = change(&second).unwrap_err().to_string();
        let holder = format!("is held by another broker, process {}", std::process::id());
        assert!(refused.contains(&holder), "{refused}");
        change(&first).unwrap();
        first.close();
        change(&second).unwrap();
        second.close();
        let paths = vec![dir.path().into()];
        let options = crate::audit::Options { paths, heads: vec![], signers: vec![] };
        let report = crate::audit::verify(&options).unwrap();
        assert!(report.is_good && report.text.contains("last line 3:"), "{}", report.text);
    }
}
