//! Adopts the jobs of an earlier broker. Starts no job and kills no process of a job whose shim lives.
//!
//! First the jobs with a cgroup, the live ones: they are listed when the broker is ready, and their
//! sessions and settlements run in parallel. Then, in the background, all others: from the index of
//! finished jobs, else from their directories.

mod adopt;
pub(crate) mod preflight;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::jobs::events::LifecycleEvent;
use crate::jobs::history::archive::PART;
use crate::jobs::history::{archive, quarantine};
use crate::jobs::job::Job;
use crate::jobs::process;
use crate::jobs::recovery::adopt::{Adoption, adopt, sweep};
use crate::jobs::registry::Registry;
use crate::jobs::registry::packed::Packed;
use crate::jobs::shared::{NotRecovered, Shared};
use crate::metrics::METRICS;
use crate::model::id::JobId;
use crate::quota::quotas::REPLAYED;
use crate::store::index::{Index, Stamp, Summary};
use job_launch::host;

/// Most threads that read records before the broker is ready.
const THREADS: usize = 4;

/// Takes over the jobs that have a cgroup, on as many threads as there are cores, up to 4: a job has
/// half a dozen files to be read, and there may be ten thousand. Blocks; must be called within the
/// runtime.
///
/// # Errors
/// When the cgroups cannot be listed.
pub(crate) fn recover_live(shared: &Arc<Shared>) -> io::Result<()> {
    let ids = shared.launcher.hierarchy().jobs()?;
    let (next, runtime) = (AtomicUsize::new(0), Handle::current());
    let work = || {
        let _in_runtime = runtime.enter();
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            adopt_one(shared, *id);
        }
    };
    let threads = usize::try_from(host::cpus()).unwrap_or(1).min(THREADS);
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| _ = scope.spawn(work));
        work();
    });
    METRICS.adoption_live.set_time(host::process_age());
    Ok(())
}

fn adopt_one(shared: &Arc<Shared>, id: JobId) {
    if shared.state.is_gone(id) {
        return remove_remnant(shared, id);
    }
    match adopt(shared, id) {
        Adoption::Live(job) => shared.registry().add(job),
        Adoption::Over(summary) => shared.registry().retire(&summary),
        Adoption::None => {}
    }
}

/// Removes the cgroup of a job whose directory was removed earlier.
fn remove_remnant(shared: &Arc<Shared>, id: JobId) {
    let is_dead = |pid: &u32| matches!(process::living(*pid), Ok(None));
    let cgroup = shared.launcher.hierarchy().job(id);
    // What cannot be killed yet has its uid, which no other job gets until then.
    let uid = || process::effective_uid(cgroup.workload(1).pop()?).ok().flatten();
    match cgroup.shims() {
        Ok(shims) if shims.iter().all(is_dead) => sweep(shared, id, uid()),
        Ok(_) => {
            tracing::warn!(job = %id, "the cgroup has a live shim, but the job has no directory; the broker leaves both alone")
        }
        Err(e) => {
            tracing::warn!(job = %id, "the job has no directory, and its cgroup cannot be read; the broker leaves it alone: {e}")
        }
    }
}

/// Adopts all other jobs on a blocking thread. Sets a verdict even after a panic, so that no call waits
/// for ever.
pub(crate) fn recover_rest_later(shared: &Arc<Shared>) {
    let (own, shared) = (Arc::clone(shared), Arc::clone(shared));
    let rest = tokio::task::spawn_blocking(move || recover_rest(&own));
    tokio::spawn(async move {
        if let Err(panic) = rest.await {
            shared.set_recovered(Err(NotRecovered(panic.to_string())));
        }
    });
}

/// Adopts all other jobs and completes the registry. Blocks; must be called within the runtime.
fn recover_rest(shared: &Arc<Shared>) {
    let begin = Instant::now();
    let read = match read_rest(shared) {
        Ok(read) => read,
        Err(e) => {
            tracing::error!("the jobs on disk cannot be read: {e}");
            shared.set_recovered(Err(NotRecovered(e.to_string())));
            return;
        }
    };
    let indexed = read.over.len();
    let live = read.live.clone();
    merge(shared, read);
    // Jobs that were settled before the registry had them.
    live.iter().filter(|job| job.is_settled()).for_each(|job| archive::archive(shared, job.id()));
    let ((live, all), quarantined) = (shared.registry().count(), shared.unreadable().len());
    replay_starts(shared);
    let took = begin.elapsed();
    METRICS.adoption_all.set_time(host::process_age());
    tracing::info!(live, all, indexed, quarantined, ?took, "jobs taken over");
    shared.set_recovered(Ok(()));
    shared.events.publish(LifecycleEvent::Recovered);
    check(shared);
}

/// What is on disk and was not taken over before.
struct Rest {
    index: Option<Index>,
    /// From the index, and their directories are there.
    over: BTreeMap<JobId, Packed>,
    /// Those that the index does not know.
    fresh: Vec<Summary>,
    live: Vec<Arc<Job>>,
}

fn read_rest(shared: &Arc<Shared>) -> io::Result<Rest> {
    quarantine::load_requests(shared)?;
    let (ids, foreign) = shared.state.list()?;
    for (name, reason) in foreign {
        shared.mark_unreadable(name, reason);
    }
    let mut over = Vec::new();
    let each = |job: Summary| {
        if ids.binary_search(&job.id).is_ok() {
            over.push((job.id, Packed::of(&job)));
        }
    };
    let index = match shared.state.index(each) {
        Ok(index) => Some(index),
        Err(e) => {
            tracing::warn!(
                "the index of finished jobs cannot be read, the broker reads each job: {e}"
            );
            over.clear();
            None
        }
    };
    let over = over.into_iter().collect(); // of two about one job the later one
    let mut rest = Rest { index, over, fresh: Vec::new(), live: Vec::new() };
    for id in ids {
        if rest.over.contains_key(&id) || shared.registry().has(id) {
            continue;
        }
        if shared.unreadable().contains_key(&id.to_string()) {
            continue; // it lives, and cannot be read
        }
        match adopt(shared, id) {
            Adoption::Live(job) => rest.live.push(job),
            Adoption::Over(summary) => rest.fresh.push(summary),
            Adoption::None => {}
        }
    }
    Ok(rest)
}

/// Merges the jobs that were read with those that changed meanwhile.
fn merge(shared: &Shared, Rest { mut index, over, fresh, live }: Rest) {
    let mut read = Registry::of(over);
    live.into_iter().for_each(|job| read.add(job));
    let add = |index: &mut Option<Index>, summary: &Summary| {
        if let Some(Err(e)) = index.as_mut().map(|index| index.append(summary)) {
            tracing::warn!(job = %summary.id, "the job is not in the index of finished jobs: {e}");
        }
    };
    for summary in fresh {
        add(&mut index, &summary);
        read.retire(&summary);
    }
    let mut slot = shared.index();
    let mut registry = shared.registry();
    let meanwhile = std::mem::replace(&mut *registry, read);
    let summaries = meanwhile.finished().next(None, usize::MAX);
    summaries.iter().for_each(|summary| add(&mut index, summary));
    registry.absorb(meanwhile);
    *slot = index;
}

/// Takes the starts of an earlier broker out of their owners' buckets.
fn replay_starts(shared: &Shared) {
    let now_ns = host::now_ns();
    let since_ns = now_ns.saturating_sub(REPLAYED.as_nanos() as u64);
    let started = shared.registry().started_since(since_ns);
    let ago = |made_ns| Duration::from_nanos(now_ns.saturating_sub(made_ns));
    shared.quotas.replay_starts(started.iter().map(|(owner, made_ns)| (owner, ago(*made_ns))));
}

/// Compares the records with the index. Reads changed records again, and moves damaged ones into
/// quarantine.
fn check(shared: &Arc<Shared>) {
    let (begin, mut count, mut after) = (Instant::now(), 0, None);
    let parts = std::iter::from_fn(|| {
        let part = shared.registry().finished().next_stamps(after, PART);
        after = Some(part.last()?.0);
        Some(part)
    });
    for (id, stamp) in parts.flatten() {
        count += 1;
        if Stamp::of(&shared.state.job(id)).is_ok_and(|now| now == stamp) {
            continue;
        }
        tracing::warn!(job = %id, "the job's records differ from the index; the broker reads them again");
        // `load` logs a job that cannot be read.
        if let Ok(Some(_)) = archive::load(shared, id) {
            archive::archive(shared, id);
        }
    }
    archive::tidy(shared);
    tracing::debug!(count, took = ?begin.elapsed(), "records compared with the index");
}
