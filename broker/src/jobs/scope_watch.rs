//! Watches the keeper process of the jobs' systemd scope, which is signalled first when the scope is
//! stopped. Then stops all jobs; never creates the scope.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::jobs::commands::drain;
use crate::jobs::shared::Shared;
use crate::sys;
use crate::systemd::scope::{NAME, ScopeState};

/// Waits for the exit of each keeper and replaces a killed one. If systemd is stopping the scope, the
/// broker stops the jobs, too: their shims end and record them before systemd sends SIGKILL.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let keepers = shared.launcher.scope().map(|scope| scope.watch_keeper());
    let Some(mut keepers) = keepers else { return };
    loop {
        let keeper = keepers.borrow_and_update().clone();
        if let Some(keeper) = keeper {
            ended(keeper).await;
            answer(&shared).await;
        }
        if keepers.changed().await.is_err() {
            return;
        }
    }
}

async fn ended(keeper: Arc<OwnedFd>) {
    match sys::watch_readable(keeper) {
        Ok(fd) => drop(fd.readable().await),
        Err(e) => {
            tracing::error!("cannot wait for the keeper of {NAME}: {e}");
            std::future::pending::<()>().await;
        }
    }
}

async fn answer(shared: &Arc<Shared>) {
    let own = Arc::clone(shared);
    let state = spawn_blocking(move || own.launcher.scope().map(|scope| scope.state()));
    match state.await {
        Ok(Some(Ok(ScopeState::KeeperReplaced))) => {}
        Ok(Some(Ok(ScopeState::Stopping))) => {
            tracing::warn!("{NAME} is being stopped, and all jobs with it");
            drain::stop_all(shared, &format!("stop of {NAME}"), None);
        }
        Ok(Some(Ok(ScopeState::Gone))) => {
            tracing::warn!("{NAME} is gone; the next job to start gets a new one");
        }
        Ok(Some(Err(e))) => tracing::error!("{NAME} has lost its keeper: {e}"),
        Ok(None) => {}
        Err(panic) => tracing::error!("the task that checks {NAME} panicked: {panic}"),
    }
}
