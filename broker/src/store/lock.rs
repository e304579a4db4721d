//! The lock of a directory, that of the state or of the audit: one broker holds it at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, poll};

use crate::store::error::OpenError;
use crate::sys;

/// The lock, with this process's pid in it.
///
/// # Errors
/// [`OpenError`]; `Held` names the process.
pub(crate) fn lock(root: &Path) -> Result<Flock<File>, OpenError> {
    let held = |holder| OpenError::Held { path: root.into(), holder };
    match try_lock(root)? {
        Ok(lock) => Ok(lock),
        Err(holder) if exits_soon(&holder) => wait_for_lock(root)?.map_err(held),
        Err(holder) => Err(held(holder)),
    }
}

/// The same without waiting for a holder that ends just now.
///
/// # Errors
/// As [`lock`].
pub(crate) fn lock_now(root: &Path) -> Result<Flock<File>, OpenError> {
    try_lock(root)?.map_err(|holder| OpenError::Held { path: root.into(), holder })
}

/// A shim that was being cloned when its broker was killed has a copy of the descriptor until it
/// has come to its execve(2).
fn wait_for_lock(root: &Path) -> Result<Result<Flock<File>, String>, OpenError> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let lock = try_lock(root)?;
        if lock.is_ok() || Instant::now() > until {
            return Ok(lock);
        }
        std::thread::sleep(Duration::from_millis(5)); // flock(2) has no notification
    }
}

/// The lock, with this process's pid in it; or the pid that is in it.
fn try_lock(root: &Path) -> Result<Result<Flock<File>, String>, OpenError> {
    let path = root.join("lock");
    let io = |source| OpenError::Io { step: "lock", path: path.clone(), source };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    match Flock::lock(options.open(&path).map_err(io)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let pid = std::process::id().to_string();
            // Over the former one: on a full disk there is no other room for it.
            match lock.write_all(pid.as_bytes()).and_then(|()| lock.set_len(pid.len() as u64)) {
                Err(e) if is_full(&e) => tracing::warn!("cannot write {}: {e}", path.display()),
                written => written.map_err(io)?,
            }
            Ok(Ok(lock))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(io)?;
            Ok(Err(holder))
        }
        Err((_, errno)) => Err(io(errno.into())),
    }
}

/// One that has just been killed closes thousands of descriptors before it lets go of the lock:
/// worth a second of waiting.
fn exits_soon(holder: &str) -> bool {
    let Ok(pid) = holder.parse() else { return false };
    let Ok(pidfd) = sys::pidfd_open(pid) else { return true };
    let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut ended, 1000u16).is_ok_and(|count| count > 0)
}

/// Whether the disk has no room for this.
pub(super) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
