//! All jobs together: their scope under systemd, whose keeper is the first to notice when that is
//! stopped, and the end of all of them in good order.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use job_shim::wire::Source;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::jobs::commands::start::Core;
use crate::jobs::job::Job;
use crate::jobs::stop_request::StopAsked;
use crate::jobs::supervisor::Supervisor;
use crate::sys;
use crate::systemd::scope::{Fate, NAME};

/// After the grace period: for a broker to kill in a silent shim's place, and for the disk.
const SLACK: Duration = Duration::from_secs(15);

/// Waits for the end of each keeper, for ever. A keeper that was killed is replaced. When the scope
/// is being stopped, its jobs are told by us as well: so that what ignores systemd's SIGTERM is ended
/// by its shim, and recorded, before systemd kills the shim, too.
pub(crate) async fn attend(core: Arc<Core>) {
    let keepers = core.ground.launcher.tree().scope().map(|scope| scope.watch_keeper());
    let Some(mut keepers) = keepers else { return };
    loop {
        let keeper = keepers.borrow_and_update().clone();
        if let Some(keeper) = keeper {
            ended(keeper).await;
            answer(&core).await;
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

async fn answer(core: &Arc<Core>) {
    let ground = Arc::clone(&core.ground);
    let fate = spawn_blocking(move || ground.launcher.tree().scope().map(|scope| scope.fate()));
    match fate.await {
        Ok(Some(Ok(Fate::Mended))) => {}
        Ok(Some(Ok(Fate::BeingStopped))) => {
            tracing::warn!("{NAME} is being stopped, and all jobs with it");
            core.stop_all(&format!("stop of {NAME}"), None);
        }
        Ok(Some(Ok(Fate::Gone))) => {
            tracing::warn!("{NAME} is gone; the next job to start gets a new one");
        }
        Ok(Some(Err(e))) => tracing::error!("{NAME} has lost its keeper: {e}"),
        Ok(None) => {}
        Err(panic) => tracing::error!("cannot look after {NAME}: {panic}"),
    }
}

impl Core {
    fn live(&self) -> Vec<Arc<Job>> {
        let table = self.table();
        table.live().filter(|job| !job.snapshot().state.is_over()).cloned().collect()
    }

    /// Asks every live job to end: its stop signal, its grace, though no longer than `at_most`.
    fn stop_all(self: &Arc<Core>, by: &str, at_most: Option<Duration>) {
        let live = self.live();
        for job in &live {
            let own = job.record().spec.stop_timeout;
            let grace = own.min(at_most.unwrap_or(own));
            self.stop(job, StopAsked::new(Source::System, by.to_owned(), grace));
        }
    }
}

impl Supervisor {
    /// Asks every live job to end and waits until nothing is left of any: its stop signal, its
    /// grace, though no longer than `at_most`. `by` is what the record of their end names.
    pub async fn drain(&self, by: &str, at_most: Duration) {
        let live = self.core.live();
        for job in &live {
            // Its shim answers within 2 s, or is silent: then its cgroup is killed after the grace.
            job.contacted().await;
        }
        self.core.stop_all(by, Some(at_most));
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
}

/// Fails when the job is gone altogether, which is an end.
async fn settled(job: &Job) {
    let _ = job.watch_settled().wait_for(|settled| *settled).await;
}
