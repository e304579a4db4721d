//! Whom a job runs as: names to numbers, and the pool of uids.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::store::records::Account;

/// The kernel's overflow uid, which every Linux calls nobody.
const NOBODY: u32 = 65_534;

/// Why a name is no account for a job.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Not in passwd(5) or what else nsswitch.conf(5) names.
    #[error("there is no account {0:?} on this host")]
    Unknown(String),
    /// Never.
    #[error("account {0:?} has uid 0 or that of the shims; no job runs as that")]
    Forbidden(String),
    /// Every uid of the pool has a job.
    #[error("all {0} uids of the pool are in use")]
    PoolEmpty(u32),
    /// The name service failed.
    #[error("cannot look up account {name:?}: {source}")]
    Lookup {
        /// Whom.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// The uids of a pool and which of them have a live job.
#[derive(Debug)]
pub struct Pool {
    first: u32,
    last: u32,
    used: Mutex<HashSet<u32>>,
}

/// A uid of the pool, given back when this is dropped: when nothing of its job is left.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    uid: u32,
}

impl Pool {
    /// From `first` to `last`, both included.
    pub fn new((first, last): (u32, u32)) -> Arc<Pool> {
        Arc::new(Pool { first, last, used: Mutex::default() })
    }

    /// The lowest free uid.
    ///
    /// # Errors
    /// `PoolEmpty`.
    pub fn lease(self: &Arc<Pool>) -> Result<Lease, AccountError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = (self.first..=self.last)
            .find(|uid| !used.contains(uid))
            .ok_or(AccountError::PoolEmpty(self.last - self.first + 1))?;
        used.insert(uid);
        Ok(Lease { pool: Arc::clone(self), uid })
    }

    /// The uid of a job that an earlier broker gave it; `None` for one outside the pool.
    pub fn adopt(self: &Arc<Pool>, uid: u32) -> Option<Lease> {
        if !(self.first..=self.last).contains(&uid) {
            return None;
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(uid);
        Some(Lease { pool: Arc::clone(self), uid })
    }
}

impl Lease {
    /// As an account without a name in passwd(5).
    pub fn account(&self) -> Account {
        let name = format!("job-{}", self.uid);
        Account { name, uid: self.uid, gid: self.uid, groups: Vec::new(), home: "/".into() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

/// Looks up an account of this host, with its groups; `nobody` has none.
///
/// # Errors
/// [`AccountError`]: unknown, uid 0, or the uid of the shims.
pub fn resolve(name: &str, shim_uid: u32) -> Result<Account, AccountError> {
    let user = lookup(name)?;
    let account = match user {
        None if name == "nobody" => nobody(),
        None => return Err(AccountError::Unknown(name.into())),
        Some(user) if user.uid.as_raw() == NOBODY => Account { gid: user.gid.as_raw(), ..nobody() },
        Some(user) => Account {
            groups: groups(name, user.gid)?,
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir.to_string_lossy().into_owned(),
        },
    };
    if account.uid == 0 || account.uid == shim_uid {
        return Err(AccountError::Forbidden(name.into()));
    }
    Ok(account)
}

/// The uid and gid that shims run as: an account, or a number for hosts without one.
///
/// # Errors
/// [`AccountError`]: unknown, or uid 0.
pub fn shim_account(name: &str) -> Result<(u32, u32), AccountError> {
    let (uid, gid) = match name.parse::<u32>() {
        Ok(number) => (number, number),
        Err(_) => {
            let user = lookup(name)?.ok_or_else(|| AccountError::Unknown(name.into()))?;
            (user.uid.as_raw(), user.gid.as_raw())
        }
    };
    if uid == 0 { Err(AccountError::Forbidden(name.into())) } else { Ok((uid, gid)) }
}

fn lookup(name: &str) -> Result<Option<User>, AccountError> {
    User::from_name(name).map_err(|e| AccountError::Lookup { name: name.into(), source: e.into() })
}

fn groups(name: &str, gid: Gid) -> Result<Vec<u32>, AccountError> {
    let fault = |source| AccountError::Lookup { name: name.into(), source };
    let c_name = CString::new(name).map_err(|e| fault(e.into()))?;
    let groups = getgrouplist(&c_name, gid).map_err(|e| fault(e.into()))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

fn nobody() -> Account {
    let gid = Group::from_name("nogroup").ok().flatten().map_or(NOBODY, |g| g.gid.as_raw());
    Account {
        name: "nobody".into(),
        uid: Uid::from_raw(NOBODY).as_raw(),
        gid,
        groups: Vec::new(),
        home: "/".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_of_the_pool_has_one_job_at_a_time() {
        let pool = Pool::new((100, 101));
        let (a, b) = (pool.lease().unwrap(), pool.lease().unwrap());
        assert_eq!((a.account().uid, b.account().uid), (100, 101));
        assert!(matches!(pool.lease(), Err(AccountError::PoolEmpty(2))));
        drop(a);
        assert_eq!(pool.lease().unwrap().account().uid, 100);
    }

    #[test]
    fn the_uid_of_an_adopted_job_is_taken() {
        let pool = Pool::new((100, 101));
        let _adopted = pool.adopt(100).unwrap();
        assert_eq!(pool.lease().unwrap().account().uid, 101);
        assert!(pool.adopt(99).is_none());
    }

    #[test]
    fn nobody_has_no_groups_and_root_is_no_account_for_a_job() {
        let nobody = resolve("nobody", 1).unwrap();
        assert_eq!((nobody.uid, nobody.groups), (NOBODY, vec![]));
        assert!(matches!(resolve("root", 1), Err(AccountError::Forbidden(_))));
        assert!(matches!(resolve("no-such-account", 1), Err(AccountError::Unknown(_))));
        assert!(matches!(resolve("nobody", NOBODY), Err(AccountError::Forbidden(_))));
    }
}
