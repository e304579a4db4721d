//! Checks whether this program could adopt the running jobs, before a package replaces the broker. Takes no
//! lock and changes nothing: the current broker keeps the jobs.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use job_shim::wire::{Probe, ToShim};
use tokio::time::timeout;

use crate::config;
use crate::jobs::monitor::session;
use crate::jobs::monitor::session::Handshake;
use crate::jobs::process::ShimProcess;
use crate::launch::root;
use crate::model::id::JobId;
use crate::store;
use crate::store::error::RecordError;
use crate::store::records;
use crate::store::records::{SpawnRecord, SpecRecord};
use job_launch::cgroup::hierarchy;

/// Shims that are asked at a time.
const AT_ONCE: usize = 64;

/// The verdict for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TakeoverCheck {
    /// Its shim speaks this version, and all that it says and what is on record is understood.
    Adopted(u16),
    /// No broker can reach its shim now, this one neither: it would be followed by its files.
    Followed(String),
    /// This program does not understand its shim or its records.
    Foreign(String),
    /// It has no shim, or that has left: it ends, or has not begun.
    Over,
}

/// Every job that has a cgroup, the oldest first. Needs a runtime, and the rights of root.
///
/// # Errors
/// When the cgroups cannot be listed.
pub(crate) async fn check(
    config: &config::Jobs,
) -> Result<Vec<(JobId, TakeoverCheck)>, hierarchy::HierarchyError> {
    let jobs = root::existing_jobs(config.cgroup.as_deref())?;
    let ask = |id: JobId| async move { (id, check_job(config, id).await) };
    Ok(stream::iter(jobs).map(ask).buffered(AT_ONCE).collect().await)
}

async fn check_job(config: &config::Jobs, id: JobId) -> TakeoverCheck {
    let dir = store::jobs_in(&config.state_dir).join(id.to_string());
    let living = |spawned: SpawnRecord| Ok(ShimProcess::from(&spawned).works()?.then_some(spawned));
    let shim = match read(&dir).and_then(|spawned| spawned.map_or(Ok(None), living)) {
        Ok(Some(spawned)) => ShimProcess::from(&spawned),
        Ok(None) => return TakeoverCheck::Over,
        Err(e) => return TakeoverCheck::Foreign(e.to_string()),
    };
    match probe(&config.run_dir.join(id.to_string()), shim).await {
        Ok(version) => TakeoverCheck::Adopted(version),
        Err(_) if matches!(shim.works(), Ok(false)) => TakeoverCheck::Over,
        Err(e) if is_foreign(&e) => TakeoverCheck::Foreign(format!("its shim: {e}")),
        Err(e) => TakeoverCheck::Followed(e.to_string()),
    }
}

/// All records that a takeover reads.
fn read(dir: &Path) -> Result<Option<SpawnRecord>, RecordError> {
    let Some(spec) = records::load::<SpecRecord>(dir, records::SPEC)? else { return Ok(None) };
    records::load_exit(dir, spec.boot_id.as_bytes())?;
    records::load(dir, records::SPAWN)
}

async fn probe(socket: &Path, shim: ShimProcess) -> io::Result<u16> {
    let word = ToShim::Probe(Probe { nonce: shim.nonce });
    let Handshake { reader, .. } =
        timeout(session::ANSWER_TIMEOUT, session::handshake(socket, shim, &word)).await.map_err(
            |_| {
                let waited: Duration = session::ANSWER_TIMEOUT;
                io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {waited:?}"))
            },
        )??;
    Ok(reader.version())
}

fn is_foreign(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
