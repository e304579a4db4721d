//! Taking over what an earlier broker left. First the jobs that have a cgroup, which are those that
//! live: they are listed when the broker is ready, and connecting to their shims and settling
//! happens beside it, all jobs in parallel. Then, on a thread of its own, all others: from the index
//! of finished jobs as far as that goes, else from their directories.

pub(crate) mod preflight;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use job_shim::crash::{self, Point};
use tokio::runtime::Handle;

use crate::host;
use crate::jobs::cleanup;
use crate::jobs::commands::stop;
use crate::jobs::commands::update;
use crate::jobs::decide::{Facts, Verdict, decide};
use crate::jobs::history::archive;
use crate::jobs::history::quarantine;
use crate::jobs::job::Job;
use crate::jobs::monitor::connection::First;
use crate::jobs::monitor::{attend, settle};
use crate::jobs::process;
use crate::jobs::process::ShimProcess;
use crate::jobs::registry::Table;
use crate::jobs::shared::{Ground, NotKnown};
use crate::model::id::JobId;
use crate::model::state::{Contact, Event, Failure, Snapshot, State};
use crate::store::damage;
use crate::store::index::{Index, Stamp, Summary};
use crate::store::owner;
use crate::store::records;
use crate::store::records::{FinalRecord, SpawnRecord, SpecRecord};

/// What became of one job.
enum Taken {
    Live(Arc<Job>),
    Over(Summary),
    /// It had not come as far as being a job, or cannot be read.
    Nothing,
}

/// Most threads that read records before the broker is ready.
const THREADS: usize = 4;

/// Takes over the jobs that have a cgroup, on as many threads as there are cores, up to 4: a job has
/// half a dozen files to be read, and there may be ten thousand. Blocks; must be called within the
/// runtime.
///
/// # Errors
/// When the cgroups cannot be listed.
pub(crate) fn adopt_live(ground: &Arc<Ground>) -> io::Result<()> {
    let ids = ground.launcher.tree().jobs()?;
    let (next, runtime) = (AtomicUsize::new(0), Handle::current());
    let take_turns = || {
        let _in_runtime = runtime.enter();
        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            adopt_one(ground, *id);
        }
    };
    let threads = usize::try_from(host::cpus()).unwrap_or(1).min(THREADS);
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| _ = scope.spawn(take_turns));
        take_turns();
    });
    Ok(())
}

fn adopt_one(ground: &Arc<Ground>, id: JobId) {
    if ground.state.is_gone(id) {
        return remove_remnant(ground, id);
    }
    match take_in(ground, id) {
        Taken::Live(job) => ground.table().add(job),
        Taken::Over(summary) => ground.table().retire(summary),
        Taken::Nothing => {}
    }
}

/// A cgroup without a directory: of a job that was removed while its cgroup could not be.
fn remove_remnant(ground: &Arc<Ground>, id: JobId) {
    let is_dead = |pid: &u32| matches!(process::living(*pid), Ok(None));
    match ground.launcher.tree().job(id).shims() {
        Ok(shims) if shims.iter().all(is_dead) => sweep(ground, id, None),
        Ok(_) => tracing::warn!(job = %id, "it has a shim and no directory; it is left alone"),
        Err(e) => tracing::warn!(job = %id, "it has no directory, and is left alone: {e}"),
    }
}

/// Takes over all others, and then has the whole table. Blocks; must be called within the runtime.
pub(crate) fn adopt_rest(ground: &Arc<Ground>) {
    let begin = Instant::now();
    let read = match read_rest(ground) {
        Ok(read) => read,
        Err(e) => {
            tracing::error!("the jobs on disk cannot be read: {e}");
            ground.known.send_replace(Some(Err(NotKnown(e.to_string()))));
            return;
        }
    };
    let indexed = read.over.len();
    let live = read.live.clone();
    unite(ground, read);
    // Those whose end was recorded before the table had them.
    live.iter().filter(|job| job.is_settled()).for_each(|job| archive::shelve(ground, job.id()));
    let ((live, all), quarantined) = (ground.table().count(), ground.left().len());
    let took = begin.elapsed();
    tracing::info!(live, all, indexed, quarantined, ?took, "jobs taken over");
    ground.known.send_replace(Some(Ok(())));
    ground.counted.send_replace(());
    check(ground);
}

/// What is on disk and was not taken over before.
struct Rest {
    index: Option<Index>,
    /// From the index, and their directories are there.
    over: BTreeMap<JobId, Summary>,
    /// Those that the index does not know.
    fresh: Vec<Summary>,
    live: Vec<Arc<Job>>,
}

fn read_rest(ground: &Arc<Ground>) -> io::Result<Rest> {
    quarantine::recall(ground)?;
    let (ids, strangers) = ground.state.list()?;
    for (name, reason) in strangers {
        ground.leave(name, reason);
    }
    let (index, mut over) = match ground.state.index() {
        Ok((index, over)) => (Some(index), over),
        Err(e) => {
            tracing::warn!("no index of finished jobs, each is read: {e}");
            (None, BTreeMap::new())
        }
    };
    over.retain(|id, _| ids.binary_search(id).is_ok());
    let mut rest = Rest { index, over, fresh: Vec::new(), live: Vec::new() };
    for id in ids {
        if rest.over.contains_key(&id) || ground.table().has(id) {
            continue;
        }
        if ground.left().contains_key(&id.to_string()) {
            continue; // it lives, and cannot be read
        }
        match take_in(ground, id) {
            Taken::Live(job) => rest.live.push(job),
            Taken::Over(summary) => rest.fresh.push(summary),
            Taken::Nothing => {}
        }
    }
    Ok(rest)
}

/// Makes one table of what was read and what has happened meanwhile.
fn unite(ground: &Ground, Rest { mut index, over, fresh, live }: Rest) {
    let mut read = Table::of(over);
    live.into_iter().for_each(|job| read.add(job));
    let add = |index: &mut Option<Index>, summary: &Summary| {
        if let Some(Err(e)) = index.as_mut().map(|index| index.append(summary)) {
            tracing::warn!(job = %summary.id, "not in the index of finished jobs: {e}");
        }
    };
    for summary in fresh {
        add(&mut index, &summary);
        read.retire(summary);
    }
    let mut slot = ground.index();
    let mut table = ground.table();
    let meanwhile = std::mem::replace(&mut *table, read);
    meanwhile.over().values().for_each(|summary| add(&mut index, summary));
    table.absorb(meanwhile);
    *slot = index;
}

/// Whether the records are still those that the index speaks of; those that are not are read anew,
/// and are put into quarantine if they cannot be.
fn check(ground: &Arc<Ground>) {
    let all: Vec<_> = ground.table().over().values().map(|job| (job.id, job.stamp)).collect();
    let (begin, count) = (Instant::now(), all.len());
    for (id, stamp) in all {
        if Stamp::of(&ground.state.job(id)).is_ok_and(|now| now == stamp) {
            continue;
        }
        tracing::warn!(job = %id, "its records are not those of the index; they are read anew");
        // What cannot be read has been told of.
        if let Ok(Some(_)) = archive::load(ground, id) {
            archive::shelve(ground, id);
        }
    }
    archive::tidy(ground);
    tracing::debug!(count, took = ?begin.elapsed(), "records compared with the index");
}

fn take_in(ground: &Arc<Ground>, id: JobId) -> Taken {
    let taken = take_over(ground, id);
    crash::at(Point::TakenOver);
    taken.unwrap_or_else(|e| {
        if quarantine::is_damage(&e) {
            quarantine::set_aside(ground, id, &e, None);
        } else {
            quarantine::leave_alone(ground, id, &e);
        }
        Taken::Nothing
    })
}

fn take_over(ground: &Arc<Ground>, id: JobId) -> io::Result<Taken> {
    let dir = ground.state.job(id);
    owner::look_at_job(&dir)?;
    let stamp = Stamp::of(&dir).unwrap_or_default(); // there is one once there is a last record
    let record = match records::load::<SpecRecord>(&dir, records::SPEC) {
        Ok(Some(record)) => record,
        Err(e) if !quarantine::is_damage(&e) => return Err(e),
        _ if is_no_job(ground, id)? => return discard(ground, id),
        Ok(None) => return Err(archive::missing(records::SPEC)),
        Err(e) => return Err(e),
    };
    let (facts, shim) = facts(ground, id, &record)?;
    let lease = facts.finished.is_none().then(|| ground.pool.adopt(record.account.uid)).flatten();
    let is_changing = record.is_changing;
    let born = facts.spawned.as_ref().map(|spawned| host::since_boot_of(spawned.shim_start_time));
    let verdict = decide(facts);
    tracing::debug!(job = %id, ?verdict, "recovery");
    let job = |record, snapshot| Job::new(record, snapshot, lease);
    let job = match verdict {
        Verdict::Over(last) => {
            sweep(ground, id, Some(record.account.uid));
            return Ok(Taken::Over(archive::summary(&record, &last, stamp)));
        }
        Verdict::Adopt => {
            let job = job(record, Snapshot { contact: Contact::Recovering, ..running() });
            if let Some(born) = born {
                job.set_begun(born);
            }
            if let Some(Err(e)) = is_changing.then(|| update::finish(ground, &job)) {
                tracing::error!(job = %id, "a change of its limits cannot be put on record: {e}");
            }
            if ground.launcher.tree().job(id).is_frozen()? {
                job.apply(Event::Paused);
            }
            if let Some(asked) = stop::recall(&dir)? {
                job.ask_stop(asked);
                // Its attendant tells it, and in time, unless it is silent.
                tokio::spawn(stop::enforce(Arc::clone(ground), Arc::clone(&job)));
            }
            if let Some(shim) = shim {
                let first = First::Expected(ground.reach.expect());
                tokio::spawn(attend(Arc::clone(ground), Arc::clone(&job), shim, first));
            }
            return Ok(Taken::Live(job));
        }
        Verdict::Settle => {
            let job = job(record, Snapshot { contact: Contact::Recovering, ..running() });
            if !is_changing {
                // It was born with them, or had taken them.
                job.change_terms(|terms| terms.told = Some(terms.for_shim()));
            }
            if let Some(asked) = stop::recall(&dir)? {
                job.ask_stop(asked); // should an earlier broker have carried it out
            }
            job
        }
        Verdict::NeverRan => {
            let job = job(record, Snapshot::starting());
            job.apply(Event::StartFailed(failure(
                "broker",
                "the broker ended before the program was started; it never ran",
            )));
            job
        }
        Verdict::LostWithHost => {
            let job = job(record, running());
            job.set_progress(crate::store::repair::repair(&dir)?.into());
            job.apply(Event::ShimLost(failure("host", "the host went down while the job ran")));
            job
        }
    };
    tokio::spawn(settle(Arc::clone(ground), Arc::clone(&job)));
    Ok(Taken::Live(job))
}

/// Nothing but a beginning, of which a crash was the end. Of a job with a cgroup there is more.
fn is_no_job(ground: &Ground, id: JobId) -> io::Result<bool> {
    Ok(!ground.launcher.tree().job(id).exists()
        && damage::never_began(&ground.state.job(id), &ground.boot_id)?)
}

fn discard(ground: &Ground, id: JobId) -> io::Result<Taken> {
    tracing::info!(job = %id, "a crash cut its start short before anything ran; it is no job");
    match ground.state.remove_jobs(&[id]).pop().unwrap_or(Ok(())) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(Taken::Nothing),
    }
}

/// What is on disk; and, if the shim lives, which process that is.
fn facts(
    ground: &Ground,
    id: JobId,
    record: &SpecRecord,
) -> io::Result<(Facts, Option<ShimProcess>)> {
    let dir = ground.state.job(id);
    let finished = records::load::<FinalRecord>(&dir, records::FINAL)?;
    if let Some(last) = &finished {
        archive::cross_check(&dir, record, last)?;
        return Ok((Facts { finished, ..Facts::default() }, None)); // nothing else matters then
    }
    let same_boot = *record.boot_id.as_bytes() == ground.boot_id;
    let spawned: Option<SpawnRecord> =
        if same_boot { records::load(&dir, records::SPAWN)? } else { None };
    let mut shim = spawned.as_ref().map(ShimProcess::from);
    if let Some(process) = shim
        && process.open()?.is_none()
    {
        shim = None;
    }
    let exit = records::load_exit(&dir, record.boot_id.as_bytes())?;
    Ok((Facts { same_boot, shim_lives: shim.is_some(), spawned, exit, finished }, shim))
}

/// What a crash between the last record and the end may have left of a job's cgroup, or an end that
/// could not remove it.
fn sweep(ground: &Arc<Ground>, id: JobId, uid: Option<u32>) {
    if ground.launcher.tree().job(id).exists() {
        let (ground, lease) = (Arc::clone(ground), uid.and_then(|uid| ground.pool.adopt(uid)));
        tokio::task::spawn_blocking(move || cleanup::clear(&ground, id, lease));
    }
}

fn running() -> Snapshot {
    Snapshot { state: State::Running, ..Snapshot::starting() }
}

fn failure(step: &str, message: &str) -> Failure {
    Failure { step: step.into(), errno: 0, message: message.into() }
}
