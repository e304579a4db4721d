//! Looking for the disks of a job's limits as its own user: a path that the job may not see is not
//! found, and the answer tells nothing of what only root may know.

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::limits::{Found, Plan, Unenforceable};
use super::tree::Tree;
use crate::jobs::spec::JobSpec;
use crate::limits::Limits;
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
    let found = {
        let _as_user = AsUser::become_user(account);
        Found::find(limits, tree, &spec.working_directory)?
    };
    Plan::new(limits, &found).check(tree)?;
    Ok(found)
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
