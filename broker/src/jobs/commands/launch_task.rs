//! Launches a registered job: on a blocking thread up to GO, in a task after GO; handles the failure.
//! Nothing here decides whether a job may be started.

use std::io;
use std::os::fd::OwnedFd;
use std::panic;
use std::sync::Arc;

use job_launch::errors::SpawnError;
use job_shim::crash::{self, Point};
use tokio::task::JoinError;

use crate::audit;
use crate::auth::{Caller, Verb};
use crate::jobs::channel::Channel;
use crate::jobs::cleanup;
use crate::jobs::commands::program::HeldProgram;
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
use crate::metrics::METRICS;
use crate::metrics::labels::{CgroupOperation, EndCause};
use crate::model::account::Account;
use crate::model::identity::Identity;
use crate::model::state::{Event, Failure};
use crate::quota::fair_queue::FairPermit;
use crate::store::records::{SpawnRecord, SpecRecord};
use crate::trace::Timeline;
use job_launch::cgroup::job::Leaf;
use job_launch::host;

/// The turns that a start holds.
pub(crate) struct StartTurns {
    /// Until STARTED.
    pub(crate) start: FairPermit<Identity>,
    /// Until HELLO.
    pub(crate) launch: FairPermit<Identity>,
}

/// What is open from the checks to the launch.
pub(crate) struct Held {
    /// The program, where the role lists programs.
    pub(crate) program: Option<HeldProgram>,
    /// The root of an image.
    pub(crate) root: Option<Arc<OwnedFd>>,
}

/// Spawns the launch and returns. If the launch panics, the job counts as a failed start, so that no
/// caller waits for ever.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    record: (Box<SpecRecord>, Timeline),
    held: Held,
    turns: StartTurns,
    call: Call,
    caller: Caller,
) {
    let launch = launch(Arc::clone(shared), Arc::clone(job), record, held, turns, caller.clone());
    let (own, job) = (Arc::clone(shared), Arc::clone(job));
    shared.runtime.spawn(async move {
        let _call = call; // counts until the start is done, even if the caller hangs up
        if let Err(panic) = own.runtime.spawn(launch).await {
            let message = format!("internal error of the broker during the launch: {panic}");
            give_up(&own, &job, Failure { step: "launch".into(), errno: 0, message });
        }
        record_outcome(&caller, &job);
    });
}

/// Blocks a thread up to GO. A program that hangs in its execve(2) takes neither a thread nor a launch turn.
async fn launch(
    shared: Arc<Shared>,
    job: Arc<Job>,
    (record, mut timeline): (Box<SpecRecord>, Timeline),
    held: Held,
    turns: StartTurns,
    caller: Caller,
) {
    let StartTurns { start: _start, launch } = turns;
    let record = Arc::<SpecRecord>::from(record);
    let (own, launching, spec) = (Arc::clone(&shared), Arc::clone(&job), Arc::clone(&record));
    let until_go = move || {
        crash::at(Point::JobRegistered);
        let (id, owner, argv) = (launching.id(), launching.owner(), Argv(&spec.spec.argv));
        tracing::info!(target: AUDIT, job = %id, %owner, %argv, "start");
        let entry = caller.entry(audit::Phase::Allowed, Verb::Start).job(id, owner);
        let entry = entry.rule(&spec.allowed_by.rule);
        let arguments = own.audit.arguments();
        let entry = entry.spec(&spec.spec, &spec.account.name, arguments);
        let recorded = own.audit.change(&entry); // durable before GO
        let open = held.program.as_ref().map(HeldProgram::program);
        let checked = (open, held.root.as_ref(), &*own.isolation());
        let pending = own.launcher.begin(&own.state, &spec, checked, recorded, &mut timeline);
        (pending.map_err(|error| fail(&own, &launching, &error, &spec)), launch, timeline)
    };
    let pending = shared.runtime.spawn_blocking(until_go).await.unwrap_or_else(resume_panic);
    let (Ok(mut pending), launch, mut timeline) = pending else { return };
    match shared.launcher.started(&mut pending, launch, &mut timeline).await {
        Ok(started) => {
            timeline.started();
            monitor_started(&shared, &job, pending.into_launched(started));
        }
        Err(error) => {
            // The processes may be hard to kill: not on the threads for launches.
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

/// The outcome of a start, for the audit.
fn record_outcome(caller: &Caller, job: &Job) {
    let entry = match job.snapshot().start_failure() {
        None => caller.entry(audit::Phase::Done, Verb::Start),
        Some(failure) => {
            caller.entry(audit::Phase::Failed, Verb::Start).error(&failure.step, &failure.message)
        }
    };
    caller.audit().note(&entry.job(job.id(), job.owner()));
}

/// Spawns the task that monitors the job.
fn monitor_started(shared: &Arc<Shared>, job: &Arc<Job>, launched: Launched) {
    let Launched { shim, started, spawned } = launched;
    let channel = Channel::new(shim.control);
    job.set_channel(Some(Arc::clone(&channel)));
    // The shim was launched with these limits. Set before the start is published: a change may follow at once.
    job.modify_effective_limits(|limits| limits.acknowledged = Some(limits.shim_limits()));
    job.apply(Event::Started(started));
    log_started(shared, job, &spawned, started.pid);
    job.send_stop(); // a stop that was requested during the launch
    shared.events.publish(LifecycleEvent::Started(job.id()));
    let initial = InitialContact::Connected(Connection { channel, reader: shim.reader });
    let (own, job) = (Arc::clone(shared), Arc::clone(job));
    shared.runtime.spawn(monitor::monitor(own, job, ShimProcess::from(&spawned), initial));
}

/// Writes the audit line of what runs and how it is held: the limits were read back from the kernel.
fn log_started(shared: &Shared, job: &Job, spawned: &SpawnRecord, pid: u32) {
    let (id, owner, shim_pid) = (job.id(), job.owner(), spawned.shim_pid);
    let Account { name, uid, gid, .. } = &job.record().account;
    let cgroup = shared.launcher.hierarchy().job(id).leaf(Leaf::Job);
    let limits = job.effective_limits().requested();
    let limits = limits.iter().map(|(name, value)| format!("{name}={value}"));
    let limits = limits.collect::<Vec<_>>().join(", ");
    let account = format_args!("{name} ({uid}:{gid})");
    let cgroup = cgroup.display();
    tracing::info!(target: AUDIT, job = %id, %owner, pid, shim_pid, %account, %cgroup, limits, "started");
}

/// Blocks.
fn fail(shared: &Arc<Shared>, job: &Arc<Job>, error: &LaunchError, record: &SpecRecord) {
    let failure = failure(error, record);
    match error {
        LaunchError::Spawn(SpawnError::CreateCgroup { .. }) => {
            METRICS.cgroup_errors.add(CgroupOperation::Create, 1)
        }
        LaunchError::Spawn(SpawnError::Limits(_)) => {
            METRICS.cgroup_errors.add(CgroupOperation::Limit, 1)
        }
        _ => {}
    }
    if error.is_shortage() {
        withdraw(shared, job, &failure)
    } else {
        give_up(shared, job, failure)
    }
}

/// Forgets a job that never ran because the host was short of a resource. The request may be repeated.
/// Blocks.
fn withdraw(shared: &Arc<Shared>, job: &Arc<Job>, failure: &Failure) {
    tracing::warn!(job = %job.id(), "start failed for a shortage, the job is not kept: {failure}");
    let mut known = job.snapshot();
    let event = Event::StartFailed(shortage(failure));
    if let Err(invalid) = known.apply(event, host::now_ns()) {
        tracing::error!(job = %job.id(), "{invalid}");
    }
    shared.registry().forget(job.id());
    shared.events.publish(LifecycleEvent::Removed(job.id()));
    match shared.state.remove_jobs(&[job.id()]).pop().unwrap_or(Ok(())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {} // the directory was never created
        Err(e) => tracing::warn!(job = %job.id(), "the next broker removes the job's files: {e}"),
        Ok(()) => {}
    }
    clear(shared, job);
    job.set_settled();
    job.restore(known); // last: a caller that is notified may repeat the request
}

/// Blocks.
fn give_up(shared: &Arc<Shared>, job: &Arc<Job>, failure: Failure) {
    METRICS.ended.add(EndCause::StartFailed, 1);
    tracing::info!(target: AUDIT, job = %job.id(), "start failed: {failure}");
    let mut known = job.snapshot();
    if let Err(invalid) = known.apply(Event::StartFailed(failure), host::now_ns()) {
        tracing::error!(job = %job.id(), "{invalid}");
    }
    // Recorded before it is published: the next broker does not run a request that has failed.
    let written = finalize::write_final(shared, job, &known, ended_at_start(job));
    job.restore(known);
    clear(shared, job);
    job.set_settled();
    match written {
        Ok(()) => archive::archive(shared, job.id()),
        // The job has no directory, so there is nothing to keep.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(job = %job.id(), "the job is not kept: it has no directory for a record");
            shared.registry().forget(job.id());
            shared.events.publish(LifecycleEvent::Removed(job.id()));
        }
        Err(_) => {
            shared.runtime.spawn(finalize::settle(Arc::clone(shared), Arc::clone(job)));
        }
    }
}

/// Removes what the launch could not, such as a child that hangs in execve(2). Usually nothing is left.
fn clear(shared: &Arc<Shared>, job: &Arc<Job>) {
    let (own, id, lease) = (Arc::clone(shared), job.id(), job.take_lease());
    if shared.launcher.hierarchy().job(id).exists() {
        shared.runtime.spawn_blocking(move || cleanup::clear(&own, id, lease));
    }
}

/// The stats of a job that never ran: no usage, and the limits.
fn ended_at_start(job: &Job) -> JobStats {
    JobStats { limits: job.effective_limits().statuses(None), ..JobStats::default() }
}

/// Propagates a panic to the task that awaits the launch and handles the panic.
fn resume_panic<T>(failed: JoinError) -> T {
    match failed.try_into_panic() {
        Ok(panic) => panic::resume_unwind(panic),
        Err(cancelled) => panic::resume_unwind(Box::new(cancelled.to_string())),
    }
}
