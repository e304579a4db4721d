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
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::ground::Ground;
use crate::id::JobId;
use crate::launch::accounts::Lease;
use crate::launch::cgroup::Leaf;
use crate::store::damage;
use crate::store::records::RequestRecord;
use crate::sys;

/// Whether a record is damaged, rather than that the disk could not be asked.
pub(super) fn is_damage(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::InvalidData
}

/// Moves it away, now or when its shim has ended. `request` is what the index knows. Blocks; must be
/// called within the runtime.
pub(super) fn set_aside(
    ground: &Arc<Ground>,
    id: JobId,
    fault: &io::Error,
    request: Option<RequestRecord>,
) {
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
    let cgroup = ground.launcher.tree().job(id);
    let shims: Vec<_> = cgroup.shims().into_iter().filter_map(living).collect();
    if shims.is_empty() {
        return move_away(ground, id, &fault, request.as_ref());
    }
    let work = cgroup.leaf(Leaf::Work);
    let reason = format!(
        "{fault}; it still runs, so it is left in place until it has ended; to end it, write 1 to {}",
        work.join("cgroup.kill").display()
    );
    tracing::error!(job = %id, "in quarantine: {reason}");
    ground.leave(id.to_string(), reason);
    let leases: Vec<_> = shims.iter().filter_map(|(pid, _)| lease(ground, *pid)).collect();
    let ground = Arc::clone(ground);
    tokio::spawn(async move {
        for (_, pidfd) in shims {
            if let Err(e) = ended(pidfd).await {
                return tracing::error!(job = %id, "cannot wait for its shim: {e}");
            }
        }
        let moving = move || {
            ground.take_back(&id.to_string());
            move_away(&ground, id, &fault, request.as_ref());
        };
        let _ = tokio::task::spawn_blocking(moving).await; // a panic is told where it happens
        drop(leases);
    });
}

fn move_away(ground: &Ground, id: JobId, reason: &str, request: Option<&RequestRecord>) {
    if ground.launcher.tree().job(id).exists() {
        ground.launcher.clean(id);
    }
    match ground.state.quarantine(id, reason, request) {
        Ok(()) => tracing::error!(job = %id, "moved into quarantine: {reason}"),
        Err(e) => {
            tracing::error!(job = %id, "cannot be moved into quarantine ({e}): {reason}");
            ground.leave(id.to_string(), format!("{reason}; it cannot be moved away: {e}"));
        }
    }
}

/// The requests of those that earlier brokers have moved away. Blocks.
pub(super) fn recall(ground: &Ground) -> io::Result<()> {
    for (name, _) in ground.state.quarantined()? {
        let Ok(id) = name.parse() else { continue };
        if let Some(request) = damage::request(&ground.state.quarantine_dir().join(name)) {
            ground.table().set_aside(request, id);
        }
    }
    Ok(())
}

fn living(pid: u32) -> Option<(u32, OwnedFd)> {
    let pidfd = sys::pidfd_open(pid).ok()?;
    (!sys::pidfd_has_ended(pidfd.as_fd())).then_some((pid, pidfd))
}

/// The workload's uid, which is the effective uid of its shim: proc_pid_status(5).
fn lease(ground: &Ground, pid: u32) -> Option<Lease> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ground.pool.adopt(uids.split_ascii_whitespace().nth(1)?.parse().ok()?)
}

async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    sys::watch_readable(Arc::new(pidfd))?.readable().await.map(drop)
}
