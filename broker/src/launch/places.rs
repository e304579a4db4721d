//! Looking for the disks of a job's limits, as far as its own user may look: the answer tells
//! nothing of what only root may know.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::limits::{Found, Plan, Unenforceable};
use super::tree::Tree;
use crate::jobs::spec::JobSpec;
use crate::limits::{DiskName, Limits};
use crate::store::records::Account;

/// Finds the disks, and makes sure that this host can enforce all limits. Blocks; the calling
/// thread is somebody else meanwhile, for file systems only.
///
/// # Errors
/// [`Unenforceable`].
pub fn find(
    tree: &Tree,
    limits: &Limits,
    spec: &JobSpec,
    account: &Account,
) -> Result<Found, Unenforceable> {
    for rule in &limits.io {
        if let DiskName::Path(path) = &rule.disk {
            visible(path, account)?;
        }
    }
    // What lies below, such as the layers of an overlay, is the host's affair and not the job's.
    let found = Found::find(limits, tree, &spec.working_directory)?;
    Plan::new(limits, &found).check(tree)?;
    Ok(found)
}

fn visible(path: &str, account: &Account) -> Result<(), Unenforceable> {
    let _as_user = AsUser::become_user(account);
    std::fs::metadata(path).map(drop).map_err(|e| Unenforceable {
        limit: "io.max",
        controller: "io",
        reason: format!("{} cannot look up {path}: {e}", account.name),
    })
}

/// The file system identity of this thread, until it is dropped: setfsuid(2). With it go the
/// capabilities that let root look everywhere, capabilities(7).
struct AsUser;

impl AsUser {
    fn become_user(account: &Account) -> AsUser {
        setfsgid(Gid::from_raw(account.gid));
        setfsuid(Uid::from_raw(account.uid));
        AsUser
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
    }
}
