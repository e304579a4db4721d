//! Changes the limits of a running job: record, kernel, shim, record. Never touches a job that has ended.
//!
//! Until the kernel and the shim have the limits, `spec.json` marks the change as pending: the next
//! broker finishes an interrupted change.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use job_shim::crash::{self, Point};
use job_shim::wire::ToShim;

use crate::audit::{Entry, Phase};
use crate::auth::{Authorized, Update, Verb};
use crate::jobs::channel::Unreachable;
use crate::jobs::commands::{detached, prepare};
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::shared::calls::Call;
use crate::journal::AUDIT;
use crate::launch::effective_limits::EffectiveLimits;
use crate::model::identity::Identity;
use crate::model::limits::{LimitKind, LimitTables, Limits, Violation, Violations};
use crate::model::state::State;
use crate::quota::OverQuota;
use crate::quota::jobs::Demand;
use crate::store::error::RecordError;
use crate::store::records;
use crate::store::records::{ChangeRecord, SpecRecord};
use crate::sync::Panicked;
use job_launch::cgroup::limits::{LimitError, Unenforceable};
use job_launch::host;

/// Why limits were not changed; all of them keep their values.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Too late.
    #[error("the job has ended")]
    Over,
    /// The job is being started.
    #[error("the job has not started yet; try again in a moment")]
    Starting,
    /// Fields that break a rule.
    #[error("invalid limits")]
    Invalid(Violations),
    /// A quota of the job's owner is reached.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// This host cannot enforce a limit.
    #[error(transparent)]
    Unenforceable(#[from] Unenforceable),
    /// The job uses more memory than the new limit.
    #[error(
        "the job uses {used} bytes of memory, more than the new memory.max of {asked}: the kernel \
         would reclaim, and kill the job if that is not enough; use force to accept that"
    )]
    MemoryInUse {
        /// `memory.current`.
        used: u64,
        /// The new limit.
        asked: u64,
    },
    /// The memory usage cannot be read now.
    #[error(
        "the job's memory usage cannot be read now ({0}); try again, or use force to change the limit \
         all the same"
    )]
    Unmeasured(#[source] io::Error),
    /// The kernel rejected the value.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Try again in a moment.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// `spec.json`.
    #[error("cannot write the job's record: {0}")]
    Record(RecordError),
    /// A task of the broker has panicked.
    #[error(transparent)]
    Internal(#[from] Panicked),
}

/// A requested change.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The new values; a limit that is absent keeps its value.
    pub limits: Limits,
    /// Added to the deadline.
    pub extension: Option<Duration>,
    /// Lower `memory.max` even if the kernel may kill the job.
    pub force: bool,
}

/// Changes that are kept of a job. Every description of the job contains them, so their number is bounded.
const HISTORY: usize = 1000;
/// How long the caller waits for the shim to acknowledge its new limits.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Changes all requested limits, or none.
///
/// # Errors
/// [`UpdateError`].
pub(crate) async fn update(
    shared: &Arc<Shared>,
    job: &Authorized<Update, Arc<Job>>,
    change: Change,
    call: Call,
) -> Result<(), UpdateError> {
    let owner = job.subject().owner();
    let tables = job.caller().tables(Verb::Update, owner, &shared.limits());
    detached::run(shared, job, call, |shared, job, by| async move {
        update_now(&shared, &job, change, &tables, &by).await
    })
    .await
}

async fn update_now(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    change: Change,
    tables: &[LimitTables],
    by: &Identity,
) -> Result<(), UpdateError> {
    job.wait_for_contact().await;
    match job.snapshot().state {
        State::Finished | State::Lost => return Err(UpdateError::Over),
        State::Starting => return Err(UpdateError::Starting),
        State::Running | State::Paused | State::Stopping => {}
    }
    let old = job.effective_limits();
    let mut new = old.clone();
    new.limits = changed(&old.limits, &change, tables)?;
    new.by_default = old.by_default.clone().less(&change.limits);
    let (spec, account) = (&job.record().spec, &job.record().account);
    new.disks = prepare::disks(shared, by, &new.limits, spec, account).await??;
    new.note_changes(&old, by.as_str());
    if old.shim_limits() != new.shim_limits() && !job.is_reachable() {
        let is_over = job.has_ended_late().await;
        return Err(if is_over { UpdateError::Over } else { Unreachable.into() });
    }
    let counted = Counted::admit(shared, job, &new.limits)?;
    let (own, changing, limits) = (Arc::clone(shared), Arc::clone(job), new.clone());
    let applied = move || {
        let _counted = counted; // until the limits are set, or stay
        apply(&own, &changing, &changing.effective_limits(), &limits, change.force)
    };
    let changes = &shared.threads.changes;
    changes.run(by, &shared.runtime, applied).await.map_err(Panicked::from)??;
    if old.shim_limits() != new.shim_limits() {
        let _ = job.send(&ToShim::Limits(new.shim_limits())); // if this fails, the next session sends the limits
    }
    if tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, acknowledged(job)).await.is_err() {
        // The change is recorded as pending, so the caller need not wait. One task finishes all changes.
        if !job.is_change_pending.swap(true, Ordering::AcqRel) {
            let by = by.clone();
            shared.runtime.spawn(finish_late(Arc::clone(shared), Arc::clone(job), by));
        }
        return Ok(());
    }
    crash::at(Point::ChangeTold);
    let recorded = record_made(shared, job, by).await;
    crash::at(Point::ChangeDone);
    recorded
}

async fn finish_late(shared: Arc<Shared>, job: Arc<Job>, by: Identity) {
    loop {
        acknowledged(&job).await;
        let _turn = job.change_turn.lock().await;
        if !has_acknowledged(&job.effective_limits()) && !job.snapshot().state.is_over() {
            continue; // a later change is pending
        }
        job.is_change_pending.store(false, Ordering::Release);
        if let Err(e) = record_made(&shared, &job, &by).await {
            tracing::error!(job = %job.id(), "the change of limits is made, but the record says pending: {e}");
        }
        return;
    }
}

/// Records that the change is made. A job that has ended has a final record instead.
async fn record_made(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    by: &Identity,
) -> Result<(), UpdateError> {
    if job.snapshot().state.is_over() {
        return Ok(());
    }
    let (own, changed) = (Arc::clone(shared), Arc::clone(job));
    let record = move || record_limits(&own, &changed, &changed.effective_limits(), false);
    let changes = &shared.threads.changes;
    let recorded = changes.run(by, &shared.runtime, record).await;
    match recorded.map_err(Panicked::from)? {
        Err(UpdateError::Over) => Ok(()), // the job has been removed
        recorded => recorded,
    }
}

/// The limits after the change, if the request is valid.
///
/// # Errors
/// The rules that it breaks; of ceilings those of the first table, unless it keeps those of another.
fn changed(old: &Limits, change: &Change, tables: &[LimitTables]) -> Result<Limits, UpdateError> {
    let mut asked = change.limits.clone();
    let mut faults = Violations::default();
    let mut fault = |field, text: &str| faults.add(Violation { field, fault: text.into() });
    if let Some(extension) = change.extension {
        let extension = u64::try_from(extension.as_millis()).unwrap_or(u64::MAX);
        match old.get(LimitKind::Time) {
            _ if asked.get(LimitKind::Time).is_some() => {
                fault("time_limit_extension", "and time_limit cannot be given together");
            }
            None => fault("time_limit_extension", "is set, and the job has no deadline"),
            Some(time) => asked.set(LimitKind::Time, Some(time.saturating_add(extension))),
        }
    }
    if !asked.rlimits.is_empty() {
        fault("limits.rlimits", "are fixed at the start: each process has its own");
    }
    if asked.get(LimitKind::JobDir).is_some() {
        fault(LimitKind::JobDir.field(), "is fixed at the start");
    }
    let new = old.changed_by(&asked);
    faults.extend(asked.faults());
    if !tables.iter().any(|tables| tables.above(&new).is_empty()) {
        faults.extend(tables.iter().take(1).flat_map(|tables| tables.above(&new)));
    }
    if faults.is_empty() { Ok(new) } else { Err(UpdateError::Invalid(faults)) }
}

/// The new limits of a job, counted in its owner's quotas beside the old ones until this is dropped.
struct Counted(Arc<Job>);

impl Counted {
    /// Judges what the change raises by the owner's quotas, whoever asks. The registry's lock makes that atomic with
    /// starts and with changes of other jobs; the job's turn, with those of this one.
    fn admit(shared: &Shared, job: &Arc<Job>, new: &Limits) -> Result<Counted, OverQuota> {
        let limits = shared.quotas.limits(job.owner());
        shared.registry().admit_change(job, &limits, Demand::of(new))?;
        Ok(Counted(Arc::clone(job)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set_changing(None);
    }
}

/// Records the pending change and writes the limits to the kernel; reverts all if the kernel rejects one.
/// Blocks.
fn apply(
    shared: &Shared,
    job: &Job,
    old: &EffectiveLimits,
    new: &EffectiveLimits,
    force: bool,
) -> Result<(), UpdateError> {
    let hierarchy = shared.launcher.hierarchy();
    let cgroup = hierarchy.job(job.id());
    let (before, after) = (old.plan(), new.plan());
    if let Some(asked) =
        after.memory_max().filter(|asked| !force && before.memory_max() != Some(*asked))
    {
        match cgroup.memory_current() {
            Ok(used) if used > asked => return Err(UpdateError::MemoryInUse { used, asked }),
            Ok(_) => {}
            // A job that has ended has no cgroup.
            Err(_) if job.snapshot().state.is_over() => return Err(UpdateError::Over),
            Err(e) => return Err(UpdateError::Unmeasured(e)),
        }
    }
    record_limits(shared, job, new, true)?;
    crash::at(Point::ChangeRecorded);
    // Before the kernel has the limits: it may kill the job, and the final record shows the new limit.
    job.modify_effective_limits(|limits| {
        *limits = EffectiveLimits { acknowledged: limits.acknowledged, ..new.clone() }
    });
    let made = after.replace(&before, hierarchy, &cgroup);
    // A job that has ended has no cgroup; this change may have ended the job.
    if let Err(error) = made
        && !job.snapshot().state.is_over()
    {
        let undone = before.replace(&after, hierarchy, &cgroup);
        if let Err(e) = undone {
            tracing::error!(job = %job.id(), "the old limits of the job cannot be restored: {e}");
        }
        job.modify_effective_limits(|limits| {
            *limits = EffectiveLimits { acknowledged: limits.acknowledged, ..old.clone() }
        });
        record_limits(shared, job, old, false)?;
        return Err(error.into());
    }
    crash::at(Point::ChangeMade);
    for change in new.changes_since(old) {
        let ChangeRecord { by, name, from, to, .. } = change;
        tracing::info!(target: AUDIT, job = %job.id(), by, name, from, to, "limit changed");
        let entry = Entry::new(Phase::Done, Verb::Update).by_name(by).job(job.id(), job.owner());
        shared.audit.note(&entry.message(format_args!("{name}: {from} to {to}")));
    }
    Ok(())
}

fn record_limits(
    shared: &Shared,
    job: &Job,
    limits: &EffectiveLimits,
    is_changing: bool,
) -> Result<(), UpdateError> {
    let saved = whole_record(shared, job).and_then(|record| {
        let mut record = limits.recorded(record);
        record.is_changing = is_changing;
        Ok(records::save_durably(&shared.state.job(job.id()), records::SPEC, &record)?)
    });
    saved.map_err(|e| match e.is_absent() && job.snapshot().state.is_over() {
        true => UpdateError::Over, // the job has been removed
        false => UpdateError::Record(e),
    })
}

/// Returns when the shim has acknowledged its limits, or the job has ended. A stopped shim acknowledges
/// them when it continues, a disconnected shim when it is reached again.
async fn acknowledged(job: &Job) {
    let (mut limits, mut snapshot) = (job.watch_effective_limits(), job.watch_snapshot());
    tokio::select! {
        _ = limits.wait_for(has_acknowledged) => {}
        _ = snapshot.wait_for(|known| known.state.is_over()) => {}
    }
}

fn has_acknowledged(limits: &EffectiveLimits) -> bool {
    limits.acknowledged == Some(limits.shim_limits())
}

impl EffectiveLimits {
    fn note_changes(&mut self, old: &EffectiveLimits, by: &str) {
        let (before, after) = (old.requested(), self.requested());
        let value = |all: &[(String, String)], name: &str| {
            all.iter()
                .find(|(own, _)| own == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let mut names: Vec<_> = before.iter().chain(&after).map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        let time_ns = host::now_ns();
        for name in names {
            let (from, to) = (value(&before, &name), value(&after, &name));
            if from != to {
                let by = by.to_owned();
                self.changes.push(ChangeRecord { time_ns, by, name, from, to });
            }
        }
        let surplus = self.changes.len().saturating_sub(HISTORY);
        self.changes.drain(..surplus);
    }

    fn changes_since(&self, old: &EffectiveLimits) -> &[ChangeRecord] {
        let last = old.changes.last();
        let known = last.and_then(|last| self.changes.iter().rposition(|change| change == last));
        &self.changes[known.map_or(0, |at| at + 1)..]
    }
}

/// The full record: from the disk if memory has an abridged one. Blocks.
fn whole_record(shared: &Shared, job: &Job) -> Result<SpecRecord, RecordError> {
    if job.record().spec.whole.is_none() {
        return Ok(job.record().clone());
    }
    let record = records::load(&shared.state.job(job.id()), records::SPEC)?;
    record.ok_or(RecordError::Missing(records::SPEC))
}

/// Applies a pending change that an earlier broker recorded. Blocks.
pub(crate) fn finish(shared: &Shared, job: &Job) -> Result<(), RecordError> {
    let hierarchy = shared.launcher.hierarchy();
    if let Err(e) = job.effective_limits().plan().apply(hierarchy, &hierarchy.job(job.id())) {
        tracing::error!(job = %job.id(), "a pending change of the job's limits cannot be finished: {e}");
    }
    let record = job.effective_limits().recorded(whole_record(shared, job)?);
    Ok(records::save_durably(&shared.state.job(job.id()), records::SPEC, &record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_changes_the_last_thousand_are_kept() {
        let mut limits = EffectiveLimits::default();
        for value in 1..=1200 {
            let old = limits.clone();
            limits.limits.set(LimitKind::PidsMax, Some(value));
            limits.limits.set(LimitKind::Output, Some(value));
            limits.note_changes(&old, "ann");
            let noted: Vec<_> = limits.changes_since(&old).iter().map(|c| c.to.as_str()).collect();
            assert_eq!(noted, [value.to_string(), value.to_string()]);
        }
        assert_eq!(limits.changes.len(), 1000);
        let ends = [&limits.changes[0], &limits.changes[999]];
        assert_eq!(ends.map(|change| change.to.as_str()), ["701", "1200"]);
        assert_eq!(limits.changes_since(&limits), []);
    }
}
