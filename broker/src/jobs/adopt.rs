//! Taking over what an earlier broker left: every job on disk is judged at once and listed;
//! connecting to shims and settling happens beside it, all jobs in parallel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use job_shim::crash::{self, Point};

use super::attend::{attend, settle};
use super::core::Ground;
use super::job::Job;
use super::recover::{Facts, Verdict, decide};
use super::state::{Contact, Event, Failure, Snapshot, State, Totals};
use super::supervisor::Quarantined;
use super::table::Table;
use super::update;
use crate::host;
use crate::id::JobId;
use crate::launch::accounts::Pool;
use crate::store::records::{self, FinalRecord, SpawnRecord, SpecRecord};
use crate::sys;

/// Reads all jobs. What cannot be read is left alone, and told.
///
/// # Errors
/// When the directory of jobs cannot be listed.
pub(super) fn adopt(
    ground: &Arc<Ground>,
    pool: &Arc<Pool>,
) -> io::Result<(Table, Vec<Quarantined>)> {
    let (ids, strangers) = ground.state.list()?;
    let mut table = Table::default();
    let mut quarantined: Vec<_> = strangers
        .into_iter()
        .map(|id| Quarantined { id, reason: "its name is no job id".into() })
        .collect();
    for id in ids {
        let taken = take_over(ground, pool, id);
        crash::at(Point::TakenOver);
        match taken {
            Ok(Some(job)) => table.add(job),
            Ok(None) => {}
            Err(e) => {
                tracing::error!(job = %id, "left alone, since it cannot be read: {e}");
                quarantined.push(Quarantined { id: id.to_string(), reason: e.to_string() });
            }
        }
    }
    let (live, all) = table.count();
    tracing::info!(live, all, quarantined = quarantined.len(), "jobs taken over");
    Ok((table, quarantined))
}

/// One job; `None` for one that had not come as far as being a job.
fn take_over(ground: &Arc<Ground>, pool: &Arc<Pool>, id: JobId) -> io::Result<Option<Arc<Job>>> {
    let dir = ground.state.job(id);
    let Some(record) = records::load::<SpecRecord>(&dir, records::SPEC)? else {
        if records::load::<SpawnRecord>(&dir, records::SPAWN)?.is_some() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "spec.json is missing"));
        }
        ground.state.remove_job(id)?; // the broker died while it made the directory
        return Ok(None);
    };
    let (facts, pidfd) = facts(ground, id, &record)?;
    let lease = facts.finished.is_none().then(|| pool.adopt(record.account.uid)).flatten();
    let is_changing = record.is_changing;
    let job = |snapshot| Job::new(record, snapshot, lease);
    let verdict = decide(facts);
    tracing::debug!(job = %id, ?verdict, "recovery");
    Ok(Some(match verdict {
        Verdict::Over(last) => over(ground, job(Snapshot::starting()), *last),
        Verdict::Adopt => {
            let job = job(Snapshot { contact: Contact::Recovering, ..running() });
            if is_changing {
                update::finish(ground, &job)?;
            }
            if ground.launcher.tree().job(id).is_frozen() {
                job.apply(Event::Paused);
            }
            if let Some(pidfd) = pidfd {
                tokio::spawn(attend(Arc::clone(ground), Arc::clone(&job), pidfd, None));
            }
            job
        }
        Verdict::Settle => {
            let job = job(Snapshot { contact: Contact::Recovering, ..running() });
            if !is_changing {
                // It was born with them, or had taken them.
                job.change_terms(|terms| terms.told = Some(terms.for_shim()));
            }
            tokio::spawn(settle(Arc::clone(ground), Arc::clone(&job)));
            job
        }
        Verdict::NeverRan => {
            let job = job(Snapshot::starting());
            job.apply(Event::StartFailed(failure(
                "broker",
                "the broker ended before the program was started; it never ran",
            )));
            tokio::spawn(settle(Arc::clone(ground), Arc::clone(&job)));
            job
        }
        Verdict::LostWithHost => {
            let job = job(running());
            job.set_progress(crate::store::repair::repair(&dir)?.into());
            job.apply(Event::ShimLost(failure("host", "the host went down while the job ran")));
            tokio::spawn(settle(Arc::clone(ground), Arc::clone(&job)));
            job
        }
    }))
}

/// What is on disk; and, if the shim lives, its pidfd. The pidfd first, then the start time: a
/// stranger that has the pid now has another one, and is left alone.
fn facts(ground: &Ground, id: JobId, record: &SpecRecord) -> io::Result<(Facts, Option<OwnedFd>)> {
    let dir = ground.state.job(id);
    let same_boot = *record.boot_id.as_bytes() == ground.boot_id;
    let spawned: Option<SpawnRecord> =
        if same_boot { records::load(&dir, records::SPAWN)? } else { None };
    let pidfd = spawned.as_ref().and_then(|spawned| {
        let pidfd = sys::pidfd_open(spawned.shim_pid).ok()?;
        let start_time = host::start_time(spawned.shim_pid).ok()?;
        // Ended and not reaped yet, by whoever has inherited it, is ended.
        (start_time == spawned.shim_start_time && !sys::pidfd_has_ended(pidfd.as_fd()))
            .then_some(pidfd)
    });
    let facts = Facts {
        same_boot,
        shim_lives: pidfd.is_some(),
        spawned,
        exit: records::load_exit(&dir, record.boot_id.as_bytes())?,
        finished: records::load::<FinalRecord>(&dir, records::FINAL)?,
    };
    Ok((facts, pidfd))
}

/// A job that has ended before; what a crash may have left of its cgroup is swept.
fn over(ground: &Arc<Ground>, job: Arc<Job>, last: FinalRecord) -> Arc<Job> {
    job.set_progress(Totals::into(last.totals));
    job.restore(Snapshot {
        state: last.state,
        started: last.started.map(Into::into),
        exited: last.exit.map(Into::into),
        ended_ns: Some(last.ended_ns),
        failure: last.failure,
        incomplete: last.incomplete,
        contact: Contact::Good,
    });
    if ground.launcher.tree().job(job.id()).exists() {
        let (ground, id) = (Arc::clone(ground), job.id());
        tokio::task::spawn_blocking(move || ground.launcher.clean(id));
    }
    job.set_settled();
    job
}

fn running() -> Snapshot {
    Snapshot { state: State::Running, ..Snapshot::starting() }
}

fn failure(step: &str, message: &str) -> Failure {
    Failure { step: step.into(), errno: 0, message: message.into() }
}
