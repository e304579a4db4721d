//! Schedules reconnects to shims and limits their descriptors. Opens no connection itself.
//!
//! A job that a call waits for goes ahead of ten thousand others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::{sleep, timeout};

use crate::jobs::job::Job;
use crate::metrics::METRICS;
use crate::model::id::JobId;
use crate::quota::descriptors::Shares;
use crate::sync::lock;
use job_launch::host;

/// Most shims that are asked at a time: what a call waits behind, at each of its steps. An answer takes
/// less than a millisecond, so that more would gain nothing. (With 64, ten thousand were not reached
/// sooner, and a call took as long as all of them.)
const AT_A_TIME: usize = 8;
/// Most descriptors that are lent to jobs without a place.
const LENT: usize = 64;
/// How long a connection that was made for a caller, beyond the share of jobs, is kept after that.
const LINGER: Duration = Duration::from_secs(2);
/// Silent shims within this time share one log line.
const BATCH: Duration = Duration::from_secs(1);

/// The permits for reconnects and descriptors.
#[derive(Debug)]
pub(crate) struct Reach {
    /// Permits for attempts: in turn, and for prioritized jobs.
    turns: Semaphore,
    priority_turns: Semaphore,
    /// Descriptors of jobs, one each: kept as long as a job lives, and lent to those that somebody
    /// waits for and that have none.
    places: Arc<Semaphore>,
    lent: Arc<Semaphore>,
    silent: Mutex<Option<Silent>>,
    /// Shims of an earlier broker of which it is not known yet how it is with them, and all of them.
    expected: AtomicUsize,
    all: AtomicUsize,
    began: Instant,
}

/// The right to one descriptor: for the connection to a shim, or for its pidfd while there is none.
#[derive(Debug)]
pub(crate) enum Place {
    /// Its own.
    Own(#[allow(dead_code, reason = "it is given back when dropped")] OwnedSemaphorePermit),
    /// Lent to a prioritized job.
    Lent(#[allow(dead_code, reason = "it is given back when dropped")] OwnedSemaphorePermit),
    /// A job that has just been started has its connection already; whether it may be started is
    /// decided elsewhere.
    Launched,
}

/// A shim of an earlier broker of which it is not known yet whether it answers.
#[derive(Debug)]
pub(crate) struct Expected(Arc<Reach>);

impl Drop for Expected {
    fn drop(&mut self) {
        let Reach { expected, all, began, .. } = &*self.0;
        if expected.fetch_sub(1, Ordering::AcqRel) == 1 {
            let (count, took) = (all.load(Ordering::Acquire), began.elapsed());
            METRICS.adoption_shims.set_time(host::process_age());
            tracing::info!(count, ?took, "shims of jobs that were taken over have been reached");
        }
    }
}

/// Shims that have fallen silent together.
#[derive(Debug)]
struct Silent {
    first: JobId,
    why: String,
    count: u64,
}

impl Reach {
    /// As this process's limit of descriptors allows.
    pub(crate) fn new() -> Reach {
        Reach::of(Shares::of_this_process().running)
    }

    fn of(share: u64) -> Reach {
        let share = usize::try_from(share).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        // An attempt has a second descriptor for a moment.
        let (turns, lent) = ((share / 8).clamp(1, AT_A_TIME), (share / 8).clamp(1, LENT));
        Reach {
            turns: Semaphore::new(turns),
            priority_turns: Semaphore::new(turns),
            places: Arc::new(Semaphore::new(share.saturating_sub(turns * 2 + lent).max(1))),
            lent: Arc::new(Semaphore::new(lent)),
            silent: Mutex::default(),
            expected: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            began: Instant::now(),
        }
    }

    /// One more shim of an earlier broker. The last of them that is dropped is told to operators.
    pub(crate) fn expect(self: &Arc<Reach>) -> Expected {
        self.expected.fetch_add(1, Ordering::AcqRel);
        self.all.fetch_add(1, Ordering::AcqRel);
        Expected(Arc::clone(self))
    }

    /// Waits for a permit to connect; a prioritized job skips the queue.
    pub(crate) async fn turn(&self, job: &Job) -> Option<SemaphorePermit<'_>> {
        let prioritized = async {
            job.wait_for_priority().await;
            self.priority_turns.acquire().await
        };
        tokio::select! {
            turn = self.turns.acquire() => turn.ok(), // never closed
            turn = prioritized => turn.ok(),
        }
    }

    /// The right to a descriptor, if there is one left.
    pub(crate) fn place_now(&self) -> Option<Place> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Some(Place::Own(place)),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => None,
        }
    }

    /// Waits for a descriptor: of a job that has ended, or a lent one if this job is prioritized. Never
    /// returns `None`.
    pub(crate) async fn place(&self, job: &Job) -> Option<Place> {
        let prioritized = async {
            job.wait_for_priority().await;
            let place = Arc::clone(&self.lent).acquire_owned().await.ok().map(Place::Lent);
            job.prioritize(); // and a turn, too
            place
        };
        tokio::select! {
            place = Arc::clone(&self.places).acquire_owned() => place.ok().map(Place::Own),
            place = prioritized => place,
        }
    }

    /// Returns when a lent connection is idle and another job needs its descriptor.
    pub(crate) async fn wait_to_yield(&self, job: &Job, place: &mut Place) {
        while let Place::Lent(_) = place {
            let is_idle = timeout(LINGER, job.wait_for_priority()).await.is_err();
            match self.place_now() {
                Some(own) => *place = own,
                None if is_idle && self.lent.available_permits() == 0 => return,
                None => {}
            }
        }
        std::future::pending().await
    }

    /// Logs a silent shim, in one line with the others of the same second.
    pub(crate) fn report_silent(self: &Arc<Reach>, job: JobId, why: &std::io::Error) {
        let mut silent = lock(&self.silent);
        if let Some(silent) = &mut *silent {
            silent.count += 1;
            return;
        }
        *silent = Some(Silent { first: job, why: why.to_string(), count: 1 });
        let reach = Arc::clone(self);
        tokio::spawn(async move {
            sleep(BATCH).await; // what comes within it is one line
            let silent = lock(&reach.silent).take();
            match silent {
                Some(Silent { first, why, count: 1 }) => {
                    tracing::warn!(job = %first, "the shim of the job lives and does not answer: {why}");
                }
                Some(Silent { first, why, count }) => {
                    tracing::warn!(count, %first, "shims live and do not answer: {why}");
                }
                None => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_somebody_can_be_reached() {
        for share in [0, 1, 5, 10, 625, 12_470, u64::MAX] {
            let reach = Reach::of(share);
            assert!(reach.place_now().is_some());
            for some in [&reach.turns, &reach.priority_turns, &reach.lent] {
                assert!((1..=LENT).contains(&some.available_permits()));
            }
        }
    }

    #[test]
    fn ten_thousand_jobs_have_a_place_each_with_twenty_thousand_descriptors() {
        let reach = Reach::of(Shares::of(20_000).running);
        assert!(reach.places.available_permits() >= 10_000);
    }
}
