//! The end of all jobs in good order.

use std::sync::Arc;
use std::time::Duration;

use job_shim::wire::Source;
use tokio::time::{Instant, timeout_at};

use crate::jobs::commands::stop;
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::stop_request::StopRequest;

/// After the grace period: for a broker to kill in a silent shim's place, and for the disk.
const SLACK: Duration = Duration::from_secs(15);

/// Asks every live job to end and waits until nothing is left of any: its stop signal, its grace, though
/// no longer than `at_most`. `by` is what the record of their end names.
pub(crate) async fn drain(shared: &Arc<Shared>, by: &str, at_most: Duration) {
    let live = live(shared);
    for job in &live {
        // Its shim answers within 2 s, or is silent: then its cgroup is killed after the grace.
        job.wait_for_contact().await;
    }
    stop_all(shared, by, Some(at_most));
    let last = Instant::now() + at_most + SLACK;
    let mut late = Vec::new();
    for job in live {
        if timeout_at(last, settled(&job)).await.is_err() {
            tracing::warn!(job = %job.id(), "it has not ended in time; its shim is not waited for");
            job.kill_shim();
            late.push(job);
        }
    }
    for job in late {
        settled(&job).await;
    }
}

/// Asks every live job to end: its stop signal, its grace, though no longer than `at_most`.
pub(crate) fn stop_all(shared: &Arc<Shared>, by: &str, at_most: Option<Duration>) {
    for job in live(shared) {
        let own = job.record().spec.stop_timeout;
        let grace = own.min(at_most.unwrap_or(own));
        stop::request(shared, &job, StopRequest::new(Source::System, by.to_owned(), grace));
    }
}

fn live(shared: &Shared) -> Vec<Arc<Job>> {
    let registry = shared.registry();
    registry.live().filter(|job| !job.snapshot().state.is_over()).cloned().collect()
}

/// Fails when the job is gone altogether, which is an end.
async fn settled(job: &Job) {
    let _ = job.watch_settled().wait_for(|settled| *settled).await;
}
