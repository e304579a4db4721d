//! The audit: who did what, by which rule, with which outcome. Each line of its files has the hash of the line before, and
//! the entry of a change is on the disk before the change is made. This room must not decide who may do anything.
//!
//! Which entries there are:
//! - of each change, its permission (durable first) and its outcome; of each job, its end;
//! - of each permission to read a job's output, or another owner's job; of each list across owners; of each reading of the
//!   audit;
//! - of each refusal, of calls as of connections;
//! - of what the broker does of itself: jobs stopped or paused for a revocation, connections ended for their certificate,
//!   reloads.
//!
//! Reading one's own jobs (`ps`, `wait`) reveals nothing new, and has none. Reads and refusals of one identity are
//! bounded by [`fold`], with a count of what went; changes never.

mod chain;
mod checkpoint;
mod entry;
mod files;
mod fold;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod log;
mod read;
mod verify;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

pub(crate) use crate::audit::chain::Head;
use crate::audit::checkpoint::Signer;
pub(crate) use crate::audit::checkpoint::fingerprint;
pub(crate) use crate::audit::entry::{Entry, OwnAction, Phase};
use crate::audit::log::Settings;
pub(crate) use crate::audit::read::{Filter, Line, Reader, is_own_action};
pub(crate) use crate::audit::verify::{Options, verify};
pub(crate) use crate::audit::writer::Unrecorded;
use crate::audit::writer::{Need, Writer};
use crate::config::{self, AuditArguments};
use crate::model::identity::Identity;

/// The way to the audit. Cheap to clone. The default one keeps no audit: that of a library's supervisor.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    writer: Arc<Writer>,
    arguments: AuditArguments,
}

/// What says when an entry is durable.
#[derive(Debug)]
#[must_use = "a change must not be made before its entry is durable"]
pub(crate) struct Ticket(Option<oneshot::Receiver<Result<(), Unrecorded>>>);

/// The directory of the audit.
pub(crate) fn directory(config: &config::Config) -> PathBuf {
    config.audit.dir.clone().unwrap_or_else(|| config.jobs.state_dir.join("audit"))
}

/// The key that signs checkpoints: the broker's own.
pub(crate) fn signer(tls: &config::Tls) -> Option<Signer> {
    let signer = Signer::load(tls);
    signer
        .inspect_err(|fault| tracing::error!("checkpoints of the audit are not signed: {fault}"))
        .ok()
}

impl Audit {
    /// Starts the audit. A directory that cannot be used is no error here: it is tried again each second, and changes are
    /// refused meanwhile.
    ///
    /// # Errors
    /// As pthread_create(3).
    pub(crate) fn start(
        config: &config::Audit,
        dir: PathBuf,
        signer: Option<Signer>,
    ) -> std::io::Result<Audit> {
        let settings = Settings {
            dir,
            file_size: config.file_size,
            files: config.files,
            checkpoint: config.checkpoint,
            on_failure: config.on_failure,
        };
        let (writer, arguments) = (log::start(settings, signer)?, config.arguments);
        Ok(Audit(Some(Arc::new(Inner { writer, arguments }))))
    }

    /// An entry that must be durable before what it says is done.
    pub(crate) fn change(&self, entry: &Entry) -> Ticket {
        self.ticket(entry, Need::Durable)
    }

    /// The same for what is done even if the disk does not take the entry: it stays in memory then, and the journal has it.
    pub(crate) fn change_in_any_case(&self, entry: &Entry) -> Ticket {
        self.ticket(entry, Need::Kept)
    }

    fn ticket(&self, entry: &Entry, need: Need) -> Ticket {
        Ticket(self.0.as_ref().map(|inner| {
            let (waiter, ticket) = oneshot::channel();
            inner.writer.push(entry, need, Some(waiter));
            ticket
        }))
    }

    /// An entry that nobody waits for: an outcome, an end, what the broker did.
    pub(crate) fn note(&self, entry: &Entry) {
        if let Some(inner) = &self.0 {
            inner.writer.push(entry, Need::Kept, None);
        }
    }

    /// An entry of what changes nothing. Of many by one identity the rest is counted.
    pub(crate) fn note_bounded(&self, by: &Identity, entry: impl FnOnce() -> Entry) {
        self.note_allowed(Some(by), entry);
    }

    /// The same of a peer whose certificate is not accepted. All of them share one bound.
    pub(crate) fn note_unverified(&self, entry: impl FnOnce() -> Entry) {
        self.note_allowed(None, entry);
    }

    fn note_allowed(&self, by: Option<&Identity>, entry: impl FnOnce() -> Entry) {
        if let Some(inner) = self.0.as_ref().filter(|inner| inner.writer.allows(by)) {
            inner.writer.push(&entry(), Need::Kept, None);
        }
    }

    /// A reader of the lines after the one of this number, and the number of the last durable line. `entry` says who reads;
    /// all that was pushed before it is durable when this answers, unless the identity reads so often that its entries are
    /// counted. `None`: no audit is kept.
    ///
    /// # Errors
    /// [`Unrecorded`]: it must not be read.
    pub(crate) async fn reader(
        &self,
        (by, entry): (&Identity, &Entry),
        filter: Filter,
        after: u64,
    ) -> Result<Option<(Reader, watch::Receiver<Option<u64>>)>, Unrecorded> {
        let Some(inner) = &self.0 else { return Ok(None) };
        if inner.writer.allows(Some(by)) {
            self.change(entry).recorded().await?;
        }
        let durable = inner.writer.durable();
        if durable.borrow().is_none() {
            return Err(Unrecorded("its files could not be opened yet".into()));
        }
        Ok(Some((Reader::new(inner.writer.dir(), filter, after), durable)))
    }

    /// How long the oldest entry that is not durable has waited; zero if all are.
    pub(crate) fn lag(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |inner| inner.writer.lag())
    }

    /// What is written of a job's arguments.
    pub(crate) fn arguments(&self) -> AuditArguments {
        self.0.as_ref().map_or(AuditArguments::Program, |inner| inner.arguments)
    }

    /// Signs with this key from now on.
    pub(crate) fn set_signer(&self, signer: Signer) {
        if let Some(inner) = &self.0 {
            inner.writer.set_signer(signer);
        }
    }

    /// Writes what is left, and a last checkpoint. Blocks for a moment.
    pub(crate) fn close(&self) {
        if let Some(inner) = &self.0 {
            inner.writer.close();
        }
    }
}

/// Two handles to one audit are equal.
impl PartialEq for Audit {
    fn eq(&self, other: &Audit) -> bool {
        let of = |audit: &Audit| audit.0.as_ref().map(Arc::as_ptr);
        of(self) == of(other)
    }
}

impl Eq for Audit {}

impl Ticket {
    /// Answers when the entry is durable.
    ///
    /// # Errors
    /// [`Unrecorded`]: the change must not be made.
    pub(crate) async fn recorded(self) -> Result<(), Unrecorded> {
        match self.0 {
            Some(ticket) => ticket.await.unwrap_or_else(|_| Err(Ticket::no_thread())),
            None => Ok(()),
        }
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`Ticket::recorded`].
    pub(crate) fn wait(self) -> Result<(), Unrecorded> {
        match self.0 {
            Some(ticket) => ticket.blocking_recv().unwrap_or_else(|_| Err(Ticket::no_thread())),
            None => Ok(()),
        }
    }

    fn no_thread() -> Unrecorded {
        Unrecorded("its thread has ended".into())
    }
}
