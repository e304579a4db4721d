//! Moves jobs with damaged records into quarantine, with the reason. Never deletes one and never kills a
//! job whose shim lives.
//!
//! A damaged job with a live shim stays in place until the shim ends: the shim keeps its output and its
//! limits, an operator can kill its cgroup, and its uid stays leased. When the shim is gone, the
//! broker kills what is left of the workload.
//!
//! The request of a damaged job counts as made, if its id can be read: the job may have run.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::audit::{Entry, OwnAction, Phase};
use crate::jobs::cleanup;
use crate::jobs::process;
use crate::jobs::shared::Shared;
use crate::journal::AUDIT;
use crate::model::id::JobId;
use crate::store::damage;
use crate::store::error::RecordError;
use crate::store::records::RequestRecord;
use job_launch::accounts::Lease;
use job_launch::cgroup::job::Leaf;
use job_launch::host;

/// Between two tries to read a request while the host is short of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Moves the job into quarantine, now or when its shim has ended. `request` is from the index. Blocks;
/// must be called within the runtime.
pub(crate) fn quarantine(
    shared: &Arc<Shared>,
    id: JobId,
    fault: &RecordError,
    request: Option<RequestRecord>,
) {
    let (fault, request) = keep_request(shared, id, fault, request);
    let shims = match Shims::of(shared, id) {
        Ok(shims) => shims,
        Err(e) => {
            let reason =
                format!("{fault}; left in place, since the broker cannot look for its shim: {e}");
            return mark(shared, id, reason);
        }
    };
    if shims.living.is_empty() {
        return move_away(shared, id, shims.lease, (&fault, request.as_ref()));
    }
    mark(shared, id, still_runs(shared, id, &fault));
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let lease = shims.wait_for_exit().await;
        let moving = move || {
            shared.clear_unreadable(&id.to_string());
            move_away(&shared, id, lease, (&fault, request.as_ref()));
        };
        let _ = tokio::task::spawn_blocking(moving).await; // the panic hook logs a panic
    });
}

/// Leaves a job in place whose records cannot be read now; a later broker may read them. The request
/// counts as made, and the uid stays leased while the shim lives. Blocks; must be called within the runtime.
pub(crate) fn leave_in_place(shared: &Arc<Shared>, id: JobId, fault: &RecordError) {
    let (fault, _) = keep_request(shared, id, fault, None);
    let fault = format!("{fault}; a restart of the broker tries again");
    match Shims::of(shared, id) {
        Ok(shims) if shims.living.is_empty() => mark(shared, id, fault),
        Ok(shims) => {
            mark(shared, id, still_runs(shared, id, &fault));
            tokio::spawn(async { drop(shims.wait_for_exit().await) });
        }
        Err(e) => mark(shared, id, format!("{fault}; the broker cannot look for its shim: {e}")),
    }
}

/// Registers the job's request as made, if its id can be read.
fn keep_request(
    shared: &Shared,
    id: JobId,
    fault: &RecordError,
    request: Option<RequestRecord>,
) -> (String, Option<RequestRecord>) {
    let known = match request {
        Some(request) => Ok(Some(request)),
        None => request_of(shared, &shared.state.job(id)),
    };
    match known {
        Ok(Some(request)) => {
            shared.registry().mark_quarantined(request.clone(), id);
            (fault.to_string(), Some(request))
        }
        Ok(None) => {
            let lost = "the id of its request is lost, so that request may be made again";
            (format!("{fault}; {lost}"), None)
        }
        Err(e) => {
            let unread = format!("its request cannot be read ({e}), so it may be made again");
            (format!("{fault}; {unread}"), None)
        }
    }
}

/// Waits for a shortage to pass, which is no reason to run a request twice.
fn request_of(shared: &Shared, dir: &Path) -> io::Result<Option<RequestRecord>> {
    loop {
        match damage::request(dir) {
            Err(e) if host::is_shortage(&e) && is_left(&shared.shortage_tries) => {
                thread::sleep(PAUSE)
            }
            told => return told,
        }
    }
}

/// Takes one try, if there is one left.
fn is_left(tries: &AtomicU32) -> bool {
    tries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn mark(shared: &Shared, id: JobId, reason: String) {
    tracing::error!(job = %id, "the job cannot be read and is left in place: {reason}");
    shared.mark_unreadable(id.to_string(), reason);
}

fn still_runs(shared: &Shared, id: JobId, fault: &str) -> String {
    let work = shared.launcher.hierarchy().job(id).leaf(Leaf::Work);
    format!(
        "{fault}; it still runs, so it is left in place until it has ended; to end it, write 1 to {}",
        work.join("cgroup.kill").display()
    )
}

/// The live shims in a job's cgroup, and the lease of their uid.
struct Shims {
    living: Vec<Arc<OwnedFd>>,
    lease: Option<Lease>,
}

impl Shims {
    fn of(shared: &Shared, id: JobId) -> io::Result<Shims> {
        let mut shims = Shims { living: Vec::new(), lease: None };
        for pid in shared.launcher.hierarchy().job(id).shims()? {
            shims.living.extend(process::living(pid)?.map(Arc::new));
            // Also of one that cannot end before its job's processes have.
            shims.lease = shims.lease.or(lease(shared, pid)?);
        }
        Ok(shims)
    }

    async fn wait_for_exit(self) -> Option<Lease> {
        for pidfd in &self.living {
            process::wait_for_exit(pidfd).await;
        }
        self.lease
    }
}

fn move_away(
    shared: &Arc<Shared>,
    id: JobId,
    lease: Option<Lease>,
    (reason, request): (&str, Option<&RequestRecord>),
) {
    if shared.launcher.hierarchy().job(id).exists() {
        cleanup::clear(shared, id, lease);
    }
    match shared.state.quarantine(id, reason, request) {
        Ok(()) => {
            tracing::error!(target: AUDIT, job = %id, "moved into quarantine: {reason}");
            let entry = Entry::own(Phase::Broker, OwnAction::Quarantine).end("id", id.to_string());
            shared.audit.note(&entry.message(reason));
        }
        Err(e) => {
            tracing::error!(job = %id, "the job cannot be moved into quarantine ({e}): {reason}");
            shared.mark_unreadable(
                id.to_string(),
                format!("{reason}; the job cannot be moved into quarantine: {e}"),
            );
        }
    }
}

/// Registers the requests of the jobs in quarantine as made. Blocks.
pub(crate) fn load_requests(shared: &Shared) -> io::Result<()> {
    for (name, _) in shared.state.quarantined()? {
        let Ok(id) = name.parse() else { continue };
        match request_of(shared, &shared.state.quarantine_dir().join(&name)) {
            Ok(Some(request)) => shared.registry().mark_quarantined(request, id),
            Ok(None) => {} // as its reason says
            Err(e) if host::is_shortage(&e) => return Err(e),
            // A disk that cannot read this would keep everybody from starting anything.
            Err(e) => tracing::error!(
                "the request of {name} in quarantine cannot be read ({e}), so it may be made again"
            ),
        }
    }
    Ok(())
}

/// A lease of the workload's uid, which is the shim's effective uid. `None` if the shim has ended or the uid is not in the
/// pool.
fn lease(shared: &Shared, pid: u32) -> io::Result<Option<Lease>> {
    Ok(process::effective_uid(pid)?.and_then(|uid| shared.pool.adopt(uid)))
}
