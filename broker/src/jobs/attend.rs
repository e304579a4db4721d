//! The attendant of a live job: listens to its shim until that has ended, and settles the job.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use job_shim::crash::{self, Point};
use job_shim::frame;
use job_shim::wire::{Failed, FromShim};

use super::contact;
use super::failure::failure;
use super::figures::{self, Figures};
use super::ground::Ground;
use super::job::{Job, Link};
use super::past;
use super::recover;
use super::state::{Snapshot, Totals};
use crate::host;
use crate::launch::LaunchError;
use crate::store::records::{self, FORMAT, FinalRecord};
use crate::store::repair;
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
    crash::at(Point::ShimGone);
    let cgroup = ground.launcher.tree().job(job.id());
    if let Err(e) = cgroup.kill_work() {
        tracing::error!(job = %job.id(), "processes of it cannot be killed: {e}");
    }
    crash::at(Point::WorkKilled);
    let known = match job.snapshot() {
        known if known.state.is_over() => known,
        known => learn_end(ground, job, &known)?,
    };
    crash::at(Point::EndLearned);
    // On record before anybody sees it: what the next broker reads is what this one has told.
    let written = write_final(ground, job, &known, figures::now(ground, job));
    crash::at(Point::EndRecorded);
    job.restore(known);
    written?;
    report(job);
    ground.launcher.clean(job.id());
    Ok(())
}

/// For whoever reads the journal: how it ended, and whose doing that was.
fn report(job: &Job) {
    let (id, owner, known) = (job.id(), job.owner(), job.snapshot());
    match (&known.exited, &known.failure) {
        (Some(exited), _) => {
            let status = exited.wait_status;
            let exit_code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
            let (cause, by) = (exited.cause, Some(&exited.by).filter(|by| !by.is_empty()));
            tracing::info!(job = %id, %owner, ?cause, exit_code, signal, by, "ended");
        }
        (None, Some(failure)) => {
            tracing::info!(job = %id, %owner, state = ?known.state, "ended: {failure}");
        }
        (None, None) => tracing::info!(job = %id, %owner, state = ?known.state, "ended"),
    }
}

/// From the shim's own records what it could not say any more.
fn learn_end(ground: &Ground, job: &Job, known: &Snapshot) -> io::Result<Snapshot> {
    let (dir, record) = (ground.state.job(job.id()), job.record());
    let exit = records::load_exit(&dir, record.boot_id.as_bytes())?;
    let totals = match &exit.ended {
        Some(ended) => Totals::from(ended.progress),
        None => repair::repair(&dir)?,
    };
    job.set_progress(totals.into());
    let describe = |failed: Failed| failure(&LaunchError::Shim(failed), record);
    let asked = job.stop_asked();
    recover::settle(known, exit, asked.as_ref(), describe, record.created_ns, host::now_ns())
        .map_err(io::Error::other)
}

/// `final.json`, durable before the cgroup goes away.
pub(super) fn write_final(
    ground: &Ground,
    job: &Job,
    known: &Snapshot,
    figures: Figures,
) -> io::Result<()> {
    let dir = ground.state.job(job.id());
    if known.started.is_none() && known.exited.is_none() {
        // It may not have come to GO, before which its spec is synced: an end without a beginning would
        // be all that a crash of the host leaves.
        match records::make_durable(&dir, records::SPEC) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {} // there was no room for it, perhaps
        }
    }
    let known = known.clone();
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
    records::save_durably(&dir, records::FINAL, &record)?;
    if job.stop_asked().is_some() {
        let _ = fs::remove_file(dir.join(records::STOP)); // no matter any more
    }
    Ok(())
}
