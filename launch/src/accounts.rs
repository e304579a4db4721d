//! Resolves accounts, and leases uids of the pool. Creates no account and changes no credentials.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups};
use uuid::Uuid;

use crate::model::account::Account;
use crate::sync::lock;

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
    /// Every uid of the pool is leased, or belongs to an account or group.
    #[error("all {0} uids of the pool are in use, or belong to accounts or groups of this host")]
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
///
/// Uids are leased round robin: files outlive their job, and the next job with that uid can change them.
/// The first uid is random, since a restart forgets the position.
#[derive(Debug)]
pub struct Pool {
    first: u32,
    last: u32,
    state: Mutex<PoolState>,
    find_owner: FindOwner,
}

/// The account that has this uid, or the group that has this gid, if there is one.
type FindOwner = fn(u32) -> Result<Option<String>, AccountError>;

#[derive(Debug)]
struct PoolState {
    next: u32,
    /// With how many have it: of what an earlier broker has left, that may be more than one.
    used: HashMap<u32, u32>,
    /// Uids that belong to an account or group: never leased.
    foreign: HashSet<u32>,
}

/// A leased uid of the pool, released on drop.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    uid: u32,
}

impl Pool {
    /// From `first` to `last`, both included; never that of the shims.
    pub fn new((first, last): (u32, u32), shim_uid: u32) -> Arc<Pool> {
        let size = u128::from(last.saturating_sub(first)) + 1;
        let place = u32::try_from(Uuid::new_v4().as_u128() % size).unwrap_or_default();
        Pool::starting_at((first, last), first + place, HashSet::from([shim_uid]), owner)
    }

    fn starting_at(
        (first, last): (u32, u32),
        next: u32,
        foreign: HashSet<u32>,
        find_owner: FindOwner,
    ) -> Arc<Pool> {
        let state = Mutex::new(PoolState { next, used: HashMap::new(), foreign });
        Arc::new(Pool { first, last, state, find_owner })
    }

    /// The next free uid that is neither an account's of this host nor, as gid, a group's. Blocks: a
    /// name service may take its time.
    ///
    /// It is asked for each job, and not once at the start: accounts are made while a broker runs, and
    /// those of a directory service are on no list. Where the C library is a static one, files are
    /// all it knows, as with every other account.
    ///
    /// # Errors
    /// `PoolEmpty`; `Lookup`, since a uid that cannot be checked may belong to an account.
    pub fn lease(self: &Arc<Pool>) -> Result<Lease, AccountError> {
        loop {
            let lease = self.next_free()?; // leased before the look-up, which runs without the lock
            let uid = lease.uid;
            let Some(owner) = (self.find_owner)(uid)? else { return Ok(lease) };
            tracing::warn!("uid {uid} of jobs.pool belongs to {owner}; no job gets it");
            self.state().foreign.insert(uid);
        }
    }

    fn next_free(self: &Arc<Pool>) -> Result<Lease, AccountError> {
        let mut state = self.state();
        let uid = (state.next..=self.last)
            .chain(self.first..state.next)
            .find(|uid| !state.used.contains_key(uid) && !state.foreign.contains(uid))
            .ok_or(AccountError::PoolEmpty(self.last - self.first + 1))?;
        state.used.insert(uid, 1);
        state.next = if uid == self.last { self.first } else { uid + 1 };
        Ok(Lease { pool: Arc::clone(self), uid })
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        lock(&self.state)
    }

    /// The uid of a job that an earlier broker gave it; `None` for one outside the pool.
    pub fn adopt(self: &Arc<Pool>, uid: u32) -> Option<Lease> {
        if !(self.first..=self.last).contains(&uid) {
            return None;
        }
        *self.state().used.entry(uid).or_default() += 1;
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
        let mut state = self.pool.state();
        if let Some(users) = state.used.get_mut(&self.uid) {
            *users -= 1;
            if *users == 0 {
                state.used.remove(&self.uid);
            }
        }
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

/// The account of this process, with its groups.
///
/// # Errors
/// [`AccountError`]: none has its uid.
pub fn own() -> Result<Account, AccountError> {
    let (uid, gid) = (geteuid(), getegid());
    let fault = |source| AccountError::Lookup { name: uid.to_string(), source };
    let user = User::from_uid(uid).map_err(|e| fault(e.into()))?;
    let (name, home) = match user {
        Some(user) => (user.name, user.dir.to_string_lossy().into_owned()),
        None => (uid.to_string(), "/".into()),
    };
    let groups = getgroups().map_err(|e| fault(e.into()))?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Account { name, uid: uid.as_raw(), gid: gid.as_raw(), groups, home })
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

fn owner(number: u32) -> Result<Option<String>, AccountError> {
    let user = User::from_uid(Uid::from_raw(number)).map(|user| user.map(|user| user.name));
    if let Some(name) = or_none(user, number)? {
        return Ok(Some(format!("the account {name}")));
    }
    let group = Group::from_gid(Gid::from_raw(number)).map(|group| group.map(|group| group.name));
    Ok(or_none(group, number)?.map(|name| format!("the group {name}")))
}

/// Some name services report an unknown id as an error: getpwuid(3) has the list.
fn or_none(
    found: nix::Result<Option<String>>,
    number: u32,
) -> Result<Option<String>, AccountError> {
    match found {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        found => {
            found.map_err(|e| AccountError::Lookup { name: number.to_string(), source: e.into() })
        }
    }
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

    fn pool(uids: (u32, u32)) -> Arc<Pool> {
        Pool::starting_at(uids, uids.0, HashSet::new(), |_| Ok(None))
    }

    fn uid(pool: &Arc<Pool>) -> u32 {
        pool.lease().unwrap().account().uid
    }

    #[test]
    fn a_uid_of_the_pool_has_one_job_at_a_time() {
        let pool = pool((100, 101));
        let (a, b) = (pool.lease().unwrap(), pool.lease().unwrap());
        assert_eq!((a.account().uid, b.account().uid), (100, 101));
        assert!(matches!(pool.lease(), Err(AccountError::PoolEmpty(2))));
        drop(a);
        assert_eq!(uid(&pool), 100);
    }

    #[test]
    fn a_uid_that_is_given_back_has_its_turn_after_all_others() {
        let pool = pool((100, 103));
        let _lives = pool.adopt(102).unwrap();
        let given: Vec<_> = (0..6).map(|_| uid(&pool)).collect();
        assert_eq!(given, [100, 101, 103, 100, 101, 103]);
    }

    #[test]
    fn brokers_do_not_all_begin_with_the_same_uid() {
        let begin = |_| Pool::new((70_000, 79_999), 1).state().next;
        let begins: HashSet<u32> = (0..20).map(begin).collect();
        assert!(begins.len() > 1);
        assert!(begins.iter().all(|uid| (70_000..=79_999).contains(uid)), "{begins:?}");
        assert_eq!(Pool::new((7, 7), 1).state().next, 7);
        assert!(Pool::new((1, u32::MAX), 1).state().next > 0);
    }

    #[test]
    fn the_uid_of_an_account_is_nobodys_of_the_pool() {
        let find = |uid| Ok((uid == 101).then(|| "somebody".to_owned()));
        let pool = Pool::starting_at((100, 102), 100, HashSet::from([100]), find);
        assert_eq!([uid(&pool), uid(&pool)], [102, 102]);
        let root = Pool::starting_at((0, 0), 0, HashSet::new(), owner);
        assert!(matches!(root.lease(), Err(AccountError::PoolEmpty(1))));
    }

    #[test]
    fn a_uid_is_not_lent_while_nobody_can_say_whose_it_is() {
        let fails = |uid: u32| {
            Err(AccountError::Lookup { name: uid.to_string(), source: Errno::EIO.into() })
        };
        let pool = Pool::starting_at((100, 100), 100, HashSet::new(), fails);
        for _ in 0..2 {
            assert!(matches!(pool.lease(), Err(AccountError::Lookup { .. })));
        }
    }

    #[test]
    fn the_uid_of_an_adopted_job_is_taken() {
        let pool = pool((100, 101));
        let _adopted = pool.adopt(100).unwrap();
        assert_eq!(uid(&pool), 101);
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
