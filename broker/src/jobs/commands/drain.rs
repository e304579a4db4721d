//! Stops all jobs and waits for their ends, for a shutdown of the host. Starts and deletes nothing.

use std::sync::Arc;
use std::time::Duration;

use job_shim::wire::Source;
use tokio::time::{Instant, timeout_at};

use crate::jobs::commands::stop;
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::stop_request::StopRequest;

/// Added to the grace period: the broker kills for a silent shim, and the disk takes the records.
const SLACK: Duration = Duration::from_secs(15);

/// Stops every live job and waits until each is settled. A job has its own grace period, `at_most` at
/// most. `by` is the name in the records.
pub(crate) async fn drain(shared: &Arc<Shared>, by: &str, at_most: Duration) {
    // With those that have ended before, of which something may be left.
    let jobs: Vec<_> = shared.registry().live().cloned().collect();
    for job in &jobs {
        // A shim that does not answer counts as silent: then the broker kills the job's cgroup after the grace.
        job.wait_for_contact().await;
    }
    stop_all(shared, by, Some(at_most));
    let last = Instant::now() + at_most + SLACK;
    let mut late = Vec::new();
    for job in jobs {
        if timeout_at(last, settled(&job)).await.is_err() {
            tracing::warn!(job = %job.id(), "the job has not ended in time; the broker kills its shim");
            job.kill_shim();
            late.push(job);
        }
    }
    for job in late {
        settled(&job).await;
    }
}

/// Stops every live job, with its own grace period or `at_most`, whichever is shorter.
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

/// A closed channel means that the job is removed: that is an end, too.
async fn settled(job: &Job) {
    let _ = job.watch_settled().wait_for(|settled| *settled).await;
}
