//! The attendant of a live job: listens to its shim until that has ended, and settles the job.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use job_shim::frame;
use job_shim::record::Outcome;
use job_shim::wire::{Cause, Exited, FromShim, Started};

use super::contact;
use super::core::Ground;
use super::failure::failure;
use super::figures::{self, Figures};
use super::job::{Job, Link};
use super::past;
use super::state::{Event, Failure, Snapshot, Totals};
use crate::host;
use crate::launch::LaunchError;
use crate::store::records::{self, FORMAT, FinalRecord, SpawnRecord};
use crate::store::{repair, sync_directory};
use crate::sys;

/// Listens to the shim until it has ended, over `first` or a connection of its own making, and
/// settles the job. A shim that lives and does not answer is asked again and again; meanwhile its
/// files tell.
pub(super) async fn attend(
    ground: Arc<Ground>,
    job: Arc<Job>,
    pidfd: OwnedFd,
    first: Option<(Arc<Link>, frame::Reader<FromShim>)>,
) {
    let pidfd = Arc::new(pidfd);
    job.set_pidfd(Some(Arc::clone(&pidfd)));
    // Last words that are still in the socket when this ends are not missed: they are on disk.
    tokio::select! {
        () = contact::keep(&ground, &job, first) => {}
        () = ended(&pidfd) => {}
    }
    settle(ground, job).await;
}

/// Answers when the process has ended, and reaps it if it is ours.
async fn ended(pidfd: &Arc<OwnedFd>) {
    match sys::watch_readable(Arc::clone(pidfd)) {
        Ok(fd) => drop(fd.readable().await),
        Err(e) => tracing::error!("cannot wait for a shim: {e}"),
    }
    sys::pidfd_reap(pidfd.as_fd());
}

/// The shim has ended: learns the end from its records, writes `final.json`, and removes cgroup
/// and socket. Whatever is left in `work` is killed: nobody would keep its output.
pub(super) async fn settle(ground: Arc<Ground>, job: Arc<Job>) {
    job.set_link(None);
    job.set_pidfd(None);
    let turns = Arc::clone(&ground);
    let _turn = turns.settling.acquire().await; // never closed
    let settling = Arc::clone(&job);
    let done = tokio::task::spawn_blocking(move || {
        let written = settle_now(&ground, &settling);
        settling.set_settled();
        written.map(|()| past::shelve(&ground, settling.id()))
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::error!(job = %job.id(), "cannot write its final record: {e}"),
        Err(e) => {
            tracing::error!(job = %job.id(), "settling failed: {e}");
            job.set_settled();
        }
    }
}

fn settle_now(ground: &Ground, job: &Job) -> io::Result<()> {
    let cgroup = ground.launcher.tree().job(job.id());
    if let Err(e) = cgroup.kill_work() {
        tracing::error!(job = %job.id(), "processes of it cannot be killed: {e}");
    }
    if !job.snapshot().state.is_over() {
        learn_end(ground, job)?;
    }
    write_final(ground, job, figures::now(ground, job))?;
    report(job);
    ground.launcher.clean(job.id());
    Ok(())
}

/// For whoever reads the journal: how it ended, and whose doing that was.
fn report(job: &Job) {
    let (id, owner, known) = (job.id(), job.owner(), job.snapshot());
    match (&known.exited, &known.failure) {
        (Some(exited), _) => tracing::info!(
            job = %id, %owner, cause = ?exited.cause, wait_status = exited.wait_status,
            by = exited.by, "ended"
        ),
        (None, Some(failure)) => {
            tracing::info!(job = %id, %owner, state = ?known.state, "ended: {failure}");
        }
        (None, None) => tracing::info!(job = %id, %owner, state = ?known.state, "ended"),
    }
}

/// From the shim's own records what it could not say any more.
fn learn_end(ground: &Ground, job: &Job) -> io::Result<()> {
    let dir = ground.state.job(job.id());
    let spawned = records::load::<SpawnRecord>(&dir, records::SPAWN)?;
    let boot_id = spawned.map_or(ground.boot_id, |spawned| *spawned.boot_id.as_bytes());
    let exit = records::load_exit(&dir, &boot_id)?;
    let totals = match &exit.ended {
        Some(ended) => Totals::from(ended.progress),
        None => repair::repair(&dir)?,
    };
    job.set_progress(totals.into());
    let incomplete = exit.ended.is_none();
    match killed_by_us(job, exit.outcome.as_ref()).or(exit.outcome) {
        Some(Outcome::Exited(exited)) => {
            if job.snapshot().started.is_none() {
                // The start was never told to this broker: the pid is not known any more.
                job.apply(Event::Started(Started { pid: 0, time_ns: job.record().created_ns }));
            }
            let time_ns = exited.time_ns;
            job.apply(Event::Exited(exited));
            job.apply(Event::Ended { time_ns, incomplete });
        }
        Some(Outcome::Failed(failed)) => {
            // An adopted job is taken for running until its shim tells; this one never was.
            job.restore(Snapshot::starting());
            job.apply(Event::StartFailed(failure(&LaunchError::Shim(failed), job.record())));
        }
        None => job.apply(Event::ShimLost(Failure {
            step: "shim".into(),
            errno: 0,
            message: "its shim ended without a record; the exit status is not known".into(),
        })),
    }
    Ok(())
}

/// A stop that the broker had to carry out itself, since the shim did not answer: that has no
/// record, or one of a SIGKILL from nowhere.
fn killed_by_us(job: &Job, recorded: Option<&Outcome>) -> Option<Outcome> {
    let asked = job.stop_asked()?;
    let is_ours = match recorded {
        None => true,
        Some(Outcome::Exited(exited)) => {
            exited.cause == Cause::Signaled && exited.wait_status == libc::SIGKILL
        }
        Some(Outcome::Failed(_)) => false,
    };
    if !is_ours {
        return None;
    }
    Some(Outcome::Exited(Exited {
        wait_status: libc::SIGKILL,
        cause: Cause::Stopped,
        source: asked.source,
        by: asked.by,
        time_ns: host::now_ns(),
    }))
}

/// `final.json`, durable before the cgroup goes away.
pub(super) fn write_final(ground: &Ground, job: &Job, figures: Figures) -> io::Result<()> {
    let (dir, known) = (ground.state.job(job.id()), job.snapshot());
    let record = FinalRecord {
        format: FORMAT,
        state: known.state,
        started: known.started.map(Into::into),
        exit: known.exited.map(Into::into),
        failure: known.failure,
        ended_ns: known.ended_ns.unwrap_or_else(host::now_ns),
        totals: job.progress().into(),
        incomplete: known.incomplete,
        usage: figures.usage,
        limits: figures.limits,
    };
    records::save(&dir, records::FINAL, &record)?.sync_data()?;
    sync_directory(&dir)
}
