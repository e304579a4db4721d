//! Stops a job: the shim signals and kills, and the broker kills only if the shim does not. Never records
//! an end: `monitor` does.
//!
//! The stop request is in the job's directory before its caller has an answer, so the next broker
//! continues an interrupted stop. The record is not synced: a crash of the host ends the job, too.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use job_shim::crash::{self, Point};
use job_shim::wire::Source;
use tokio::time::sleep;

use crate::auth::{Authorized, Role, Stop};
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::stop_request::{StopChange, StopRequest};
use crate::journal::AUDIT;
use crate::model::state::Snapshot;
use crate::store::error::RecordError;
use crate::store::records;
use crate::store::records::{FORMAT, StopRecord};

/// The stop is under way but not recorded: a restart of the broker may lose it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the job is being stopped, but its shim does not answer and {name} cannot be written: {0}; \
     stop it again if the broker is restarted before the job has ended",
    name = records::STOP
)]
pub struct StopError(#[source] io::Error);

/// Requests a stop and returns at once whether the shim has the request. Does nothing to a job that has
/// ended.
pub(crate) fn request(shared: &Arc<Shared>, job: &Arc<Job>, stop: StopRequest) -> bool {
    if job.snapshot().state.is_over() {
        return true;
    }
    let by = stop.by.clone();
    match job.request_stop(stop) {
        StopChange::None => return job.is_stop_sent(),
        StopChange::First => {
            shared.runtime.spawn(enforce(Arc::clone(shared), Arc::clone(job)));
        }
        StopChange::Earlier => {} // `enforce` watches the request
    }
    tracing::info!(target: AUDIT, job = %job.id(), by, "stop requested");
    job.send_stop()
}

/// Stops a job for a caller; without `grace`, the job's own grace period applies. Once this returns `Ok`,
/// the job stops even if the broker dies.
///
/// # Errors
/// [`StopError`]; the job is being stopped all the same.
pub(crate) async fn stop(
    shared: &Arc<Shared>,
    job: &Authorized<Stop, Arc<Job>>,
    grace: Option<Duration>,
) -> Result<(), StopError> {
    let (caller, job) = (job.caller(), job.subject());
    let grace = grace.unwrap_or(job.record().spec.stop_timeout);
    let stop = StopRequest::new(source(caller.role()), caller.identity().to_string(), grace);
    let sent = request(shared, job, stop);
    let mut known = job.recorded_stop.lock().await;
    let mut recorded = record_stop(shared, job, &mut known).await;
    if recorded.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        // The job is being started and has no directory yet.
        let _ = job.watch_snapshot().wait_for(Snapshot::is_past_start).await;
        recorded = record_stop(shared, job, &mut known).await;
    }
    match recorded {
        // The shim reads what is in its socket, so the record is not needed. What waits in the broker's memory
        // for room in the socket does not count: the broker may die.
        Err(e) if sent && job.send_whole_stop() => {
            tracing::warn!(job = %job.id(), "the stop request cannot be recorded: {e}");
            Ok(())
        }
        // The shim has gone, and the end is about to be known.
        Err(_) if job.has_ended_late().await => Ok(()),
        recorded => recorded.map_err(StopError),
    }
}

/// Writes `stop.json`, unless the job has ended or the file has this request: a million equal requests
/// write one file.
async fn record_stop(
    shared: &Shared,
    job: &Arc<Job>,
    known: &mut Option<StopRequest>,
) -> io::Result<()> {
    let is_over = || job.snapshot().state.is_over();
    let request = job.stop_request();
    if is_over() || request == *known {
        return Ok(());
    }
    let (dir, stop) = (shared.state.job(job.id()), request.clone());
    let record = move || {
        let recorded = stop.map_or(Ok(()), |stop| write(&dir, &stop));
        crash::at(Point::StopRecorded);
        recorded
    };
    let stops = &shared.threads.stops;
    let recorded = stops.run(job.owner(), &shared.runtime, record).await;
    let recorded = recorded.map_err(io::Error::other)?;
    if recorded.is_ok() {
        *known = request;
    }
    recorded.or_else(|e| if is_over() { Ok(()) } else { Err(e) })
}

/// The caller's role in the shim's protocol.
pub(crate) fn source(role: Role) -> Source {
    match role {
        Role::User => Source::User,
        Role::Admin => Source::Admin,
    }
}

/// Added to the grace period before the broker kills in the shim's place.
const SLACK: Duration = Duration::from_secs(3);

/// Kills the job's cgroup if the shim has not stopped the job in time. One task per stopping job; an
/// earlier deadline applies at once.
pub(crate) async fn enforce(shared: Arc<Shared>, job: Arc<Job>) {
    let mut snapshot = job.watch_snapshot();
    let over = snapshot.wait_for(|known| known.exited.is_some() || known.state.is_over());
    tokio::select! {
        _ = over => return,
        () = deadline(&job) => {}
    }
    tracing::warn!(job = %job.id(), "the shim did not stop the job; the broker kills its cgroup");
    kill(&shared, &job).await;
    let mut snapshot = job.watch_snapshot();
    let over = snapshot.wait_for(|known| known.state.is_over());
    if tokio::time::timeout(SLACK, over).await.is_err() {
        job.kill_shim(); // the monitor then settles the job
    }
}

/// Returns when the grace period is over, plus [`SLACK`] if the shim has the request. That is checked at
/// the deadline: the shim may have been reached since, or fallen silent.
async fn deadline(job: &Job) {
    let mut stop = job.watch_stop();
    let mut slack = Duration::ZERO;
    loop {
        let left = stop.borrow_and_update().as_ref().map_or(Duration::ZERO, StopRequest::left);
        tokio::select! {
            () = sleep(left.saturating_add(slack)) => {}
            Ok(()) = stop.changed() => {
                slack = Duration::ZERO;
                continue;
            }
        }
        if !slack.is_zero() || !job.is_stop_sent() {
            return;
        }
        slack = SLACK;
    }
}

/// Kills the workload and returns once it is gone. A process in uninterruptible sleep dies when it wakes
/// up: until then this retries.
async fn kill(shared: &Arc<Shared>, job: &Job) {
    const PAUSE: Duration = Duration::from_secs(1);
    let _turn = job.kill_turn.lock().await; // one thread per job, however many stop requests
    let cgroup = shared.launcher.hierarchy().job(job.id());
    let mut is_known = false;
    loop {
        let own = cgroup.clone();
        let turn = shared.threads.killing.acquire().await; // never closed
        match tokio::task::spawn_blocking(move || own.kill_work()).await {
            Ok(Err(e)) if !is_known => {
                tracing::error!(job = %job.id(), "processes of the job cannot be killed yet: {e}");
                is_known = true;
            }
            Ok(Err(_)) => {}
            Ok(Ok(())) | Err(_) => return, // the panic hook logs a panic
        }
        drop(turn);
        sleep(PAUSE).await;
    }
}

/// The stop request that an earlier broker recorded. A damaged record counts as absent, so that the job
/// stays usable.
///
/// # Errors
/// [`RecordError`], but for damage.
pub(crate) fn load(dir: &Path) -> Result<Option<StopRequest>, RecordError> {
    let record = match records::load::<StopRecord>(dir, records::STOP) {
        Err(e) if e.is_damage() => {
            tracing::error!(
                "{}: {e}; a stop was requested for this job: stop it again",
                dir.display()
            );
            return Ok(None);
        }
        record => record?,
    };
    Ok(record.map(|StopRecord { source, by, kill_at_ms, .. }| StopRequest {
        source: Source::from_number(source).unwrap_or(Source::System),
        by,
        kill_at: Duration::from_millis(kill_at_ms),
    }))
}

fn write(dir: &Path, request: &StopRequest) -> io::Result<()> {
    let record = StopRecord {
        format: FORMAT,
        source: request.source as u8,
        by: request.by.clone(),
        kill_at_ms: u64::try_from(request.kill_at.as_millis()).unwrap_or(u64::MAX),
    };
    records::save(dir, records::STOP, &record).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(grace: Duration) -> StopRequest {
        StopRequest::new(Source::Admin, "root".into(), grace)
    }

    #[test]
    fn what_is_left_of_the_grace_survives_the_broker() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        write(dir.path(), &request(Duration::from_secs(60))).unwrap();
        let loaded = load(dir.path()).unwrap().unwrap();
        assert_eq!((loaded.source, loaded.by.as_str()), (Source::Admin, "root"));
        assert!((50..=60).contains(&loaded.left().as_secs()), "{loaded:?}");
        let no_time = request(Duration::ZERO);
        write(dir.path(), &no_time).unwrap();
        let loaded = load(dir.path()).unwrap().unwrap();
        assert_eq!(loaded.left(), Duration::ZERO);
        // The deadline is kept: a process that died before it was not killed by this stop.
        assert_eq!(loaded.kill_at.as_millis(), no_time.kill_at.as_millis());
        write(dir.path(), &request(Duration::MAX)).unwrap();
        assert!(load(dir.path()).unwrap().unwrap().left() > Duration::from_secs(1 << 40));
    }

    #[test]
    fn a_record_that_cannot_be_read_keeps_nobody_from_the_job() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(records::STOP), "{").unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
    }
}
