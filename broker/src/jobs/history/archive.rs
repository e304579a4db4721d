//! Archives finished jobs: memory keeps a summary, the files have the rest and are loaded on demand. Never
//! changes a record: the disk is the truth.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::jobs::cleanup;
use crate::jobs::events::LifecycleEvent;
use crate::jobs::history::quarantine;
use crate::jobs::job::Job;
use crate::jobs::recovery_rules;
use crate::jobs::shared::Shared;
use crate::model::id::JobId;
use crate::store::error::RecordError;
use crate::store::index::{Stamp, Summary};
use crate::store::owner;
use crate::store::records;
use crate::store::records::{FinalRecord, SpecRecord};

/// Summaries that are taken from the registry per lock.
pub(crate) const PART: usize = 1024;

/// Replaces a finished job in memory with its summary. A task that holds the `Arc` keeps the job.
pub(crate) fn archive(shared: &Shared, id: JobId) {
    match read_summary(shared, id) {
        Ok(Some(summary)) => {
            let mut index = shared.index();
            if let Some(Err(e)) = index.as_mut().map(|index| index.append(&summary)) {
                tracing::warn!(job = %id, "the job is not in the index of finished jobs: {e}");
            }
            let mut registry = shared.registry();
            if registry.has(id) {
                registry.retire(&summary); // else the job was removed meanwhile
            }
            drop(registry);
            drop(index); // held until here: `tidy` must not read the registry in between
            shared.events.publish(LifecycleEvent::Archived(id));
        }
        Ok(None) => {} // removed meanwhile, or never on disk
        Err(e) => {
            tracing::error!(job = %id, "the job stays in memory, since its records cannot be read: {e}")
        }
    }
}

/// The summary of a job's records; `None` without a final record.
///
/// # Errors
/// As [`records::load`].
fn read_summary(shared: &Shared, id: JobId) -> Result<Option<Summary>, RecordError> {
    let dir = shared.state.job(id);
    // Before the records, so that a later change is detected.
    let stamp = match Stamp::of(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        stamp => stamp?,
    };
    Ok(read(shared, id)?.map(|(spec, last)| summary(&spec, &last, stamp)))
}

pub(crate) fn summary(spec: &SpecRecord, last: &FinalRecord, stamp: Stamp) -> Summary {
    Summary::new(spec, last, last.snapshot().is_retryable(), stamp)
}

/// Loads a finished job from its files. A damaged job goes into quarantine (`None`); a job that cannot be
/// read now stays in place and is logged. Blocks.
///
/// # Errors
/// [`RecordError`], but for damage.
pub(crate) fn load(shared: &Arc<Shared>, id: JobId) -> Result<Option<Arc<Job>>, RecordError> {
    let read = read(shared, id);
    match read {
        Err(e) if e.is_shortage() => return Err(e),
        Err(e) if !e.is_damage() => {
            if shared.mark_unreadable(id.to_string(), e.to_string()) {
                tracing::error!(job = %id, "the job is left in place and hidden from lists, since its records cannot be read: {e}");
            }
            return Err(e);
        }
        _ => shared.clear_unreadable(&id.to_string()),
    }
    match read {
        Ok(Some((spec, last))) => return Ok(Some(restore(spec, &last))),
        Ok(None) => {} // the directory was removed
        Err(e) => {
            let request = shared.registry().request_of(id);
            quarantine::quarantine(shared, id, &e, request);
        }
    }
    shared.registry().forget(id);
    Ok(None)
}

/// Removes finished jobs with their output, durably; returns for each whether it existed. Blocks; must be
/// called within the runtime.
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
            cleanup::clear(shared, id, None); // the end was not recorded, or a process sleeps
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

/// Rewrites the index when most of its lines are about removed jobs.
pub(crate) fn tidy(shared: &Shared) {
    let mut slot = shared.index();
    let Some(index) = slot.as_mut() else { return };
    if !index.is_worn(shared.registry().finished().len()) {
        return;
    }
    let mut after = None;
    let parts = std::iter::from_fn(|| {
        let part = shared.registry().finished().next(after, PART);
        after = Some(part.last()?.id);
        Some(part)
    });
    match index.rewrite(parts.flatten()) {
        Ok(()) => tracing::debug!("the index of finished jobs was rewritten"),
        Err(e) => tracing::warn!("the index of finished jobs cannot be rewritten: {e}"),
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

/// Compares the final record with the shim's exit file.
///
/// # Errors
/// `Damaged` if not; else as read(2).
pub(crate) fn cross_check(
    dir: &Path,
    spec: &SpecRecord,
    last: &FinalRecord,
) -> Result<(), RecordError> {
    let exit = records::load_exit(dir, spec.boot_id.as_bytes())?;
    match recovery_rules::contradiction(last, &exit) {
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
