//! [`Quotas`]: what everybody asks before it takes something for an identity. It has the limits as of the last reload,
//! the buckets of starts, and every [`Quota`] that operators can configure; sums over jobs and over finished jobs come
//! with the question.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::model::identity::Identity;
use crate::quota::counter::{BUILT_IN, Quota};
use crate::quota::jobs::{Demand, JobsInUse};
use crate::quota::kind::QuotaKind;
use crate::quota::limits::{Limit, Limits, Membership, QuotaTables};
use crate::quota::refusal::OverQuota;
use crate::quota::starts::{Rate, StartRates};
use crate::sync::lock;
use job_launch::host;

/// The quotas of all identities.
#[derive(Debug, Default)]
pub struct Quotas {
    settings: Arc<Settings>,
    pub(super) starts: Mutex<StartRates>,
    pub(super) counters: Mutex<Vec<(QuotaKind, Arc<Quota<Identity>>)>>,
}

/// Gives an identity its roles, as of the policy that came with the tables.
pub(crate) type MembershipOf = Arc<dyn Fn(&Identity) -> Membership + Send + Sync>;

/// Limits as of the last reload.
#[derive(Debug, Default)]
struct Settings {
    current: watch::Sender<Arc<Current>>,
}

/// The limits of one configuration, and whose have been looked up.
#[derive(Default)]
struct Current {
    tables: QuotaTables,
    membership: Option<MembershipOf>,
    known: Mutex<HashMap<Identity, Arc<Limits>>>,
}

/// One quota of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: QuotaKind,
    pub(crate) used: u64,
    pub(crate) limit: Option<Limit>,
}

/// Identities whose limits are kept at hand; beyond these all are looked up anew.
const KNOWN: usize = 4096;
/// Starts of an earlier broker that count: a bucket that takes longer to fill has forgotten them.
pub(crate) const REPLAYED: Duration = Duration::from_secs(3600);

impl Quotas {
    /// From now on these limits hold. What is in use stays, even above them.
    pub(crate) fn set(&self, tables: QuotaTables, membership: MembershipOf) {
        let membership = Some(membership);
        let current = Current { tables, membership, known: Mutex::default() };
        self.settings.current.send_replace(Arc::new(current));
    }

    /// The limits of an identity.
    pub(crate) fn limits(&self, identity: &Identity) -> Arc<Limits> {
        self.settings.limits(identity)
    }

    /// Changes with each reload.
    pub(crate) fn reloads(&self) -> Reloads {
        Reloads(self.settings.current.subscribe())
    }

    /// Whether anybody may have a limit on finished jobs.
    pub(crate) fn bound_finished_jobs(&self) -> bool {
        let current = self.settings.current.borrow();
        current.tables.set(&[QuotaKind::KeptJobs, QuotaKind::KeptBytes])
    }

    /// Admits a start beside the jobs in use, and takes it from the owner's bucket. The caller holds the lock of the
    /// jobs until the new one is among them.
    ///
    /// # Errors
    /// [`OverQuota`]; nothing is taken.
    pub(crate) fn start(
        &self,
        owner: &Identity,
        in_use: impl FnOnce() -> JobsInUse,
        asked: &Demand,
    ) -> Result<(), OverQuota> {
        let limits = self.limits(owner);
        if limits.bound_running_jobs() {
            in_use().check_start(&limits, asked)?;
        }
        let Some(limit) = limits.get(QuotaKind::StartsPerMinute) else { return Ok(()) };
        let mut starts = lock(&self.starts);
        let (now, rate) = (host::since_boot(), Rate::of(limit));
        starts.take(owner, rate, now).map_err(|wait| OverQuota {
            kind: QuotaKind::StartsPerMinute,
            used: starts.used(owner, rate, now),
            asked: 1,
            limit: limit.burst,
            origin: limit.origin.clone(),
            retry_after: Some(wait),
        })
    }

    /// Counts starts of an earlier broker, the oldest first: whose, and how long ago.
    pub(crate) fn replay_starts<'a>(
        &self,
        starts: impl IntoIterator<Item = (&'a Identity, Duration)>,
    ) {
        let now = host::since_boot();
        for (owner, ago) in starts {
            if let Some(limit) = self.limits(owner).get(QuotaKind::StartsPerMinute) {
                lock(&self.starts).replay(owner, Rate::of(limit), now, ago);
            }
        }
    }

    /// A quota on concurrent use: the lower of the configured limit and `per_key` binds, and `total` for all.
    pub(crate) fn counter(
        &self,
        kind: QuotaKind,
        per_key: u64,
        total: u64,
    ) -> Arc<Quota<Identity>> {
        let settings = Arc::clone(&self.settings);
        let limit_of = move |identity: &Identity| {
            let limits = settings.limits(identity);
            limits.get(kind).map(|limit| (limit.value, limit.origin.clone()))
        };
        let quota = Quota::configured(kind, (per_key, total), Box::new(limit_of));
        lock(&self.counters).push((kind, Arc::clone(&quota)));
        quota
    }

    /// What all identities together have in use of the quotas that are held, and of those that are sums over these
    /// `running` jobs.
    pub(crate) fn in_use(&self, running: &JobsInUse) -> Vec<(QuotaKind, u64)> {
        let counters = lock(&self.counters).clone();
        let held = |kind| counters.iter().filter(move |(of, _)| *of == kind);
        let used = |kind: QuotaKind| {
            let sum = running.of_kind(kind);
            let is_held = held(kind).next().is_some();
            sum.or(is_held.then(|| held(kind).map(|(_, quota)| quota.used_by_all()).sum()))
        };
        QuotaKind::ALL.into_iter().filter_map(|kind| Some((kind, used(kind)?))).collect()
    }

    /// All quotas of an identity: of running and finished jobs by these sums, of all others by what is held.
    pub(crate) fn rows(
        &self,
        identity: &Identity,
        running: JobsInUse,
        (kept_jobs, kept_bytes): (u64, u64),
    ) -> Vec<Row> {
        let (limits, counters) = (self.limits(identity), lock(&self.counters).clone());
        let row = |kind| {
            let mut limit = limits.get(kind).cloned();
            let used = match kind {
                QuotaKind::KeptJobs => kept_jobs,
                QuotaKind::KeptBytes => kept_bytes,
                QuotaKind::StartsPerMinute => limit.as_ref().map_or(0, |limit| {
                    lock(&self.starts).used(identity, Rate::of(limit), host::since_boot())
                }),
                kind => running.of_kind(kind).unwrap_or_else(|| {
                    let own = counters.iter().filter(|(of, _)| *of == kind);
                    let built_in = own.clone().map(|(_, quota)| quota.built_in()).max();
                    limit = lower(limit.take(), built_in);
                    own.map(|(_, quota)| quota.used(identity)).sum()
                }),
            };
            Row { kind, used, limit }
        };
        QuotaKind::ALL.map(row).into()
    }
}

/// Tells of reloads.
#[derive(Debug)]
pub(crate) struct Reloads(watch::Receiver<Arc<Current>>);

impl Reloads {
    /// Returns when there was a reload that it has not told of.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await // the broker ends
        }
    }
}

impl Settings {
    fn limits(&self, identity: &Identity) -> Arc<Limits> {
        let current = Arc::clone(&self.current.borrow());
        if let Some(limits) = lock(&current.known).get(identity) {
            return Arc::clone(limits);
        }
        let membership = current.membership.as_ref().map(|of| of(identity)).unwrap_or_default();
        let limits = Arc::new(current.tables.limits(identity, &membership));
        let mut known = lock(&current.known);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(identity.clone(), Arc::clone(&limits));
        limits
    }
}

fn lower(configured: Option<Limit>, built_in: Option<u64>) -> Option<Limit> {
    let Some(value) = built_in else { return configured };
    let built_in = Limit { value, burst: value, origin: BUILT_IN.into() };
    Some(configured.filter(|own| own.value < value).unwrap_or(built_in))
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.fmt(f)
    }
}
