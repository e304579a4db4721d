//! Roots whose owner is the job's account: what belongs to root there is that account's, in the job. It must not mount
//! anything: the shim does, under an overlay, so that nothing of the directory itself is ever written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::model::account::Account;
use crate::sync::lock;
use crate::sys;

/// Most user namespaces that are kept: one for each account that writes into a root.
const MOST: usize = 64;

/// Uid and gid of an account.
type Ids = (u32, u32);

/// User namespaces.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By uid and gid, the one that was used last at the end.
    kept: Mutex<Vec<(Ids, Arc<OwnedFd>)>>,
    /// That there are none has been said.
    is_told: AtomicBool,
}

impl Owners {
    /// The user namespace that makes root's files in this directory the account's, made the first time. `None` where this
    /// host or the directory's file system lacks that, which the log says once.
    pub(super) fn of(&self, root: &OwnedFd, account: &Account) -> Option<Arc<OwnedFd>> {
        let owner = self.checked(root.as_fd(), (account.uid, account.gid));
        let tell = |e: &io::Error| {
            let what = "jobs write into their roots only where every account may";
            if !self.is_told.swap(true, Ordering::Relaxed) {
                tracing::warn!("{what}: no idmapped mount can be made: {e}");
            }
        };
        owner.inspect_err(tell).ok()
    }

    /// Why root's files in this directory can be no account's.
    pub(super) fn lack(&self, root: BorrowedFd<'_>) -> Option<io::Error> {
        const NOBODY: Ids = (65_534, 65_534);
        self.checked(root, NOBODY).err()
    }

    fn checked(&self, root: BorrowedFd<'_>, ids: Ids) -> io::Result<Arc<OwnedFd>> {
        let owner = self.namespace(ids)?;
        sys::can_have_owners(root, owner.as_fd())?;
        Ok(owner)
    }

    fn namespace(&self, ids: Ids) -> io::Result<Arc<OwnedFd>> {
        if ids.0 == 0 || ids.1 == 0 {
            return Err(io::Error::other("the account has root's number"));
        }
        if let Some(known) = self.known(ids) {
            return Ok(known);
        }
        let owner = Arc::new(sys::user_namespace(ids.0, ids.1)?); // others need not wait for it
        let mut kept = lock(&self.kept);
        if kept.len() >= MOST {
            kept.remove(0);
        }
        kept.push((ids, Arc::clone(&owner)));
        Ok(owner)
    }

    fn known(&self, ids: Ids) -> Option<Arc<OwnedFd>> {
        let mut kept = lock(&self.kept);
        let place = kept.iter().position(|(of, _)| *of == ids)?;
        let entry = kept.remove(place);
        let owner = Arc::clone(&entry.1);
        kept.push(entry);
        Some(owner)
    }
}
