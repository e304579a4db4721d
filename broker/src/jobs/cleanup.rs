//! What a job leaves outside its directory: processes, cgroup, socket. A process in uninterruptible
//! sleep (a disk that is frozen, a network file system whose server is gone) dies when it wakes up:
//! until then its cgroup stays, and its uid is nobody else's.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::jobs::shared::Shared;
use crate::launch::accounts::Lease;
use crate::model::id::JobId;

/// Between two tries: first and longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Ends and removes it, now or as soon as that can be, and gives the uid back then. Blocks, for some
/// seconds if something sleeps; must be called within the runtime.
pub(crate) fn clear(shared: &Arc<Shared>, id: JobId, lease: Option<Lease>) {
    if let Err(e) = shared.launcher.clean(id) {
        tracing::warn!(job = %id, "what is left of it cannot be removed yet: {e}");
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
            Ok(Err(_)) => {} // which has been told
            Ok(Ok(())) => break,
            Err(panic) => {
                tracing::error!(job = %id, "a later start removes what is left of it: {panic}");
                break;
            }
        }
    }
    drop(lease);
}
