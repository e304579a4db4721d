//! Stopping a job. Its shim does it, whatever becomes of the broker; the broker does it in the place of
//! a shim that does not answer. So that neither is forgotten when the broker dies meanwhile, a stop is
//! in the job's directory before whoever asked for it is answered; the next broker goes on with it.
//!
//! It is not synced: a crash of the host ends the job, too. It goes when the end is on record.

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

/// It is being stopped, but not for good.
#[derive(Debug, thiserror::Error)]
#[error(
    "the job is being stopped, but its shim does not answer and {name} cannot be written: {0}; \
     stop it again if the broker is restarted before the job has ended",
    name = records::STOP
)]
pub struct StopError(#[source] io::Error);

/// Asks all processes of a job to end, and kills them after the grace period; whether its shim
/// was told. Answers at once; nothing is done to a job that has ended.
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
        StopChange::Earlier => {} // which its enforcer hears of
    }
    tracing::info!(target: AUDIT, job = %job.id(), by, "stop requested");
    job.send_stop()
}

/// The same for a caller (grace absent: the job's own). It happens even if the broker dies once this has
/// answered.
///
/// # Errors
/// [`StopError`]; it is being stopped all the same.
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
        // It is being started and has no directory yet. If it does not come to one, it is over.
        let _ = job.watch_snapshot().wait_for(Snapshot::is_past_start).await;
        recorded = record_stop(shared, job, &mut known).await;
    }
    match recorded {
        Err(e) if sent => {
            // What is in the socket of a shim is heard by it, and more than that is not needed.
            tracing::warn!(job = %job.id(), "its stop is not on record: {e}");
            Ok(())
        }
        recorded => recorded.map_err(StopError),
    }
}

/// Nothing is written about a job that is over, and nothing that is on record already: a caller that
/// asks a million times has one file written.
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

/// In which role somebody asks, in the words of the shim.
pub(crate) fn source(role: Role) -> Source {
    match role {
        Role::User => Source::User,
        Role::Admin => Source::Admin,
    }
}

/// A little more time than the job has: its shim counts, too.
const SLACK: Duration = Duration::from_secs(3);

/// The shim does the stopping. Should it not answer, the broker does, as root. There is one of these for
/// each job that is being stopped, which hears when the job has less time than it had.
pub(crate) async fn enforce(shared: Arc<Shared>, job: Arc<Job>) {
    let mut snapshot = job.watch_snapshot();
    let over = snapshot.wait_for(|known| known.exited.is_some() || known.state.is_over());
    tokio::select! {
        _ = over => return,
        () = deadline(&job) => {}
    }
    tracing::warn!(job = %job.id(), "its shim did not stop it; killing its cgroup");
    kill(&shared, &job).await;
    let mut snapshot = job.watch_snapshot();
    let over = snapshot.wait_for(|known| known.state.is_over());
    if tokio::time::timeout(SLACK, over).await.is_err() {
        job.kill_shim(); // it cannot tell how the job ended; its attendant settles it
    }
}

/// Answers when the job has no time left, nor its shim to see to that. Whether the shim has been told is
/// looked at then: it may have been reached since, or be silent.
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

/// Answers when nothing of the workload is left: a process in uninterruptible sleep dies when it wakes
/// up, and as long as it sleeps there is no end that its shim could tell.
async fn kill(shared: &Arc<Shared>, job: &Job) {
    const PAUSE: Duration = Duration::from_secs(1);
    let _turn = job.kill_turn.lock().await; // each try has a thread for itself: one, however often it is stopped
    let cgroup = shared.launcher.hierarchy().job(job.id());
    let mut is_known = false;
    loop {
        let own = cgroup.clone();
        let turn = shared.threads.killing.acquire().await; // never closed
        match tokio::task::spawn_blocking(move || own.kill_work()).await {
            Ok(Err(e)) if !is_known => {
                tracing::error!(job = %job.id(), "processes of it cannot be killed yet: {e}");
                is_known = true;
            }
            Ok(Err(_)) => {}
            Ok(Ok(())) | Err(_) => return, // a panic is told where it happens
        }
        drop(turn);
        sleep(PAUSE).await;
    }
}

/// What an earlier broker was asked. One that cannot be read is none: a job is not kept from everybody
/// for it.
///
/// # Errors
/// [`RecordError`], but for damage.
pub(crate) fn load(dir: &Path) -> Result<Option<StopRequest>, RecordError> {
    let record = match records::load::<StopRecord>(dir, records::STOP) {
        Err(e) if e.is_damage() => {
            tracing::error!("{}: {e}; somebody wanted that job stopped", dir.display());
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
        // When that was is not forgotten: what has died before was not killed for it.
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
