//! Keeping in touch with a shim until its process has ended: who may connect when, what is known without
//! a connection, and how its end is noticed. An idle job has one descriptor, the connection; one that
//! has none to spare has a watch on its files.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::host;
use crate::jobs::job::Job;
use crate::jobs::monitor::session;
use crate::jobs::monitor::session::{ANSWER_TIMEOUT, Connection, SessionEnd};
use crate::jobs::process;
use crate::jobs::process::ShimProcess;
use crate::jobs::shared::Shared;
use crate::jobs::shared::reach::{Expected, Place};
use crate::jobs::shared::watches::Change;
use crate::model::state::Contact;
use crate::quota::fair_queue::release_if_slow;
use crate::store::log;

/// Between two tries to reach a silent shim: first and longest.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Between two looks whether a shim lives that has neither connection nor pidfd, should its files not
/// tell: first and longest.
const POLL_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Between two looks at the output of a job that is followed, where the kernel gives no watch.
const OUTPUT_POLL: Duration = Duration::from_secs(1);

/// How it is with a shim at first.
#[derive(Debug)]
pub(crate) enum InitialContact {
    /// It has just been born.
    Connected(Connection),
    /// It has to be reached.
    Expected(Expected),
}

/// Listens to the shim, and connects anew when the connection is lost. Answers when the shim has
/// ended; it is reaped then if it is ours.
pub(crate) async fn keep_connected(
    shared: &Shared,
    job: &Job,
    shim: ShimProcess,
    initial: InitialContact,
) {
    let place = shared.reach.place_now();
    let (mut connection, expected) = match initial {
        InitialContact::Connected(connection) => (Some(connection), None),
        InitialContact::Expected(expected) => (None, Some(expected)),
    };
    let mut link = Link { shared, job, shim, expected, place, pidfd: None };
    loop {
        // On the heap only while there is no connection: ten thousand jobs may run.
        let reached = match connection.take() {
            None => Box::pin(link.reach()).await,
            first => first,
        };
        let Some(reached) = reached else { return };
        link.expected = None;
        link.pidfd = None;
        let place = link.place.get_or_insert(Place::Launched);
        match session::run(shared, job, reached, place).await {
            SessionEnd::Yielded => link.place = None,
            SessionEnd::ShimClosed if Box::pin(link.is_at_its_end()).await => return,
            SessionEnd::ShimClosed => {}
        }
    }
}

/// Answers when the shim has ended, of which nothing is heard until then.
pub(crate) async fn wait_for_exit(shared: &Shared, job: &Job, shim: ShimProcess) {
    let mut link = Link { shared, job, shim, expected: None, place: None, pidfd: None };
    if link.lives() {
        link.end(&Notify::new()).await;
    }
}

/// What is kept of a shim beside the connection.
struct Link<'a> {
    shared: &'a Shared,
    job: &'a Job,
    shim: ShimProcess,
    /// Until it is known how it is with the shim of an earlier broker.
    expected: Option<Expected>,
    place: Option<Place>,
    /// While there is no connection.
    pidfd: Option<Arc<OwnedFd>>,
}

impl Link<'_> {
    /// A connection to the shim, or `None` once that has ended. One that lives and does not answer is
    /// tried again and again, less and less often; meanwhile its files tell.
    async fn reach(&mut self) -> Option<Connection> {
        let Link { shared, job, shim, .. } = *self;
        let mut backoff = Backoff::with_jitter(job.id(), RETRY_PAUSES.0, RETRY_PAUSES.1);
        let mut failing_since = None;
        loop {
            if self.place.is_none() {
                self.expected = None; // it has none to spare: its files tell
                self.place = self.unless_ended(shared.reach.place(job)).await?;
            }
            let turn = shared.reach.turn(job).await;
            let failing_since = *failing_since.get_or_insert_with(Instant::now);
            match release_if_slow(turn, session::connect(shared, job, shim)).await {
                Ok(connection) => return Some(connection),
                // One that was left alone before GO refuses, too, and is gone in a moment: it must not
                // be taken for one whose job runs.
                Err(e) if host::is_shortage(&e) || failing_since.elapsed() < ANSWER_TIMEOUT => {
                    tracing::debug!(job = %job.id(), "its shim is not reached: {e}");
                }
                Err(e) => self.mark_silent(&e),
            }
            if !self.lives() {
                return None;
            }
            self.unless_ended(sleep(backoff.next())).await?;
        }
    }

    /// A shim that closes the connection has ended most often, or is about to.
    async fn is_at_its_end(&mut self) -> bool {
        if !self.lives() {
            return true;
        }
        if self.job.snapshot().state.is_over() {
            self.end(&Notify::new()).await;
            return true;
        }
        self.unless_ended(sleep(RETRY_PAUSES.0)).await.is_none()
    }

    fn mark_silent(&mut self, why: &io::Error) {
        self.expected = None;
        if self.job.snapshot().contact != Contact::Silent {
            self.shared.reach.report_silent(self.job.id(), why);
        }
        self.job.set_contact(Contact::Silent);
    }

    /// Whether the shim lives, as far as that can be told now; and its pidfd, if there is a descriptor
    /// for it.
    fn lives(&mut self) -> bool {
        if self.pidfd.is_some() {
            return true; // or that tells
        }
        match self.shim.open() {
            Ok(Some(pidfd)) => self.pidfd = Some(Arc::new(pidfd)),
            Ok(None) => return false,
            Err(e) => tracing::debug!(job = %self.job.id(), "whether its shim lives: {e}"),
        }
        true
    }

    /// Waits for something without a connection. `None` once the shim has ended.
    async fn unless_ended<T>(&self, until: impl Future<Output = T>) -> Option<T> {
        let closed = Notify::new();
        tokio::select! {
            () = self.end(&closed) => None,
            never = follow_files(self.shared, self.job, &closed) => match never {},
            done = until => Some(done),
        }
    }

    /// Answers when the shim has ended: as its pidfd tells, or, where there is no descriptor for one,
    /// once it has closed its files, or at a look.
    async fn end(&self, closed: &Notify) {
        if let Some(pidfd) = &self.pidfd {
            return process::wait_for_exit(pidfd).await;
        }
        let mut polls = Backoff::with_jitter(self.job.id(), POLL_PAUSES.0, POLL_PAUSES.1);
        loop {
            let is_closed = tokio::select! {
                () = closed.notified() => true,
                () = sleep(polls.next()) => false,
            };
            match self.shim.open() {
                Ok(None) => return,
                Ok(Some(pidfd)) if is_closed => {
                    if timeout(POLL_PAUSES.0, process::wait_for_exit(&Arc::new(pidfd)))
                        .await
                        .is_ok()
                    {
                        return;
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }
}

/// While there is no connection: the output is seen as its files grow.
async fn follow_files(shared: &Shared, job: &Job, closed: &Notify) -> Infallible {
    let dir = shared.state.job(job.id());
    let watch = shared.watches.watch(&dir);
    loop {
        match log::measure(&dir) {
            // What was dropped, and why it waits, they do not say.
            Ok(seen) => job.advance_progress(seen),
            Err(e) => tracing::debug!(job = %job.id(), "cannot measure its output: {e}"),
        }
        match &watch {
            Ok(watch) => {
                if watch.changed().await == Change::Closed {
                    closed.notify_one();
                }
            }
            Err(_) => {
                job.wait_for_follower().await;
                sleep(OUTPUT_POLL).await;
            }
        }
    }
}
