//! Adopts one job of an earlier broker: reads its records and its shim's process, and spawns its monitor.
//! The decision is in `decide`; nothing here signals a process.

use std::io;
use std::sync::Arc;

use job_shim::crash::{self, Point};

use crate::jobs::cleanup;
use crate::jobs::commands::{stop, update};
use crate::jobs::history::{archive, quarantine};
use crate::jobs::job::Job;
use crate::jobs::monitor::connection::InitialContact;
use crate::jobs::monitor::{self, finalize};
use crate::jobs::process::ShimProcess;
use crate::jobs::recovery_rules::{Facts, Verdict, decide};
use crate::jobs::shared::Shared;
use crate::metrics::METRICS;
use crate::model::id::JobId;
use crate::model::state::{Contact, Event, Failure, Snapshot, State};
use crate::store::damage;
use crate::store::error::RecordError;
use crate::store::index::{Stamp, Summary};
use crate::store::owner;
use crate::store::records::{self, FinalRecord, SpawnRecord, SpecRecord};
use job_launch::host;

/// The outcome for one job.
pub(crate) enum Adoption {
    Live(Arc<Job>),
    Over(Summary),
    /// The job never started, or cannot be read.
    None,
}

/// Adopts a job. A damaged job goes into quarantine; a job that cannot be read now stays in place.
pub(crate) fn adopt(shared: &Arc<Shared>, id: JobId) -> Adoption {
    let adoption = try_adopt(shared, id);
    crash::at(Point::TakenOver);
    adoption.unwrap_or_else(|e| {
        if e.is_damage() {
            quarantine::quarantine(shared, id, &e, None);
        } else {
            quarantine::leave_in_place(shared, id, &e);
        }
        Adoption::None
    })
}

fn try_adopt(shared: &Arc<Shared>, id: JobId) -> Result<Adoption, RecordError> {
    let dir = shared.state.job(id);
    owner::check_job(&dir)?;
    let stamp = Stamp::of(&dir).unwrap_or_default(); // there is one once there is a last record
    let record = match records::load::<SpecRecord>(&dir, records::SPEC) {
        Ok(Some(record)) => record,
        Err(e) if !e.is_damage() => return Err(e),
        _ if was_never_a_job(shared, id)? => return Ok(discard(shared, id)?),
        Ok(None) => return Err(RecordError::Missing(records::SPEC)),
        Err(e) => return Err(e),
    };
    let (facts, shim) = facts(shared, id, &record)?;
    let lease = facts.finished.is_none().then(|| shared.pool.adopt(record.account.uid)).flatten();
    let is_changing = record.is_changing;
    let shim_start =
        facts.spawned.as_ref().map(|spawned| host::since_boot_of(spawned.shim_start_time));
    let verdict = decide(facts);
    tracing::debug!(job = %id, ?verdict, "recovery");
    let job = |record, snapshot| Job::new(record, snapshot, lease);
    let job = match verdict {
        Verdict::Over(last) => {
            sweep(shared, id, Some(record.account.uid));
            return Ok(Adoption::Over(archive::summary(&record, &last, stamp)));
        }
        Verdict::Adopt => {
            let job = job(record, Snapshot { contact: Contact::Recovering, ..running() });
            if let Some(shim_start) = shim_start {
                job.set_program_start(shim_start);
            }
            if let Some(Err(e)) = is_changing.then(|| update::finish(shared, &job)) {
                tracing::error!(job = %id, "a pending change of the job's limits cannot be recorded: {e}");
            }
            if shared.launcher.hierarchy().job(id).is_frozen()? {
                job.apply(Event::Paused);
            }
            if let Some(request) = stop::load(&dir)? {
                job.request_stop(request);
                // The monitor sends the request, unless the shim is silent.
                tokio::spawn(stop::enforce(Arc::clone(shared), Arc::clone(&job)));
            }
            METRICS.adopted.add(1);
            if let Some(shim) = shim {
                let initial = InitialContact::Expected(shared.reach.expect());
                tokio::spawn(monitor::monitor(Arc::clone(shared), Arc::clone(&job), shim, initial));
            }
            return Ok(Adoption::Live(job));
        }
        Verdict::Settle => {
            let job = job(record, Snapshot { contact: Contact::Recovering, ..running() });
            if !is_changing {
                // The shim was launched with these limits, or acknowledged them.
                job.modify_effective_limits(|limits| {
                    limits.acknowledged = Some(limits.shim_limits())
                });
            }
            if let Some(request) = stop::load(&dir)? {
                job.request_stop(request); // should an earlier broker have carried it out
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
    tokio::spawn(finalize::settle(Arc::clone(shared), Arc::clone(&job)));
    Ok(Adoption::Live(job))
}

/// Whether a crash interrupted the start before GO, and no cgroup exists.
fn was_never_a_job(shared: &Shared, id: JobId) -> io::Result<bool> {
    Ok(!shared.launcher.hierarchy().job(id).exists()
        && damage::never_started(&shared.state.job(id), &shared.boot_id)?)
}

fn discard(shared: &Shared, id: JobId) -> io::Result<Adoption> {
    tracing::info!(job = %id, "a crash interrupted the start before GO; the broker discards the job");
    match shared.state.remove_jobs(&[id]).pop().unwrap_or(Ok(())) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(Adoption::None),
    }
}

/// The facts for `decide`, and the shim's process if it lives.
fn facts(
    shared: &Shared,
    id: JobId,
    record: &SpecRecord,
) -> Result<(Facts, Option<ShimProcess>), RecordError> {
    let dir = shared.state.job(id);
    let finished = records::load::<FinalRecord>(&dir, records::FINAL)?;
    if let Some(last) = &finished {
        archive::cross_check(&dir, record, last)?;
        return Ok((Facts { finished, ..Facts::default() }, None)); // nothing else matters then
    }
    let same_boot = *record.boot_id.as_bytes() == shared.boot_id;
    let spawned: Option<SpawnRecord> =
        if same_boot { records::load(&dir, records::SPAWN)? } else { None };
    let mut shim = spawned.as_ref().map(ShimProcess::from);
    if let Some(process) = shim
        && !process.works()?
    {
        shim = None;
    }
    let exit = records::load_exit(&dir, record.boot_id.as_bytes())?;
    Ok((Facts { same_boot, shim_lives: shim.is_some(), spawned, exit, finished }, shim))
}

/// Removes a left-over cgroup of a finished job in the background.
pub(crate) fn sweep(shared: &Arc<Shared>, id: JobId, uid: Option<u32>) {
    if shared.launcher.hierarchy().job(id).exists() {
        let (shared, lease) = (Arc::clone(shared), uid.and_then(|uid| shared.pool.adopt(uid)));
        tokio::task::spawn_blocking(move || cleanup::clear(&shared, id, lease));
    }
}

fn running() -> Snapshot {
    Snapshot { state: State::Running, ..Snapshot::starting() }
}

fn failure(step: &str, message: &str) -> Failure {
    Failure { step: step.into(), errno: 0, message: message.into() }
}
