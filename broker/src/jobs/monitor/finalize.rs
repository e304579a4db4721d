//! Finalizes a job whose shim has ended: kills what is left of the workload, determines the end, writes
//! `final.json`, archives the job. Never runs while the shim lives.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use job_launch::errors::SpawnError;
use job_shim::crash::{self, Point};
use job_shim::wire::{Cause, Failed};

use crate::audit::{Entry, OwnAction, Phase};
use crate::backoff::Backoff;
use crate::jobs::cleanup;
use crate::jobs::events::LifecycleEvent;
use crate::jobs::history::archive;
use crate::jobs::job::Job;
use crate::jobs::monitor::job_log;
use crate::jobs::recovery_rules;
use crate::jobs::shared::Shared;
use crate::jobs::stats::{self, JobStats};
use crate::launch::failure::failure;
use crate::metrics::METRICS;
use crate::metrics::labels::{CgroupOperation, EndCause};
use crate::model::state::{Snapshot, State, Totals};
use crate::model::usage::Usage;
use crate::store::records::{self, FinalRecord};
use crate::store::{self, repair};
use job_launch::host;

/// Pause between two attempts to record an end: first and longest.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Determines the end from the shim's records, writes `final.json`, and removes cgroup and socket. Kills
/// what is left in `work`: no shim would keep its output. Retries disk errors until the job is removed.
pub(crate) async fn settle(shared: Arc<Shared>, job: Arc<Job>) {
    job.set_channel(None);
    job.set_shim(None);
    let (mut backoff, mut is_logged) = (Backoff::new(RETRY_PAUSES.0, RETRY_PAUSES.1), false);
    while let Err(e) = try_to_settle(&shared, &job).await {
        if job.is_settled() && shared.state.is_gone(job.id()) {
            shared.registry().forget(job.id()); // the directory was removed
            let clear = move || cleanup::clear(&shared, job.id(), job.take_lease());
            let _ = tokio::task::spawn_blocking(clear).await; // the panic hook logs a panic
            return;
        }
        if !std::mem::replace(&mut is_logged, true) {
            tracing::error!(job = %job.id(), "the end of the job cannot be recorded yet, the broker retries: {e}");
        }
        backoff.pause().await;
    }
}

/// One attempt. A panic is not retried.
async fn try_to_settle(shared: &Arc<Shared>, job: &Arc<Job>) -> io::Result<()> {
    let _turn = shared.threads.settling.acquire(job.owner()).await;
    let (own, settling) = (Arc::clone(shared), Arc::clone(job));
    let done = tokio::task::spawn_blocking(move || {
        settle_now(&own, &settling)?;
        archive::archive(&own, settling.id());
        Ok(())
    });
    done.await.unwrap_or_else(|panic| {
        tracing::error!(job = %job.id(), "the end of the job cannot be recorded, its task panicked: {panic}");
        job.set_settled();
        Ok(())
    })
}

fn settle_now(shared: &Arc<Shared>, job: &Job) -> io::Result<()> {
    crash::at(Point::ShimGone);
    let cgroup = shared.launcher.hierarchy().job(job.id());
    let killed = cgroup.kill_work();
    if let Err(e) = &killed {
        METRICS.cgroup_errors.add(CgroupOperation::Kill, 1);
        tracing::error!(job = %job.id(), "processes of the job cannot be killed: {e}");
    }
    crash::at(Point::WorkKilled);
    let known = match job.snapshot() {
        known if known.state.is_over() => check_output(shared, job, known)?,
        known => learn_end(shared, job, &known)?,
    };
    crash::at(Point::EndLearned);
    // Recorded before it is published: the next broker reads what this one has published.
    let mut stats = stats::current(shared, job);
    if killed.is_ok() {
        // The kernel counts zombies, too.
        stats.usage.pids_current = stats.usage.pids_current.map(|_| 0);
    }
    let usage = stats.usage.clone();
    if !job.is_settled() {
        // Before the record, after which no broker looks at this end again. Done in any case: it is over.
        let _ = shared.audit.change_in_any_case(&audit_entry(job, &known)).wait();
    }
    let written = write_final(shared, job, &known, stats);
    crash::at(Point::EndRecorded);
    job.restore(known);
    if !job.is_settled() {
        count_end(job, &usage);
        job_log::write(job, &usage, &shared.state.job(job.id()));
        shared.events.publish(LifecycleEvent::Ended(job.id()));
    }
    if written.is_ok() {
        cleanup::clear(shared, job.id(), job.take_lease()); // after the record: the cgroup has the usage
    }
    job.set_settled();
    written
}

/// Marks the output incomplete if the shim has not recorded its sync: the shim reports the end first and
/// syncs the output later.
fn check_output(shared: &Shared, job: &Job, mut known: Snapshot) -> io::Result<Snapshot> {
    if known.exited.is_none() {
        return Ok(known);
    }
    let boot_id = job.record().boot_id;
    let exit = records::load_exit(&shared.state.job(job.id()), boot_id.as_bytes())?;
    known.ran = exit.ran.or(known.ran);
    if exit.ended.is_none() && !known.incomplete {
        tracing::warn!(job = %job.id(), "the shim has not recorded that the output is on the disk");
        known.incomplete = true;
    }
    Ok(known)
}

fn count_end(job: &Job, usage: &Usage) {
    let known = job.snapshot();
    let cause = match &known.exited {
        Some(exited) => end_cause(exited.cause),
        None if known.state == State::Lost => EndCause::Lost,
        None => EndCause::StartFailed,
    };
    METRICS.ended.add(cause, 1);
    METRICS.oom_kills.add(usage.memory_oom_kills.unwrap_or(0));
}

fn end_cause(cause: Cause) -> EndCause {
    match cause {
        Cause::Exited => EndCause::Exited,
        Cause::Stopped => EndCause::Stopped,
        Cause::Signaled => EndCause::Signaled,
        Cause::TimedOut => EndCause::TimedOut,
        Cause::OutputLimit => EndCause::OutputLimit,
        Cause::StartFailed => EndCause::StartFailed,
        Cause::OutOfMemory => EndCause::OutOfMemory,
    }
}

/// The end, for the audit: cause, status, and who caused it.
fn audit_entry(job: &Job, known: &Snapshot) -> Entry {
    let entry = Entry::own(Phase::End, OwnAction::End).job(job.id(), job.owner());
    let entry = entry.end("state", format!("{:?}", known.state).to_lowercase());
    match (&known.exited, &known.failure) {
        (Some(exited), _) => {
            let by = Some(&exited.by).filter(|by| !by.is_empty()).cloned();
            let (exit_code, signal) = exit_status(exited.wait_status);
            let entry = entry.end("cause", format!("{:?}", exited.cause)).end("by", by);
            entry.end("exit_code", exit_code).end("signal", signal)
        }
        (None, Some(failure)) => entry.message(failure),
        (None, None) => entry,
    }
}

/// Exit code, or signal.
fn exit_status(status: i32) -> (Option<i32>, Option<i32>) {
    let exit_code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    (exit_code, libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)))
}

/// Determines the end from the shim's records.
fn learn_end(shared: &Shared, job: &Job, known: &Snapshot) -> io::Result<Snapshot> {
    let (dir, record) = (shared.state.job(job.id()), job.record());
    let exit = records::load_exit(&dir, record.boot_id.as_bytes())?;
    let mut totals = match &exit.ended {
        Some(ended) => Totals::from(ended.progress),
        None => match repair::repair(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Totals::default(), // the directory was removed
            repaired => repaired?,
        },
    };
    totals.dropped = totals.dropped.max(job.progress().dropped); // the files do not count dropped bytes
    job.set_progress(totals.into());
    let describe = |failed: Failed| failure(&SpawnError::Shim(failed).into(), record);
    let is_of_this_boot = *record.boot_id.as_bytes() == shared.boot_id;
    let stop = job.stop_request().map(|stop| stop.origin(is_of_this_boot));
    recovery_rules::settle(known, exit, stop.as_ref(), describe, record.created_ns, host::now_ns())
        .map_err(io::Error::other)
}

/// `final.json`, durable before the cgroup goes away.
pub(crate) fn write_final(
    shared: &Shared,
    job: &Job,
    known: &Snapshot,
    stats: JobStats,
) -> io::Result<()> {
    let dir = shared.state.job(job.id());
    if known.started.is_none() && known.exited.is_none() {
        // The spec may not be synced yet: a crash of the host must not leave an end without a spec.
        match store::make_durable(&dir, records::SPEC) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {} // the disk may have been full
        }
    }
    let totals = job.progress().into();
    let record = FinalRecord::new(known, totals, stats.usage, stats.limits);
    records::save_durably(&dir, records::FINAL, &record)?;
    if job.stop_request().is_some() {
        let _ = fs::remove_file(dir.join(records::STOP)); // obsolete
    }
    Ok(())
}
