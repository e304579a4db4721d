//! Jobs that are over: out of memory but for a summary, and back from their files when somebody
//! asks. What is on disk is the truth.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::jobs::cleanup;
use crate::jobs::decide;
use crate::jobs::events::LifecycleEvent;
use crate::jobs::history::quarantine;
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::model::id::JobId;
use crate::store::error::RecordError;
use crate::store::index::{Stamp, Summary};
use crate::store::owner;
use crate::store::records;
use crate::store::records::{FinalRecord, SpecRecord};

/// A job whose `final.json` is on disk leaves memory. Whoever has hold of it keeps it.
pub(crate) fn archive(shared: &Shared, id: JobId) {
    match read_summary(shared, id) {
        Ok(Some(summary)) => {
            let mut index = shared.index();
            if let Some(Err(e)) = index.as_mut().map(|index| index.append(&summary)) {
                tracing::warn!(job = %id, "not in the index of finished jobs: {e}");
            }
            let mut registry = shared.registry();
            if registry.has(id) {
                registry.retire(summary); // else somebody has removed it in this moment
            }
            drop(registry);
            drop(index); // until here, so that nobody reads the registry for a new index in between
            shared.events.publish(LifecycleEvent::Archived(id));
        }
        Ok(None) => {} // removed meanwhile, or never on disk
        Err(e) => tracing::error!(job = %id, "kept in memory, since it cannot be read: {e}"),
    }
}

/// What its records say in short; `None` where there is no last record.
///
/// # Errors
/// As [`records::load`].
fn read_summary(shared: &Shared, id: JobId) -> Result<Option<Summary>, RecordError> {
    let dir = shared.state.job(id);
    // Before the records: what changes in between is found to be changed.
    let stamp = match Stamp::of(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        stamp => stamp?,
    };
    Ok(read(shared, id)?.map(|(spec, last)| summary(&spec, &last, stamp)))
}

pub(crate) fn summary(spec: &SpecRecord, last: &FinalRecord, stamp: Stamp) -> Summary {
    Summary::new(spec, last, last.snapshot().is_retryable(), stamp)
}

/// The job as it was at its end. One that is damaged goes into quarantine and is none; one that cannot
/// be read now stays where it is, and operators are told. Blocks.
///
/// # Errors
/// [`RecordError`], but for damage.
pub(crate) fn load(shared: &Arc<Shared>, id: JobId) -> Result<Option<Arc<Job>>, RecordError> {
    let read = read(shared, id);
    match read {
        Err(e) if e.is_shortage() => return Err(e),
        Err(e) if !e.is_damage() => {
            if shared.mark_unreadable(id.to_string(), e.to_string()) {
                tracing::error!(job = %id, "left alone, and out of lists, since it cannot be read: {e}");
            }
            return Err(e);
        }
        _ => shared.clear_unreadable(&id.to_string()),
    }
    match read {
        Ok(Some((spec, last))) => return Ok(Some(restore(spec, &last))),
        Ok(None) => {} // somebody has removed its directory
        Err(e) => {
            let request = shared.registry().request_of(id);
            quarantine::quarantine(shared, id, &e, request);
        }
    }
    shared.registry().forget(id);
    Ok(None)
}

/// Removes jobs that are over, with their output; whether each was there. They are gone for good when this
/// answers. Blocks; must be called within the runtime.
///
/// # Errors
/// As [`StateDir::remove_jobs`](crate::store::StateDir::remove_jobs); the rest goes with the next start.
pub(crate) fn remove(shared: &Arc<Shared>, ids: &[JobId]) -> Vec<(JobId, io::Result<bool>)> {
    let known: Vec<_> = ids.iter().map(|id| shared.registry().forget(*id)).collect();
    let is_known = |(id, known): (&JobId, &bool)| known.then_some(*id);
    let doomed: Vec<_> = ids.iter().zip(&known).filter_map(is_known).collect();
    doomed.iter().for_each(|id| shared.events.publish(LifecycleEvent::Removed(*id)));
    let mut removed = shared.state.remove_jobs(&doomed).into_iter();
    for id in doomed {
        shared.clear_unreadable(&id.to_string());
        if shared.launcher.hierarchy().job(id).exists() {
            cleanup::clear(shared, id, None); // its end was not on record, or something sleeps in it
        }
    }
    tidy(shared);
    let answer = |known| match known {
        false => Ok(false),
        true => match removed.next() {
            // It never came as far as having a directory.
            Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Some(Err(e)) => Err(e),
            Some(Ok(())) | None => Ok(true),
        },
    };
    ids.iter().copied().zip(known.into_iter().map(answer)).collect()
}

/// Makes the index anew when most of it is about jobs that are gone.
pub(crate) fn tidy(shared: &Shared) {
    let mut slot = shared.index();
    let Some(index) = slot.as_mut() else { return };
    if !index.is_worn(shared.registry().over().len()) {
        return;
    }
    let all: Vec<_> = shared.registry().over().values().cloned().collect();
    match index.rewrite(all.iter()) {
        Ok(()) => tracing::debug!(jobs = all.len(), "the index of finished jobs was made anew"),
        Err(e) => tracing::warn!("the index of finished jobs cannot be made anew: {e}"),
    }
}

fn read(shared: &Shared, id: JobId) -> Result<Option<(SpecRecord, FinalRecord)>, RecordError> {
    let dir = shared.state.job(id);
    owner::check_job(&dir)?;
    let (spec, last) = (records::load(&dir, records::SPEC)?, records::load(&dir, records::FINAL)?);
    match (spec, last) {
        (Some(spec), Some(last)) => {
            cross_check(&dir, &spec, &last)?;
            Ok(Some((spec, last)))
        }
        _ if !dir.try_exists()? => Ok(None),
        (None, _) => Err(RecordError::Missing(records::SPEC)),
        (_, None) => Err(RecordError::Missing(records::FINAL)),
    }
}

/// Whether the last record says what the shim's own does.
///
/// # Errors
/// `Damaged` if not; else as read(2).
pub(crate) fn cross_check(
    dir: &Path,
    spec: &SpecRecord,
    last: &FinalRecord,
) -> Result<(), RecordError> {
    let exit = records::load_exit(dir, spec.boot_id.as_bytes())?;
    match decide::contradiction(last, &exit) {
        Some(fault) => Err(RecordError::Damaged(format!("{}: {fault}", records::FINAL))),
        None => Ok(()),
    }
}

fn restore(spec: SpecRecord, last: &FinalRecord) -> Arc<Job> {
    let job = Job::new(spec, last.snapshot(), None);
    job.set_progress(last.totals.into());
    job.set_settled();
    job
}
