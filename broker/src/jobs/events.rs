//! What happens to jobs, for whoever only needs to hear of it: what is removed by rules, the line that
//! systemd shows. What must be in order, or must not be lost (a record before it is told, an end before
//! its archive, the audit log) is a direct call and no event.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::model::id::JobId;

/// A step in the life of a job, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// It is in the registry, and is being started.
    Registered(JobId),
    /// Its program runs.
    Started(JobId),
    /// Its end is told.
    Ended(JobId),
    /// Its end is on record, and it has left memory but for a summary.
    Archived(JobId),
    /// It is gone: deleted, removed by a rule, or taken back since the host could not start it.
    Removed(JobId),
    /// All jobs that are on disk are in the registry.
    Recovered,
    /// So many events were too much for this subscriber.
    Missed(u64),
}

/// Events that a subscriber may be behind before it misses the oldest.
const BACKLOG: usize = 256;

/// Where events are published.
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

/// The events since somebody subscribed.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<LifecycleEvent>);

impl Subscription {
    /// The next event. It never comes when the jobs have nobody who looks after them any more.
    pub async fn next(&mut self) -> LifecycleEvent {
        match self.0.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => LifecycleEvent::Missed(missed),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Forgets those that are waiting; whether there were any.
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
