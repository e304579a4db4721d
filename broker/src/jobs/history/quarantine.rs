//! Jobs whose records cannot be read: out of the way, with the reason, and everybody else is served.
//!
//! One that still has a shim stays where it is until that has ended. Whose it is and what it may do
//! is not known, but somebody's work it is: its shim goes on keeping its output and its limits, its
//! processes are in a cgroup that an operator can end, and its uid is nobody else's meanwhile.
//! When the shim is gone, the same holds as for any job that lost its shim: what is left of the
//! workload is killed.
//!
//! Its request stays made, wherever that can still be read: it may have run.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::cgroup::job::Leaf;
use crate::jobs::cleanup;
use crate::jobs::process;
use crate::jobs::shared::Ground;
use crate::journal::AUDIT;
use crate::launch::accounts::Lease;
use crate::model::id::JobId;
use crate::store::damage;
use crate::store::records::RequestRecord;

/// Whether a record is damaged, rather than that the disk could not be asked.
pub(crate) fn is_damage(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::InvalidData
}

/// Moves it away, now or when its shim has ended. `request` is what the index knows. Blocks; must be
/// called within the runtime.
pub(crate) fn set_aside(
    ground: &Arc<Ground>,
    id: JobId,
    fault: &io::Error,
    request: Option<RequestRecord>,
) {
    let (fault, request) = noted(ground, id, fault, request);
    let shims = match Shims::of(ground, id) {
        Ok(shims) => shims,
        Err(e) => {
            let reason =
                format!("{fault}; left in place, since its shim cannot be looked for: {e}");
            return leave(ground, id, reason);
        }
    };
    if shims.living.is_empty() {
        return move_away(ground, id, None, (&fault, request.as_ref()));
    }
    leave(ground, id, still_runs(ground, id, &fault));
    let ground = Arc::clone(ground);
    tokio::spawn(async move {
        let lease = shims.ended().await;
        let moving = move || {
            ground.take_back(&id.to_string());
            move_away(&ground, id, lease, (&fault, request.as_ref()));
        };
        let _ = tokio::task::spawn_blocking(moving).await; // a panic is told where it happens
    });
}

/// The disk, or this program, cannot read it now; a later broker may. It stays where it is, and what
/// is its own stays so meanwhile: its request, and its uid while it runs. Blocks; must be called
/// within the runtime.
pub(crate) fn leave_alone(ground: &Arc<Ground>, id: JobId, fault: &io::Error) {
    let (fault, _) = noted(ground, id, fault, None);
    let fault = format!("{fault}; a restart of the broker tries again");
    match Shims::of(ground, id) {
        Ok(shims) if shims.living.is_empty() => leave(ground, id, fault),
        Ok(shims) => {
            leave(ground, id, still_runs(ground, id, &fault));
            tokio::spawn(async { drop(shims.ended().await) });
        }
        Err(e) => leave(ground, id, format!("{fault}; its shim cannot be looked for: {e}")),
    }
}

/// Its request stays made, as far as anybody can tell which that is.
fn noted(
    ground: &Ground,
    id: JobId,
    fault: &io::Error,
    request: Option<RequestRecord>,
) -> (String, Option<RequestRecord>) {
    let request = request.or_else(|| damage::request(&ground.state.job(id)));
    let fault = match &request {
        Some(request) => {
            ground.table().set_aside(request.clone(), id);
            fault.to_string()
        }
        None => {
            format!("{fault}; the id of its request is lost, so that request may be made again")
        }
    };
    (fault, request)
}

fn leave(ground: &Ground, id: JobId, reason: String) {
    tracing::error!(job = %id, "left in place: {reason}");
    ground.leave(id.to_string(), reason);
}

fn still_runs(ground: &Ground, id: JobId, fault: &str) -> String {
    let work = ground.launcher.tree().job(id).leaf(Leaf::Work);
    format!(
        "{fault}; it still runs, so it is left in place until it has ended; to end it, write 1 to {}",
        work.join("cgroup.kill").display()
    )
}

/// The shims in a job's cgroup, and what nobody else may have while they live.
struct Shims {
    living: Vec<Arc<OwnedFd>>,
    lease: Option<Lease>,
}

impl Shims {
    fn of(ground: &Ground, id: JobId) -> io::Result<Shims> {
        let mut shims = Shims { living: Vec::new(), lease: None };
        for pid in ground.launcher.tree().job(id).shims()? {
            if let Some(pidfd) = process::living(pid)? {
                shims.living.push(Arc::new(pidfd));
                shims.lease = shims.lease.or(lease(ground, pid)?);
            }
        }
        Ok(shims)
    }

    async fn ended(self) -> Option<Lease> {
        for pidfd in &self.living {
            process::ended(pidfd).await;
        }
        self.lease
    }
}

fn move_away(
    ground: &Arc<Ground>,
    id: JobId,
    lease: Option<Lease>,
    (reason, request): (&str, Option<&RequestRecord>),
) {
    if ground.launcher.tree().job(id).exists() {
        cleanup::clear(ground, id, lease);
    }
    match ground.state.quarantine(id, reason, request) {
        Ok(()) => tracing::error!(target: AUDIT, job = %id, "moved into quarantine: {reason}"),
        Err(e) => {
            tracing::error!(job = %id, "cannot be moved into quarantine ({e}): {reason}");
            ground.leave(id.to_string(), format!("{reason}; it cannot be moved away: {e}"));
        }
    }
}

/// The requests of those that earlier brokers have moved away. Blocks.
pub(crate) fn recall(ground: &Ground) -> io::Result<()> {
    for (name, _) in ground.state.quarantined()? {
        let Ok(id) = name.parse() else { continue };
        if let Some(request) = damage::request(&ground.state.quarantine_dir().join(name)) {
            ground.table().set_aside(request, id);
        }
    }
    Ok(())
}

/// The workload's uid, which is the effective uid of its shim: proc_pid_status(5). `None` for one that
/// has ended, or whose uid is none of the pool's.
fn lease(ground: &Ground, pid: u32) -> io::Result<Option<Lease>> {
    let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        read => read?,
    };
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    let uid = uid.ok_or_else(|| io::Error::other("its uid cannot be read"))?;
    Ok(ground.pool.adopt(uid))
}
