//! Quotas on concurrent use, for one key (an identity, an address, a job) and for all keys. A [`Permit`] returns its
//! amount when it is dropped, so nothing leaks. A quota counts and rejects; it must not authorize.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::quota::kind::QuotaKind;
use crate::quota::refusal::OverQuota;
use crate::sync::lock;

/// A limit for each key and one for all keys.
pub(crate) struct Quota<K> {
    what: &'static str,
    per_key: u64,
    total: u64,
    configured: Option<Configured<K>>,
    in_use: Mutex<InUse<K>>,
}

/// A lower limit of some keys, as configured, and where it is set. Asked at each use.
type LimitOf<K> = Box<dyn Fn(&K) -> Option<(u64, Arc<str>)> + Send + Sync>;

struct Configured<K> {
    kind: QuotaKind,
    limit_of: LimitOf<K>,
}

#[derive(Debug)]
struct InUse<K> {
    by_key: HashMap<K, u64>,
    total: u64,
}

/// An amount in use; returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit<K: Eq + Hash> {
    quota: Arc<Quota<K>>,
    key: K,
    amount: u64,
}

/// A limit is reached. Retry when another permit is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// In the plural: "calls", "bytes of requests".
    what: &'static str,
    /// Which of the two limits.
    bound: Bound,
    limit: u64,
    /// The quota of the identity, if it is one that operators know.
    quota: Option<OverQuota>,
}

/// The origin of a limit that no operator has set.
pub(super) const BUILT_IN: &str = "built in";

/// The scope of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The limit of one key.
    Key,
    /// The limit of all keys.
    Total,
}

impl<K: Eq + Hash + Clone> Quota<K> {
    /// A quota of `what`: at most `per_key` for each key and `total` for all keys.
    pub(crate) fn new(what: &'static str, per_key: u64, total: u64) -> Arc<Quota<K>> {
        Arc::new(Quota { what, per_key, total, configured: None, in_use: Mutex::default() })
    }

    /// The same for a quota that operators can configure: the lower of `per_key` and `limit_of` binds.
    pub(super) fn configured(
        kind: QuotaKind,
        (per_key, total): (u64, u64),
        limit_of: LimitOf<K>,
    ) -> Arc<Quota<K>> {
        let configured = Some(Configured { kind, limit_of });
        Arc::new(Quota { what: kind.what(), per_key, total, configured, in_use: Mutex::default() })
    }

    /// What a key has in use.
    pub(super) fn used(&self, key: &K) -> u64 {
        self.lock().by_key.get(key).copied().unwrap_or(0)
    }

    /// What all keys together have in use.
    pub(super) fn used_by_all(&self) -> u64 {
        self.lock().total
    }

    /// What each key has in use, and its limit.
    pub(super) fn used_by_each(&self) -> Vec<(u64, u64)> {
        // Limits are asked without the lock: to find one may take longer than to count.
        let held: Vec<_> =
            self.lock().by_key.iter().map(|(key, used)| (key.clone(), *used)).collect();
        held.into_iter().map(|(key, used)| (used, self.limit(&key).0)).collect()
    }

    /// The built-in limit of each key.
    pub(super) fn built_in(&self) -> u64 {
        self.per_key
    }

    /// Takes `amount` for `key`.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing is taken.
    pub(crate) fn take(self: &Arc<Self>, key: &K, amount: u64) -> Result<Permit<K>, Exceeded> {
        self.add(key, amount)?;
        Ok(Permit { quota: Arc::clone(self), key: key.clone(), amount })
    }

    fn add(&self, key: &K, amount: u64) -> Result<(), Exceeded> {
        let (limit, origin) = self.limit(key);
        let mut in_use = self.lock();
        let used = in_use.by_key.get(key).copied().unwrap_or(0);
        let Some(own) = used.checked_add(amount).filter(|own| *own <= limit) else {
            let quota = self.configured.as_ref().map(|Configured { kind, .. }| OverQuota {
                kind: *kind,
                used,
                asked: amount,
                limit,
                origin: origin.unwrap_or_else(|| BUILT_IN.into()),
                retry_after: None,
            });
            return Err(Exceeded { what: self.what, bound: Bound::Key, limit, quota });
        };
        let all = in_use.total.checked_add(amount).filter(|all| *all <= self.total);
        let of_all =
            Exceeded { what: self.what, bound: Bound::Total, limit: self.total, quota: None };
        in_use.total = all.ok_or(of_all)?;
        in_use.by_key.insert(key.clone(), own);
        Ok(())
    }

    /// The limit of this key, and where it is set unless it is built in.
    fn limit(&self, key: &K) -> (u64, Option<Arc<str>>) {
        let configured = self.configured.as_ref().and_then(|own| (own.limit_of)(key));
        match configured {
            Some((limit, origin)) if limit < self.per_key => (limit, Some(origin)),
            _ => (self.per_key, None),
        }
    }
}

impl<K: Eq + Hash + Clone> Permit<K> {
    /// Changes the amount of the permit.
    ///
    /// # Errors
    /// [`Exceeded`]; the permit is unchanged. Shrinking never fails.
    pub(crate) fn resize(&mut self, amount: u64) -> Result<(), Exceeded> {
        match amount.checked_sub(self.amount) {
            Some(more) => self.quota.add(&self.key, more)?,
            None => self.quota.give_back(&self.key, self.amount - amount),
        }
        self.amount = amount;
        Ok(())
    }
}

impl<K> Quota<K> {
    /// Survives a panic of another thread.
    fn lock(&self) -> MutexGuard<'_, InUse<K>> {
        lock(&self.in_use)
    }
}

impl<K: Eq + Hash> Quota<K> {
    fn give_back(&self, key: &K, amount: u64) {
        let mut in_use = self.lock();
        in_use.total = in_use.total.saturating_sub(amount);
        let Some(own) = in_use.by_key.get_mut(key) else { return };
        *own = own.saturating_sub(amount);
        // An unused key has no entry, so that the map does not grow with every key ever seen.
        if *own == 0 {
            in_use.by_key.remove(key);
        }
    }
}

impl<K> Default for InUse<K> {
    fn default() -> InUse<K> {
        InUse { by_key: HashMap::new(), total: 0 }
    }
}

impl<K> fmt::Debug for Quota<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quota { what, per_key, total, .. } = self;
        write!(f, "Quota({what}, {per_key} of {total})")
    }
}

impl Exceeded {
    /// The quota of the identity that is reached; `None` for the limit of all callers together, and for limits that
    /// are not configured.
    pub(crate) fn quota(&self) -> Option<&OverQuota> {
        self.quota.as_ref()
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        self.quota.give_back(&self.key, self.amount);
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.bound {
            Bound::Key => "you have",
            Bound::Total => "all callers together have",
        };
        write!(f, "{whose} reached the limit of {} {}", self.limit, self.what)?;
        match &self.quota {
            Some(OverQuota { kind, origin, .. }) if **origin != *BUILT_IN => {
                write!(f, " (quota {} of {origin})", kind.name())
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Exceeded {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_cannot_take_what_is_for_all() {
        let quota = Quota::new("calls", 2, 3);
        let held = [quota.take(&"a", 1).unwrap(), quota.take(&"a", 1).unwrap()];
        let refused = quota.take(&"a", 1).unwrap_err();
        assert_eq!(refused.bound, Bound::Key);
        assert_eq!(refused.to_string(), "you have reached the limit of 2 calls");
        let other = quota.take(&"b", 1).unwrap();
        assert_eq!(quota.take(&"c", 1).unwrap_err().bound, Bound::Total);
        drop((held, other));
        assert!(quota.take(&"a", 2).is_ok());
    }

    #[test]
    fn what_is_refused_takes_nothing_and_what_is_dropped_leaves_nothing() {
        let quota = Quota::new("bytes", 10, 10);
        assert!(quota.take(&1, 11).is_err());
        assert!(quota.take(&1, u64::MAX).is_err());
        drop(quota.take(&1, 10).unwrap());
        assert!(quota.lock().by_key.is_empty());
        assert_eq!(quota.lock().total, 0);
    }

    #[test]
    fn a_permit_grows_as_far_as_there_is_more_and_shrinks_always() {
        let quota = Quota::new("bytes", 10, 15);
        let mut held = quota.take(&"a", 0).unwrap();
        held.resize(10).unwrap();
        assert_eq!(held.resize(11).unwrap_err().bound, Bound::Key);
        let other = quota.take(&"b", 5).unwrap();
        held.resize(2).unwrap();
        assert!(quota.take(&"b", 5).is_ok());
        drop((held, other));
        assert!(quota.lock().by_key.is_empty());
        assert_eq!(quota.lock().total, 0);
    }
}
