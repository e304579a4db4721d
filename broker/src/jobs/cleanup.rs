//! Removes what a job leaves outside its directory: processes, cgroup, socket. Never touches the
//! directory itself.
//!
//! A process in uninterruptible sleep (a frozen disk, a network file system without its server) dies
//! when it wakes up. Until then its cgroup stays and its uid stays leased.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::jobs::shared::Shared;
use crate::metrics::METRICS;
use crate::metrics::labels::CgroupOperation;
use crate::model::id::JobId;
use job_launch::accounts::Lease;

/// Pause between two attempts: first and longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Kills the processes and removes the cgroup and the socket, now or in the background, then releases the
/// uid. Blocks, for some seconds if a process sleeps; must be called within the runtime.
pub(crate) fn clear(shared: &Arc<Shared>, id: JobId, lease: Option<Lease>) {
    if let Err(e) = shared.launcher.clean(id) {
        METRICS.cgroup_errors.add(CgroupOperation::Remove, 1);
        tracing::warn!(job = %id, "the cgroup of the job cannot be removed yet, the broker retries: {e}");
        tokio::spawn(clear_later(Arc::clone(shared), id, lease));
    }
}

async fn clear_later(shared: Arc<Shared>, id: JobId, lease: Option<Lease>) {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    loop {
        backoff.pause().await;
        let _turn = shared.threads.killing.acquire().await; // never closed
        let own = Arc::clone(&shared);
        match tokio::task::spawn_blocking(move || own.launcher.clean(id)).await {
            Ok(Err(_)) => {} // logged by `clear`
            Ok(Ok(())) => break,
            Err(panic) => {
                tracing::error!(job = %id, "the cleanup panicked, the next broker repeats it: {panic}");
                break;
            }
        }
    }
    drop(lease);
}
