//! Drives the registry and the quotas through random starts, changes, ends, removals and crashes, beside a model that
//! keeps the truth in the simplest way. Test code alone; nothing here is part of the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::jobs::job::Job;
use crate::jobs::job::tests::record;
use crate::jobs::registry::Registry;
use crate::jobs::registry::tests::registry;
use crate::launch::effective_limits::EffectiveLimits;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::limits::{LimitKind, Limits};
use crate::model::state::{Snapshot, State};
use crate::quota::Quotas;
use crate::quota::jobs::{Demand, JobsInUse};
use crate::quota::kind::{QuotaKind, UNLIMITED};
use crate::quota::limits::{Membership, QuotaTable, QuotaTables};
use crate::store::index::Summary;
use crate::store::index::tests::summary;

const OWNERS: [&str; 3] = ["ann", "bob", "cy"];
const QUOTAS: [(QuotaKind, u64); 4] = [
    (QuotaKind::RunningJobs, 5),
    (QuotaKind::Cpus, 3000),
    (QuotaKind::Memory, 64 << 20),
    (QuotaKind::Pids, 100),
];

fn owner(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

fn quotas(values: &[(QuotaKind, u64)]) -> Quotas {
    let default = QuotaTable { values: values.iter().copied().collect(), burst: None };
    let quotas = Quotas::default();
    let tables = QuotaTables { default, ..QuotaTables::default() };
    quotas.set(tables, Arc::new(|_| Membership::default()));
    quotas
}

/// CPU quota in microseconds, memory in MiB, processes; 0 is no limit.
fn limits(cpu: u64, memory: u64, pids: u64) -> Limits {
    let mut limits = Limits::default();
    let some = |value: u64| (value > 0).then_some(value);
    limits.set(LimitKind::CpuQuota, some(cpu));
    limits.set(LimitKind::MemoryMax, some(memory << 20));
    limits.set(LimitKind::PidsMax, some(pids));
    limits
}

fn job(owner: &Identity, limits: &Limits) -> Arc<Job> {
    let mut record = record();
    (record.id, record.owner) = (JobId::fresh(), owner.clone());
    record.spec.limits = limits.clone();
    Job::new(record, Snapshot::starting(), None)
}

fn end(job: &Job) {
    job.restore(Snapshot { state: State::Finished, ..job.snapshot() });
}

fn archived(job: &Job, kept: u64) -> Summary {
    Summary { id: job.id(), owner: job.owner().clone(), kept, ..summary("x", 1) }
}

/// A generator that gives the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// Limits of a request: now and then none of a kind.
    fn limits(&mut self) -> Limits {
        let mut one = |values: &[u64]| values[self.below(values.len())];
        let cpu = one(&[50_000, 100_000, 33_333, 100_000, 0]);
        let memory = one(&[1, 8, 16, 32, 16, 8, 0]);
        limits(cpu, memory, one(&[1, 10, 30, 10, 1, 0]))
    }
}

/// What is true of one job, whatever the registry says.
struct Truth {
    job: Arc<Job>,
    demand: Demand,
    /// A change that is under way.
    changing: Option<(Limits, Demand)>,
    is_over: bool,
}

struct Model {
    registry: Registry,
    quotas: Quotas,
    live: Vec<Truth>,
    kept: BTreeMap<JobId, Summary>,
}

impl Model {
    fn in_use(&self, owner: &Identity, except: Option<JobId>) -> JobsInUse {
        let mut sum = JobsInUse::default();
        for Truth { job, demand, changing, .. } in self.live.iter().filter(|job| !job.is_over) {
            if job.owner() == owner && Some(job.id()) != except {
                sum.add(changing.as_ref().map_or(*demand, |(_, new)| new.max(*demand)));
            }
        }
        sum
    }

    /// Whether the sums stay within the quotas, said once more without the code of `quota`.
    fn fits(&self, owner: &Identity, except: Option<JobId>, more: Demand) -> bool {
        let mut sum = self.in_use(owner, except);
        sum.add(more);
        let Demand { cpus, memory, pids } = more;
        sum.jobs <= 5
            && [(sum.cpus, cpus, 3000), (sum.memory, memory, 64 << 20), (sum.pids, pids, 100)]
                .into_iter()
                .all(|(sum, own, most)| own != UNLIMITED && sum <= most)
    }

    fn start(&mut self, random: &mut Random) {
        let owner = owner(OWNERS[random.below(3)]);
        let limits = random.limits();
        let demand = Demand::of(&limits);
        let in_use = || self.registry.in_use(&owner, None);
        let admitted = self.quotas.start(&owner, in_use, &demand).is_ok();
        assert_eq!(admitted, self.fits(&owner, None, demand));
        if admitted {
            let job = job(&owner, &limits);
            self.registry.add(Arc::clone(&job));
            self.live.push(Truth { job, demand, changing: None, is_over: false });
        }
    }

    fn change(&mut self, at: usize, random: &mut Random) {
        let asked = random.limits();
        let Truth { job, demand, changing, is_over } = &self.live[at];
        if changing.is_some() || *is_over {
            return;
        }
        let old = *demand;
        let new = job.effective_limits().limits.changed_by(&asked);
        let (id, owner, new_demand) = (job.id(), job.owner().clone(), Demand::of(&new));
        let own = self.quotas.limits(&owner);
        let admitted = self.registry.admit_change(job, &own, new_demand).is_ok();
        let raised = |new: u64, old: u64| if new > old { new } else { 0 };
        // What is not raised need not fit.
        let others = self.in_use(&owner, Some(id));
        let expected = [
            (others.cpus, raised(new_demand.cpus, old.cpus), 3000),
            (others.memory, raised(new_demand.memory, old.memory), 64 << 20),
            (others.pids, raised(new_demand.pids, old.pids), 100),
        ];
        let fits = |(others, new, most): (u64, u64, u64)| {
            new == 0 || (new != UNLIMITED && others.saturating_add(new) <= most)
        };
        assert_eq!(admitted, expected.into_iter().all(fits));
        if admitted {
            self.live[at].changing = Some((new, new_demand));
        }
    }

    /// The kernel has taken the limits of a change, or has not.
    fn finish_change(&mut self, at: usize, is_made: bool) {
        let truth = &mut self.live[at];
        let Some((limits, demand)) = truth.changing.take() else { return };
        if is_made {
            truth.job.modify_effective_limits(|own| own.limits = limits);
            truth.demand = demand;
        }
        truth.job.set_changing(None);
    }

    /// The job is over, and its record is not written yet.
    fn end(&mut self, at: usize) {
        self.finish_change(at, false);
        let truth = &mut self.live[at];
        end(&truth.job);
        truth.is_over = true;
    }

    fn archive(&mut self, at: usize, random: &mut Random) {
        if !self.live[at].is_over {
            return;
        }
        let Truth { job, .. } = self.live.swap_remove(at);
        let summary = archived(&job, random.below(1000) as u64);
        self.registry.retire(&summary);
        self.kept.insert(job.id(), summary);
    }

    /// A start that failed for a shortage, or the removal of a finished job.
    fn forget(&mut self, random: &mut Random) {
        let finished = self.kept.keys().copied().nth(random.below(self.kept.len().max(1)));
        if let Some(id) = finished.filter(|_| random.below(2) == 0) {
            self.kept.remove(&id);
            assert!(self.registry.forget(id));
        } else if !self.live.is_empty() {
            let at = random.below(self.live.len());
            let Truth { job, .. } = self.live.swap_remove(at);
            assert!(self.registry.forget(job.id()));
            assert!(!self.registry.forget(job.id()));
        }
    }

    /// Kill -9 of the broker: what was being changed is as recorded, what was over is found over, and the next broker
    /// has the finished jobs from the index and the live ones from their directories, in two parts.
    fn crash(&mut self) {
        self.quotas = quotas(&QUOTAS);
        let mut found = registry(&self.kept.values().cloned().collect::<Vec<_>>());
        let mut first = Registry::default();
        for (at, truth) in self.live.iter_mut().enumerate() {
            if let Some((limits, demand)) = truth.changing.take() {
                truth.job.modify_effective_limits(|own| own.limits = limits);
                truth.demand = demand;
            }
            let effective: EffectiveLimits = truth.job.effective_limits();
            let record = effective.recorded(truth.job.record().clone());
            truth.job = Job::new(record, truth.job.snapshot(), None);
            let registry = if at % 2 == 0 { &mut found } else { &mut first };
            registry.add(Arc::clone(&truth.job));
        }
        found.absorb(first);
        self.registry = found;
    }

    fn check(&self) {
        for owner in OWNERS.map(owner) {
            assert_eq!(self.registry.in_use(&owner, None), self.in_use(&owner, None));
            let own = self.kept.values().filter(|job| job.owner == owner);
            let kept = (own.clone().count() as u64, own.map(|job| job.kept).sum());
            assert_eq!(self.registry.finished().kept_of(&owner), kept);
        }
    }
}

#[test]
fn use_is_the_truth_whatever_starts_changes_ends_and_crashes() {
    for seed in 1..40 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut model = Model {
            registry: Registry::default(),
            quotas: quotas(&QUOTAS),
            live: Vec::new(),
            kept: BTreeMap::new(),
        };
        for _ in 0..400 {
            let at = random.below(model.live.len().max(1));
            match random.below(if model.live.is_empty() { 1 } else { 20 }) {
                0..8 => model.start(&mut random),
                8..11 => model.change(at, &mut random),
                11..14 => model.finish_change(at, random.0.is_multiple_of(3)),
                14..16 => model.end(at),
                16..18 => model.archive(at, &mut random),
                18 => model.forget(&mut random),
                _ => model.crash(),
            }
            model.check();
        }
        while !model.live.is_empty() {
            model.end(0);
            model.archive(0, &mut random);
        }
        model.check();
        assert!(model.registry.live_by_owner.is_empty(), "nothing leaks");
        for id in std::mem::take(&mut model.kept).into_keys() {
            model.registry.forget(id);
        }
        assert!(model.registry.finished().owners().next().is_none(), "nothing leaks");
    }
}

/// A broker of an hour ago started jobs, too: their ids say when.
#[test]
fn a_new_broker_knows_what_was_started_lately() {
    let (ann, none) = (owner("ann"), Limits::default());
    let mut registry = Registry::default();
    let first = job(&ann, &none);
    registry.add(Arc::clone(&first));
    let over = job(&ann, &none);
    registry.retire(&archived(&over, 0));
    let made = |job: &Job| (ann.clone(), job.id().made_ns());
    assert_eq!(registry.started_since(first.id().made_ns()), [made(&first), made(&over)]);
    assert_eq!(registry.started_since(u64::MAX), []);
    let quotas = quotas(&[(QuotaKind::StartsPerMinute, 3)]);
    let demand = Demand::of(&none);
    quotas.replay_starts([(&ann, Duration::ZERO), (&ann, Duration::ZERO)]);
    assert!(quotas.start(&ann, JobsInUse::default, &demand).is_ok());
    let refused = quotas.start(&ann, JobsInUse::default, &demand).unwrap_err();
    assert_eq!((refused.kind, refused.used, refused.limit), (QuotaKind::StartsPerMinute, 3, 3));
    assert!(refused.retry_after.is_some_and(|after| after <= Duration::from_secs(20)));
}

/// Prints what the quotas add to a start, with this many jobs of one owner.
#[test]
fn what_a_start_pays_is_far_below_a_launch() {
    for jobs in [1, 50, 1000] {
        let (ann, limits) = (owner("ann"), limits(100_000, 1, 1));
        let (mut registry, demand) = (Registry::default(), Demand::of(&limits));
        (0..jobs).for_each(|_| registry.add(job(&ann, &limits)));
        let quotas = quotas(&QUOTAS.map(|(kind, _)| (kind, UNLIMITED - 1))[..]);
        let pay = || {
            let begin = Instant::now();
            quotas.start(&ann, || registry.in_use(&ann, None), &demand).unwrap();
            begin.elapsed()
        };
        let mut took: Vec<_> = (0..201).map(|_| pay()).collect();
        took.sort();
        println!("{jobs} running jobs: {:?} (median of 201)", took[100]);
        assert!(took[0] < Duration::from_millis(2), "{:?}", took[0]);
    }
}
