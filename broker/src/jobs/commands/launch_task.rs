//! The launch of a job that is in the registry: on a thread up to GO, in a task after that, and what
//! becomes of the job when it fails. Nothing here decides whether a job may be started.

use std::io;
use std::panic;
use std::sync::Arc;

use job_shim::crash::{self, Point};
use tokio::task::JoinError;

use crate::host;
use crate::jobs::channel::Channel;
use crate::jobs::cleanup;
use crate::jobs::events::LifecycleEvent;
use crate::jobs::history::archive;
use crate::jobs::job::Job;
use crate::jobs::monitor::connection::InitialContact;
use crate::jobs::monitor::session::Connection;
use crate::jobs::monitor::{self, finalize};
use crate::jobs::process::ShimProcess;
use crate::jobs::shared::Shared;
use crate::jobs::shared::calls::Call;
use crate::jobs::stats::JobStats;
use crate::journal::{AUDIT, Argv};
use crate::launch::failure::{failure, shortage};
use crate::launch::{LaunchError, Launched};
use crate::model::identity::Identity;
use crate::model::state::{Event, Failure};
use crate::quota::fair_queue::FairPermit;
use crate::store::records::SpecRecord;

/// The turns that a start holds.
pub(crate) struct StartTurns {
    /// Until STARTED.
    pub(crate) start: FairPermit<Identity>,
    /// Until HELLO.
    pub(crate) launch: FairPermit<Identity>,
}

/// Launches it; does not wait. Should the launch panic, the job is told to have failed, and nobody
/// waits for it for ever.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    record: Box<SpecRecord>,
    turns: StartTurns,
    call: Call,
) {
    let launch = launch(Arc::clone(shared), Arc::clone(job), record, turns);
    let (own, job) = (Arc::clone(shared), Arc::clone(job));
    shared.runtime.spawn(async move {
        let _call = call; // as long as it is being started, whoever waits for it
        if let Err(panic) = own.runtime.spawn(launch).await {
            let message = format!("the launch was broken off: {panic}");
            give_up(&own, &job, Failure { step: "launch".into(), errno: 0, message });
        }
    });
}

/// A thread is taken up to GO. A program that hangs in its execve(2) takes none, and no turn of those that
/// launch.
async fn launch(shared: Arc<Shared>, job: Arc<Job>, record: Box<SpecRecord>, turns: StartTurns) {
    let StartTurns { start: _start, launch } = turns;
    let record = Arc::<SpecRecord>::from(record);
    let (own, launching, spec) = (Arc::clone(&shared), Arc::clone(&job), Arc::clone(&record));
    let until_go = move || {
        crash::at(Point::JobRegistered);
        let (id, owner, argv) = (launching.id(), launching.owner(), Argv(&spec.spec.argv));
        tracing::info!(target: AUDIT, job = %id, %owner, %argv, "start");
        let pending = own.launcher.begin(&own.state, &spec);
        (pending.map_err(|error| fail(&own, &launching, &error, &spec)), launch)
    };
    let pending = shared.runtime.spawn_blocking(until_go).await.unwrap_or_else(resume_panic);
    let (Ok(mut pending), launch) = pending else { return };
    match shared.launcher.started(&mut pending, launch).await {
        Ok(started) => monitor_started(&shared, &job, pending.into_launched(started)),
        Err(error) => {
            // Its processes may be hard to kill: not on the threads of starts that work.
            let _turn = shared.threads.killing.acquire().await; // never closed
            let own = Arc::clone(&shared);
            let abandon = move || {
                own.launcher.abandon(&pending);
                fail(&own, &job, &error, &record);
            };
            shared.runtime.spawn_blocking(abandon).await.unwrap_or_else(resume_panic);
        }
    }
}

/// From here on the job has a task of its own.
fn monitor_started(shared: &Arc<Shared>, job: &Arc<Job>, launched: Launched) {
    let Launched { shim, started, spawned } = launched;
    let channel = Channel::new(shim.control);
    job.set_channel(Some(Arc::clone(&channel)));
    // It was born with them; and before the start is told, after which it may be asked for them.
    job.modify_effective_limits(|limits| limits.acknowledged = Some(limits.shim_limits()));
    job.apply(Event::Started(started));
    job.send_stop(); // while it was being launched, nobody could be told
    shared.events.publish(LifecycleEvent::Started(job.id()));
    let initial = InitialContact::Connected(Connection { channel, reader: shim.reader });
    let (own, job) = (Arc::clone(shared), Arc::clone(job));
    shared.runtime.spawn(monitor::monitor(own, job, ShimProcess::from(&spawned), initial));
}

/// Blocks.
fn fail(shared: &Arc<Shared>, job: &Arc<Job>, error: &LaunchError, record: &SpecRecord) {
    let failure = failure(error, record);
    if error.is_shortage() {
        withdraw(shared, job, &failure)
    } else {
        give_up(shared, job, failure)
    }
}

/// Nothing of it has run, for want of something that others give back: there is no such job, and its
/// request may be made again. Blocks.
fn withdraw(shared: &Arc<Shared>, job: &Arc<Job>, failure: &Failure) {
    tracing::warn!(job = %job.id(), "not started, and not kept: {failure}");
    let mut known = job.snapshot();
    let event = Event::StartFailed(shortage(failure));
    if let Err(invalid) = known.apply(event, host::now_ns()) {
        tracing::error!(job = %job.id(), "{invalid}");
    }
    shared.registry().forget(job.id());
    shared.events.publish(LifecycleEvent::Removed(job.id()));
    match shared.state.remove_jobs(&[job.id()]).pop().unwrap_or(Ok(())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {} // it did not come as far as that
        Err(e) => tracing::warn!(job = %job.id(), "the next broker removes its files: {e}"),
        Ok(()) => {}
    }
    clear(shared, job);
    job.set_settled();
    job.restore(known); // last: whoever hears of it finds its request free
}

/// Blocks.
fn give_up(shared: &Arc<Shared>, job: &Arc<Job>, failure: Failure) {
    tracing::info!(target: AUDIT, job = %job.id(), "start failed: {failure}");
    let mut known = job.snapshot();
    if let Err(invalid) = known.apply(Event::StartFailed(failure), host::now_ns()) {
        tracing::error!(job = %job.id(), "{invalid}");
    }
    // On record before it is told: a request that was refused is not run by the next broker.
    let written = finalize::write_final(shared, job, &known, ended_at_start(job));
    job.restore(known);
    clear(shared, job);
    job.set_settled();
    match written {
        Ok(()) => archive::archive(shared, job.id()),
        // It never came as far as having a directory: it is nothing but an answer.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(job = %job.id(), "it is not kept: there is no place for its record");
            shared.registry().forget(job.id());
            shared.events.publish(LifecycleEvent::Removed(job.id()));
        }
        Err(_) => {
            shared.runtime.spawn(finalize::settle(Arc::clone(shared), Arc::clone(job)));
        }
    }
}

/// What the launch could not remove, as a child that hangs in its exec; the usual start has left
/// nothing.
fn clear(shared: &Arc<Shared>, job: &Arc<Job>) {
    let (own, id, lease) = (Arc::clone(shared), job.id(), job.take_lease());
    if shared.launcher.hierarchy().job(id).exists() {
        shared.runtime.spawn_blocking(move || cleanup::clear(&own, id, lease));
    }
}

/// It has used nothing, and might have used this.
fn ended_at_start(job: &Job) -> JobStats {
    JobStats { limits: job.effective_limits().statuses(None), ..JobStats::default() }
}

/// A panic of a launch ends the task that awaits it, too, and is seen to there.
fn resume_panic<T>(failed: JoinError) -> T {
    match failed.try_into_panic() {
        Ok(panic) => panic::resume_unwind(panic),
        Err(cancelled) => panic::resume_unwind(Box::new(cancelled.to_string())),
    }
}
