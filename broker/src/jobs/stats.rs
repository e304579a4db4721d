//! Reads a job's usage and limits: from the kernel while the job lives, from its final record later.
//! Changes nothing but the cached progress.

use std::sync::Arc;
use std::time::Duration;

use job_shim::index;

use crate::auth::{Action, Authorized, Caller, View};
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::model::limits::{LimitKind, LimitStatus, MAX};
use crate::model::state::State;
use crate::model::usage::Usage;
use crate::quota::jobs::JobsInUse;
use crate::store::log;
use crate::store::records;
use crate::store::records::FinalRecord;
use job_launch::cgroup::job::Leaf;
use job_launch::cgroup::limits::{Reading, Value, readings};
use job_launch::projects::Space;

/// Usage and limits of a job.
#[derive(Debug, Clone, Default)]
pub struct JobStats {
    /// What it uses, or has used.
    pub usage: Usage,
    /// What it may use, or might have used.
    pub limits: Vec<LimitStatus>,
    /// The workload's processes while it lives, at most [`MAX_PIDS`].
    pub pids: Vec<u32>,
}

/// Most processes of a job that are listed; its usage has their number.
const MAX_PIDS: usize = 1024;

/// How many jobs there are, and what they keep.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Census {
    /// Jobs in memory by state, in the order of [`State::ALL`]; of ended jobs those that have no final record yet.
    pub(crate) live: [u64; State::ALL.len()],
    /// Shims of live jobs: those that answer, are not reached yet, and are silent.
    pub(crate) shims: [u64; 3],
    /// Jobs that are over.
    pub(crate) finished: u64,
    /// Bytes of their output.
    pub(crate) kept_bytes: u64,
    /// Jobs that cannot be read and are where they were.
    pub(crate) unreadable: u64,
    /// Jobs that may run at a time.
    pub(crate) max_running: u64,
    /// What live jobs count for in the quotas of their owners.
    pub(crate) in_use: JobsInUse,
}

/// Counts the jobs in memory: under a lock, 0.3 ms with 10,000 of them.
pub(crate) fn census(shared: &Shared) -> Census {
    let mut census = Census {
        max_running: shared.max_running,
        unreadable: shared.unreadable().len() as u64,
        ..Census::default()
    };
    let registry = shared.registry();
    for job in registry.live() {
        let (state, contact) = job.state_and_contact();
        census.live[state as usize] += 1;
        census.in_use.add(job.demand());
        if !state.is_over() && state != State::Starting {
            census.shims[contact as usize] += 1;
        }
    }
    census.finished = registry.finished().len() as u64;
    census.kept_bytes = registry.finished().kept();
    census
}

/// How long the stats of an ended job wait for its final record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);

/// Usage and limits of one job. A proof of any action on the job suffices.
pub(crate) async fn stats<A: Action>(
    shared: &Arc<Shared>,
    job: &Authorized<A, Arc<Job>>,
) -> JobStats {
    let (caller, job) = (job.caller(), Arc::clone(job.subject()));
    if job.snapshot().state.is_over() {
        let mut settled = job.watch_settled();
        let settled = settled.wait_for(|settled| *settled);
        let _ = tokio::time::timeout(RECORD_TIMEOUT, settled).await; // then what the kernel still has
    }
    if is_at_its_output_limit(&job) {
        job.refresh_progress().await;
    }
    let own = Arc::clone(shared);
    let read = move || read(&own, &job);
    shared.threads.reads.run(caller.identity(), &shared.runtime, read).await.unwrap_or_default()
}

/// The usage of many jobs, in their order.
pub(crate) async fn usages(
    shared: &Arc<Shared>,
    caller: &Caller,
    jobs: &[Authorized<View, Arc<Job>>],
) -> Vec<Usage> {
    let jobs: Vec<_> = jobs.iter().map(|job| Arc::clone(job.subject())).collect();
    let own = Arc::clone(shared);
    let waits = Arc::new(());
    let call = Arc::downgrade(&waits); // gone with this call
    let wanted = move |_: &&Arc<Job>| call.strong_count() > 0;
    let read = move || jobs.iter().take_while(wanted).map(|job| usage(&own, job)).collect();
    shared.threads.reads.run(caller.identity(), &shared.runtime, read).await.unwrap_or_default()
}

/// Brings what is known of a live job's output up to date, from its files.
pub(crate) fn refresh(shared: &Shared, job: &Job) {
    if job.snapshot().state.is_over() {
        return;
    }
    let dir = shared.state.job(job.id());
    if log::entries(&dir) <= job.progress().entries {
        return; // one stat(2) for each of a thousand idle jobs
    }
    match log::measure(&dir) {
        Ok(seen) => job.advance_progress(seen),
        Err(e) => tracing::debug!(job = %job.id(), "the job's output cannot be measured: {e}"),
    }
}

/// Then bytes may be dropped, of which the files say nothing.
fn is_at_its_output_limit(job: &Job) -> bool {
    let (known, limit) = (job.progress(), job.effective_limits().limits.get(LimitKind::Output));
    !job.snapshot().state.is_over()
        && limit.is_some_and(|limit| {
            known.stdout.saturating_add(known.stderr) >= limit
                || index::is_full(known.entries, limit)
        })
}

fn read(shared: &Shared, job: &Job) -> JobStats {
    let last =
        |last: FinalRecord| JobStats { usage: last.usage, limits: last.limits, pids: Vec::new() };
    kernel_or_record(shared, job, || current(shared, job), last)
}

fn usage(shared: &Shared, job: &Job) -> Usage {
    kernel_or_record(shared, job, || kernel_usage(shared, job), |last| last.usage)
}

fn kernel_usage(shared: &Shared, job: &Job) -> Usage {
    let hierarchy = shared.launcher.hierarchy();
    let mut usage = hierarchy.job(job.id()).usage(hierarchy.features());
    if let Some(space) = job_dir(shared, job) {
        usage.job_dir_bytes = Some(space.bytes);
        usage.job_dir_inodes = Some(space.inodes);
    }
    usage
}

/// Limit and use of a job's own directory, if that is limited.
fn job_dir(shared: &Shared, job: &Job) -> Option<Space> {
    let limit = job.effective_limits().limits.get(LimitKind::JobDir);
    limit.filter(|bytes| *bytes != MAX).and_then(|_| shared.launcher.job_dirs().space(job.id()))
}

/// From the kernel, unless the job's cgroup is gone, or goes while it is read: then its last record is
/// on disk.
fn kernel_or_record<T>(
    shared: &Shared,
    job: &Job,
    kernel: impl FnOnce() -> T,
    of: impl Fn(FinalRecord) -> T,
) -> T {
    if let Some(last) = job.is_settled().then(|| last(shared, job)).flatten() {
        return of(last);
    }
    let now = kernel();
    let was_there = shared.launcher.hierarchy().job(job.id()).leaf(Leaf::Work).exists(); // it goes first
    if was_there { now } else { last(shared, job).map_or(now, of) }
}

/// Straight from the kernel.
pub(crate) fn current(shared: &Shared, job: &Job) -> JobStats {
    let hierarchy = shared.launcher.hierarchy();
    let cgroup = hierarchy.job(job.id());
    let mut readings = cgroup.exists().then(|| readings(hierarchy, &cgroup));
    let space = job_dir(shared, job);
    if let (Some(readings), Some(space)) = (&mut readings, space) {
        readings.push(Reading {
            name: "job_dir".into(),
            applied: Value::Number(space.limit),
            effective: Value::Number(space.limit),
            bound_by: None,
        });
    }
    JobStats {
        usage: kernel_usage(shared, job),
        limits: job.effective_limits().statuses(readings),
        pids: cgroup.workload(MAX_PIDS),
    }
}

fn last(shared: &Shared, job: &Job) -> Option<FinalRecord> {
    let record = records::load::<FinalRecord>(&shared.state.job(job.id()), records::FINAL);
    record.unwrap_or_else(|e| {
        tracing::warn!(job = %job.id(), "the final record of the job cannot be read: {e}");
        None
    })
}
