//! Keeps the connection to a shim until its process has ended: reconnects, follows the files meanwhile,
//! detects the exit. Interprets no message: `session` does.
//!
//! An idle job has one descriptor, its connection. A job beyond the descriptor share has an inotify watch.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
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
use job_launch::host;

/// Pause between two attempts to reach a silent shim: first and longest.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Poll interval for a shim without a connection and a pidfd: first and longest.
const POLL_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Poll interval for followed output without an inotify watch.
const OUTPUT_POLL: Duration = Duration::from_secs(1);

/// The shim's connection at the start of the monitor.
#[derive(Debug)]
pub(crate) enum InitialContact {
    /// The shim was just launched.
    Connected(Connection),
    /// The shim of an earlier broker has to be reached.
    Expected(Expected),
}

/// Runs sessions with the shim and reconnects after each. Returns when the shim has ended; reaps it if it
/// is a child of the broker.
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

/// Waits for the shim's exit without a session.
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
    /// Until the shim of an earlier broker is reached or silent.
    expected: Option<Expected>,
    place: Option<Place>,
    /// While there is no connection.
    pidfd: Option<Arc<OwnedFd>>,
}

impl Link<'_> {
    /// Connects to the shim; `None` once it has ended. Retries a silent shim with back-off, and follows its
    /// files meanwhile.
    async fn reach(&mut self) -> Option<Connection> {
        let Link { shared, job, shim, .. } = *self;
        let mut backoff = Backoff::with_jitter(job.id(), RETRY_PAUSES.0, RETRY_PAUSES.1);
        let mut failing_since = None;
        loop {
            if self.place.is_none() {
                self.expected = None; // no descriptor to spare: the files are followed
                self.place = self.unless_ended(shared.reach.place(job)).await?;
            }
            let turn = shared.reach.turn(job).await;
            let failing_since = *failing_since.get_or_insert_with(Instant::now);
            match release_if_slow(turn, session::connect(shared, job, shim)).await {
                Ok(connection) => return Some(connection),
                // A shim that was abandoned before GO refuses, too, and exits in a moment: it is not silent.
                Err(e) if host::is_shortage(&e) || failing_since.elapsed() < ANSWER_TIMEOUT => {
                    tracing::debug!(job = %job.id(), "the shim cannot be reached yet: {e}");
                }
                Err(e) => self.mark_silent(&e),
            }
            if !self.lives() {
                return None;
            }
            self.unless_ended(sleep(backoff.next())).await?;
        }
    }

    /// Whether a shim that closed its connection has ended, or is about to.
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

    /// Whether the shim lives; true if that cannot be checked now. Opens its pidfd if a descriptor is free. Only a later
    /// look takes one that is ending for gone: most have ended by then.
    fn lives(&mut self) -> bool {
        if let Some(pidfd) = &self.pidfd {
            return !self.is_stuck(pidfd); // `end` waits for the pidfd
        }
        match self.shim.open() {
            Ok(Some(pidfd)) => self.pidfd = Some(Arc::new(pidfd)),
            Ok(None) => return false,
            Err(e) => {
                tracing::debug!(job = %self.job.id(), "cannot check whether the shim lives: {e}")
            }
        }
        true
    }

    /// Awaits `until` while there is no connection; `None` once the shim has ended.
    async fn unless_ended<T>(&self, until: impl Future<Output = T>) -> Option<T> {
        let closed = Notify::new();
        tokio::select! {
            () = self.end(&closed) => None,
            never = follow_files(self.shared, self.job, &closed) => match never {},
            done = until => Some(done),
        }
    }

    /// Whether the shim is ending, and cannot: nobody waits for that.
    fn is_stuck(&self, pidfd: &Arc<OwnedFd>) -> bool {
        let is_stuck = self.shim.is_exiting();
        if is_stuck {
            process::reap_later(Arc::clone(pidfd));
        }
        is_stuck
    }

    /// Waits for the shim's exit: by its pidfd, else by a close of its files, else by polling.
    async fn end(&self, closed: &Notify) {
        let mut polls = Backoff::with_jitter(self.job.id(), POLL_PAUSES.0, POLL_PAUSES.1);
        if let Some(pidfd) = &self.pidfd {
            loop {
                // The kernel does not tell of a process that is ending and cannot.
                let look = async {
                    tokio::select! {
                        () = closed.notified() => sleep(POLL_PAUSES.0).await,
                        () = sleep(polls.next()) => {}
                    }
                };
                tokio::select! {
                    () = process::wait_for_exit(pidfd) => return,
                    () = look => {}
                }
                if self.is_stuck(pidfd) {
                    return;
                }
            }
        }
        loop {
            let is_closed = tokio::select! {
                () = closed.notified() => true,
                () = sleep(polls.next()) => false,
            };
            match self.shim.open() {
                Ok(None) => return,
                Ok(Some(pidfd)) if is_closed => {
                    let pidfd = Arc::new(pidfd);
                    let exit = timeout(POLL_PAUSES.0, process::wait_for_exit(&pidfd));
                    if exit.await.is_ok() || self.is_stuck(&pidfd) {
                        return;
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }
}

/// Follows the growth of the output files while there is no connection.
async fn follow_files(shared: &Shared, job: &Job, closed: &Notify) -> Infallible {
    let dir = shared.state.job(job.id());
    let watch = shared.watches.watch(&dir);
    loop {
        match log::measure(&dir) {
            // The files do not count dropped bytes.
            Ok(seen) => job.advance_progress(seen),
            Err(e) => tracing::debug!(job = %job.id(), "the job's output cannot be measured: {e}"),
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
