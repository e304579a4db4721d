//! Broadcasts lifecycle events to subscribers: the pruner and the status line for systemd. An event may be
//! lost: what must be ordered or durable (record before publish, settle before archive, audit) is a call.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::model::id::JobId;

/// A step in the life of a job, or of the whole registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// The job is in the registry and is being started.
    Registered(JobId),
    /// The program runs.
    Started(JobId),
    /// The end is published.
    Ended(JobId),
    /// The end is recorded; memory keeps a summary.
    Archived(JobId),
    /// The job is deleted, removed by a retention rule, or forgotten after a shortage at its start.
    Removed(JobId),
    /// All jobs that are on disk are in the registry.
    Recovered,
    /// The subscriber lagged and missed this number of events.
    Missed(u64),
}

/// Events that a subscriber may lag behind before it misses the oldest.
const BACKLOG: usize = 256;

/// The sender of events.
#[derive(Debug)]
pub(crate) struct Events(broadcast::Sender<LifecycleEvent>);

impl Events {
    pub(crate) fn new() -> Events {
        Events(broadcast::Sender::new(BACKLOG))
    }

    /// Never waits.
    pub(crate) fn publish(&self, event: LifecycleEvent) {
        let _ = self.0.send(event); // nobody may be subscribed
    }

    /// All events from now on.
    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }
}

/// The receiver of events.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<LifecycleEvent>);

impl Subscription {
    /// The next event. Never returns once the supervisor is dropped.
    pub async fn next(&mut self) -> LifecycleEvent {
        match self.0.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => LifecycleEvent::Missed(missed),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Drops the queued events; returns whether there were any.
    pub fn skip(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0 = self.0.resubscribe();
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_that_is_late_hears_that_it_has_missed_something() {
        let events = Events::new();
        let mut late = events.subscribe();
        (0..=BACKLOG).for_each(|_| events.publish(LifecycleEvent::Recovered));
        assert!(matches!(late.next().await, LifecycleEvent::Missed(_)));
        assert_eq!(late.next().await, LifecycleEvent::Recovered);
        assert!(late.skip() && !late.skip());
    }
}
