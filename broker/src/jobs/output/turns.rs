//! Limits concurrent blocking work, in total and per identity: an identity with a thousand tasks waits for
//! its own only. Knows nothing of what the work is.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The permits for one kind of work.
#[derive(Debug)]
pub(crate) struct Turns {
    total: Arc<Semaphore>,
    each: usize,
}

/// The permits of one identity.
#[derive(Debug)]
pub(crate) struct IdentityTurns {
    own: Arc<Semaphore>,
    total: Arc<Semaphore>,
}

impl Turns {
    /// `total` permits at once, `each` of one identity.
    pub(crate) fn new(total: usize, each: usize) -> Turns {
        Turns { total: Arc::new(Semaphore::new(total)), each }
    }

    /// The permits of one more identity.
    pub(crate) fn own(&self) -> IdentityTurns {
        IdentityTurns { own: Arc::new(Semaphore::new(self.each)), total: Arc::clone(&self.total) }
    }
}

/// A permit that was granted.
#[derive(Debug)]
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _common: OwnedSemaphorePermit,
}

impl IdentityTurns {
    /// Waits for a permit, first come, first served.
    ///
    /// # Errors
    /// None; the semaphores are never closed.
    pub(crate) async fn turn(&self) -> io::Result<Turn> {
        // The identity's own permit first: a task that waits for it holds no shared permit.
        let own = Arc::clone(&self.own).acquire_owned().await.map_err(io::Error::other)?;
        let common = Arc::clone(&self.total).acquire_owned().await.map_err(io::Error::other)?;
        Ok(Turn { _own: own, _common: common })
    }
}

impl Turn {
    /// Runs a short piece of work on a blocking thread. If the caller is cancelled, the work still ends, and then
    /// releases its permit.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let work = move || {
            let _turn = self;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_identity_with_a_thousand_tasks_does_not_keep_another_waiting() {
        let turns = Turns::new(2, 1);
        let (greedy, other) = (Arc::new(turns.own()), turns.own());
        let held = greedy.turn().await.unwrap();
        let greedy = || {
            tokio::spawn({
                let greedy = Arc::clone(&greedy);
                async move { greedy.turn().await.unwrap().run(|| Ok(())).await.unwrap() }
            })
        };
        let many: Vec<_> = (0..1000).map(|_| greedy()).collect();
        tokio::task::yield_now().await; // each task has asked for a permit
        assert_eq!(other.turn().await.unwrap().run(|| Ok(7)).await.unwrap(), 7);
        drop(held);
        for task in many {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_stops_waiting_has_no_turn_and_work_that_nobody_waits_for_ends_its_own() {
        let turns = Turns::new(1, 1);
        let own = turns.own();
        let (gate, closed) = std::sync::mpsc::channel::<()>();
        let work = own.turn().await.unwrap().run(move || Ok(closed.recv().is_err()));
        let mut work = Box::pin(work);
        assert!(work.as_mut().now_or_never().is_none());
        let mut second = Box::pin(own.turn());
        assert!(second.as_mut().now_or_never().is_none());
        drop((work, second)); // the calls are cancelled
        let mut third = Box::pin(own.turn());
        assert!(third.as_mut().now_or_never().is_none(), "it is being done");
        drop(gate);
        assert!(third.await.is_ok());
    }
}
