//! What a job uses and may use: read from the kernel while it lives, from its last record after.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_shim::index;

use crate::auth::{Authorized, Caller};
use crate::cgroup::job::Leaf;
use crate::cgroup::limits::readings;
use crate::cgroup::usage::Usage;
use crate::jobs::job::Job;
use crate::jobs::shared::Ground;
use crate::jobs::supervisor::Supervisor;
use crate::model::limits::{Knob, Row};
use crate::store::records;
use crate::store::records::FinalRecord;

/// The figures of a job.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// What it uses, or has used.
    pub usage: Usage,
    /// What it may use, or might have used.
    pub limits: Vec<Row>,
}

/// What a reader is told of an ended job waits this long for its last record.
const PATIENCE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Usage and limits of one job.
    pub async fn figures(&self, job: &Authorized<Arc<Job>>) -> Figures {
        let (caller, job) = (job.caller(), Arc::clone(job.subject()));
        if job.snapshot().state.is_over() {
            let mut settled = job.watch_settled();
            let settled = settled.wait_for(|settled| *settled);
            let _ = tokio::time::timeout(PATIENCE, settled).await; // then what the kernel still has
        }
        if is_at_its_output_limit(&job) {
            job.ask_anew().await;
        }
        let ground = Arc::clone(&self.core.ground);
        let reads = &self.core.ground.threads.reads;
        let read = move || read(&ground, &job);
        reads.run(caller.identity(), &self.core.runtime, read).await.unwrap_or_default()
    }

    /// The usage of many jobs, in their order.
    pub async fn usages(&self, caller: &Caller, jobs: &[Arc<Job>]) -> Vec<Usage> {
        let (ground, jobs) = (Arc::clone(&self.core.ground), jobs.to_vec());
        let waits = Arc::new(());
        let call = Arc::downgrade(&waits); // gone with this call
        let wanted = move |_: &&Arc<Job>| call.strong_count() > 0;
        let read = move || jobs.iter().take_while(wanted).map(|job| usage(&ground, job)).collect();
        let reads = &self.core.ground.threads.reads;
        reads.run(caller.identity(), &self.core.runtime, read).await.unwrap_or_default()
    }
}

/// Then bytes may be dropped, of which the files say nothing.
fn is_at_its_output_limit(job: &Job) -> bool {
    let (known, limit) = (job.progress(), job.terms().limits.knob(Knob::Output));
    !job.snapshot().state.is_over()
        && limit.is_some_and(|limit| {
            known.stdout.saturating_add(known.stderr) >= limit
                || index::is_full(known.entries, limit)
        })
}

fn read(ground: &Ground, job: &Job) -> Figures {
    let last = |last: FinalRecord| Figures { usage: last.usage, limits: last.limits };
    kernel_or_record(ground, job, || now(ground, job), last)
}

fn usage(ground: &Ground, job: &Job) -> Usage {
    let tree = ground.launcher.tree();
    kernel_or_record(ground, job, || tree.job(job.id()).usage(tree), |last| last.usage)
}

/// From the kernel, unless the job's cgroup is gone, or goes while it is read: then its last record is
/// on disk.
fn kernel_or_record<T>(
    ground: &Ground,
    job: &Job,
    kernel: impl FnOnce() -> T,
    of: impl Fn(FinalRecord) -> T,
) -> T {
    if let Some(last) = job.is_settled().then(|| last(ground, job)).flatten() {
        return of(last);
    }
    let now = kernel();
    let was_there = ground.launcher.tree().job(job.id()).leaf(Leaf::Work).exists(); // it goes first
    if was_there { now } else { last(ground, job).map_or(now, of) }
}

/// Straight from the kernel.
pub(crate) fn now(ground: &Ground, job: &Job) -> Figures {
    let tree = ground.launcher.tree();
    let cgroup = tree.job(job.id());
    let readings = cgroup.exists().then(|| readings(tree, &cgroup));
    Figures { usage: cgroup.usage(tree), limits: job.terms().rows(readings) }
}

fn last(ground: &Ground, job: &Job) -> Option<FinalRecord> {
    let record: io::Result<Option<FinalRecord>> =
        records::load(&ground.state.job(job.id()), records::FINAL);
    record.unwrap_or_else(|e| {
        tracing::warn!(job = %job.id(), "cannot read its final record: {e}");
        None
    })
}
