//! The set of limits of a job: defaults, ceilings, changes, violations. Pure; enforces nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use job_grammar::units::MAX;
use serde::{Deserialize, Serialize};

use crate::model::limits::io::{IoRule, Rate};
use crate::model::limits::kind::LimitKind;
use crate::model::limits::rlimit::Rlimit;
use crate::model::limits::violations::Violation;

/// The default period of `cpu.max` in microseconds, as in the kernel.
pub const CPU_PERIOD: u64 = 100_000;
/// Most entries of `io_max`.
pub const MAX_IO_RULES: usize = 16;
/// The limits of a job, of a request or of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// What is not there has not been asked for.
    #[serde(rename = "knobs")]
    pub values: BTreeMap<LimitKind, u64>,
    /// `io.max`, a rule for each disk.
    pub io: Vec<IoRule>,
    /// Of each process, by name.
    pub rlimits: BTreeMap<Rlimit, (u64, u64)>,
}

/// The limits that come from defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByDefault {
    /// Of [`Limits::values`].
    #[serde(rename = "knobs")]
    pub kinds: BTreeSet<LimitKind>,
    /// Of [`Limits::rlimits`].
    pub rlimits: BTreeSet<Rlimit>,
}

impl Limits {
    /// What a limit is set to.
    pub fn get(&self, kind: LimitKind) -> Option<u64> {
        self.values.get(&kind).copied()
    }

    /// Sets a limit, if there is a value.
    pub fn set(&mut self, kind: LimitKind, value: Option<u64>) {
        if let Some(value) = value {
            self.values.insert(kind, value);
        }
    }

    /// Quota and period of `cpu.max`, if a quota is asked for.
    pub fn cpu_max(&self) -> Option<(u64, u64)> {
        let quota = self.get(LimitKind::CpuQuota)?;
        Some((quota, self.get(LimitKind::CpuPeriod).unwrap_or(CPU_PERIOD)))
    }

    /// A limit that is a time.
    pub fn time(&self, kind: LimitKind) -> Option<Duration> {
        self.get(kind).map(|value| kind.time(value))
    }

    /// Whether a limit applies to a disk, which must be resolved.
    pub fn need_a_disk(&self) -> bool {
        !self.io.is_empty() || self.get(LimitKind::IoWeight).is_some()
    }

    /// Every violated rule that does not depend on the configuration.
    pub fn faults(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        let mut rule = |field: &'static str, verdict: Result<(), String>| {
            faults.extend(verdict.err().map(|fault| Violation { field, fault }));
        };
        for (kind, value) in &self.values {
            rule(kind.field(), kind.check(*value));
        }
        if self.get(LimitKind::CpuPeriod).is_some() && self.get(LimitKind::CpuQuota).is_none() {
            let fault = "says nothing without cpu_max_quota_usec".into();
            rule(LimitKind::CpuPeriod.field(), Err(fault));
        }
        if self.io.len() > MAX_IO_RULES {
            let fault =
                format!("has {} entries; at most {MAX_IO_RULES} are allowed", self.io.len());
            rule("limits.io_max", Err(fault));
        }
        for io in &self.io {
            rule("limits.io_max", io.check());
        }
        for (rlimit, values) in &self.rlimits {
            rule("limits.rlimits", rlimit.check(*values));
        }
        faults
    }

    /// What a limit of memory is good for where the job can swap instead: hence no swap, unless
    /// somebody says otherwise.
    pub(super) fn without_swap(mut self) -> Limits {
        if self.get(LimitKind::MemoryMax).is_some_and(|value| value != MAX) {
            self.values.entry(LimitKind::MemorySwapMax).or_insert(0);
        }
        self
    }

    /// Takes what it does not have. Quota and period belong together.
    pub(super) fn adopt(&mut self, other: &Limits) {
        let own_cpu = self.get(LimitKind::CpuQuota).is_some();
        for (kind, value) in &other.values {
            if !(own_cpu && *kind == LimitKind::CpuPeriod) {
                self.values.entry(*kind).or_insert(*value);
            }
        }
        for theirs in &other.io {
            match self.io.iter_mut().find(|own| own.disk == theirs.disk) {
                Some(own) => own.complete(&theirs.rates),
                // In front: a rule of the job that comes to the same disk overrules it.
                None => self.io.insert(0, theirs.clone()),
            }
        }
        for (rlimit, values) in &other.rlimits {
            self.rlimits.entry(*rlimit).or_insert(*values);
        }
    }

    /// What is above these ceilings; `by` names where they stand.
    pub fn above(&self, max: &Limits, by: &dyn fmt::Display) -> Vec<Violation> {
        let mut faults = Vec::new();
        let mut over = |field: &'static str, asked: &dyn fmt::Display, most: &dyn fmt::Display| {
            let fault = format!("is {asked}; the most that this broker allows is {most} ({by})");
            faults.push(Violation { field, fault });
        };
        for (kind, most) in &max.values {
            let asked = self.get(*kind).unwrap_or(*most);
            match kind {
                LimitKind::CpuQuota | LimitKind::CpuPeriod => {}
                kind if kind.is_time() && asked > *most => {
                    let shown =
                        |limits: &Limits| format!("{:?}", limits.time(*kind).unwrap_or_default());
                    over(kind.field(), &shown(self), &shown(max));
                }
                _ if asked > *most => over(kind.field(), &Shown(asked), &Shown(*most)),
                _ => {}
            }
        }
        if let (Some(asked), Some(most)) = (self.cpu_max(), max.cpu_max())
            && rate(asked) > rate(most)
        {
            over(LimitKind::CpuQuota.field(), &Cpus(asked), &Cpus(most));
        }
        let ceiling = max.io.first().map(|rule| rule.rates).unwrap_or_default();
        for (asked, (most, word)) in
            self.io.iter().flat_map(|rule| rule.rates.iter().zip(ceiling.iter().zip(Rate::ALL)))
        {
            if let (Some(asked), Some(most)) = (asked, most)
                && asked > most
            {
                let asked = format!("{asked} ({})", word.word());
                over("limits.io_max", &asked, most);
            }
        }
        for (rlimit, (_, most)) in &max.rlimits {
            if let Some((_, hard)) = self.rlimits.get(rlimit).filter(|(_, hard)| hard > most) {
                let asked = format!("{} ({})", Shown(*hard), rlimit.name());
                over("limits.rlimits", &asked, &Shown(*most));
            }
        }
        faults
    }

    /// These limits with those of `change` in their place.
    pub fn changed_by(&self, change: &Limits) -> Limits {
        let mut all = self.clone();
        if change.get(LimitKind::CpuQuota).is_some() {
            all.values.remove(&LimitKind::CpuPeriod);
        }
        all.values.extend(&change.values);
        for rule in &change.io {
            let mut rule = rule.clone();
            if let Some(at) = all.io.iter().position(|old| old.disk == rule.disk) {
                rule.complete(&all.io.remove(at).rates);
            }
            all.io.push(rule);
        }
        all.without_swap()
    }

    /// What only a default has set, given what was asked.
    pub fn not_in(&self, asked: &Limits) -> ByDefault {
        let kinds = self.values.keys().filter(|kind| !asked.values.contains_key(kind));
        let rlimits = self.rlimits.keys().filter(|rlimit| !asked.rlimits.contains_key(rlimit));
        ByDefault { kinds: kinds.copied().collect(), rlimits: rlimits.copied().collect() }
    }
}

impl ByDefault {
    /// Without the limits that a request sets.
    pub fn less(mut self, asked: &Limits) -> ByDefault {
        self.kinds.retain(|kind| !asked.values.contains_key(kind));
        self
    }
}

/// CPUs in millionths, for comparing; no quota is more than any.
pub(super) fn rate((quota, period): (u64, u64)) -> u128 {
    if quota == MAX { u128::MAX } else { u128::from(quota) * 1_000_000 / u128::from(period.max(1)) }
}

/// A value, or the kernel's word.
struct Shown(u64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == MAX { f.write_str("max") } else { self.0.fmt(f) }
    }
}

/// `20000 100000 (0.2 CPUs)`.
struct Cpus((u64, u64));

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (quota, period) = self.0;
        write!(f, "{} in {period}", Shown(quota))?;
        if quota == MAX { Ok(()) } else { write!(f, " ({} CPUs)", quota as f64 / period as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::io::DiskName;
    use crate::model::limits::tables::LimitTables;

    fn limits(kinds: &[(LimitKind, u64)]) -> Limits {
        Limits { values: kinds.iter().copied().collect(), ..Limits::default() }
    }

    fn tables(default: Limits, max: Limits) -> LimitTables {
        LimitTables { default, max, ..LimitTables::default() }
    }

    fn rule(disk: DiskName, wbps: u64) -> IoRule {
        IoRule { disk, rates: [None, Some(wbps), None, None] }
    }

    #[test]
    fn a_job_that_does_not_say_gets_the_default_or_else_the_ceiling() {
        let tables = tables(
            limits(&[(LimitKind::PidsMax, 10)]),
            limits(&[(LimitKind::PidsMax, 100), (LimitKind::Time, 5)]),
        );
        let given = Limits::default().with_defaults(&tables);
        assert_eq!(
            (given.get(LimitKind::PidsMax), given.get(LimitKind::Time)),
            (Some(10), Some(5))
        );
        assert_eq!(given.get(LimitKind::MemoryMax), None);
    }

    #[test]
    fn a_ceiling_of_rlimits_gives_nothing_to_a_job_that_does_not_ask() {
        let max = Limits { rlimits: [(Rlimit::Nofile, (9, 9))].into(), ..Limits::default() };
        let given = Limits::default().with_defaults(&tables(Limits::default(), max.clone()));
        assert_eq!(given.rlimits, BTreeMap::new());
        let asked = Limits { rlimits: [(Rlimit::Nofile, (9, 10))].into(), ..Limits::default() };
        assert_eq!(asked.above(&max, &"[limits.max]")[0].field, "limits.rlimits");
    }

    #[test]
    fn a_time_above_its_ceiling_is_told_in_seconds() {
        let (max, asked) =
            (limits(&[(LimitKind::Time, 1_000)]), limits(&[(LimitKind::Time, 2_500)]));
        let fault = asked.above(&max, &"[limits.max]")[0].fault.clone();
        assert!(fault.contains("2.5s") && fault.contains("1s"), "{fault}");
    }

    #[test]
    fn no_swap_where_memory_is_limited_and_nobody_says_otherwise() {
        let none = LimitTables::default();
        let swap = |kinds: &[(LimitKind, u64)]| {
            limits(kinds).with_defaults(&none).get(LimitKind::MemorySwapMax)
        };
        assert_eq!(swap(&[(LimitKind::MemoryMax, 1 << 20)]), Some(0));
        assert_eq!(
            swap(&[(LimitKind::MemoryMax, 1 << 20), (LimitKind::MemorySwapMax, 7)]),
            Some(7)
        );
        assert_eq!(swap(&[(LimitKind::MemoryMax, MAX)]), None);
    }

    #[test]
    fn an_own_quota_does_not_get_the_period_of_the_default() {
        let default = limits(&[(LimitKind::CpuQuota, 1_000), (LimitKind::CpuPeriod, 500_000)]);
        let own = limits(&[(LimitKind::CpuQuota, 50_000)]);
        let given = own.with_defaults(&tables(default, Limits::default()));
        assert_eq!(given.cpu_max(), Some((50_000, CPU_PERIOD)));
    }

    #[test]
    fn what_is_above_a_ceiling_is_refused_with_the_ceiling_named() {
        let max = limits(&[(LimitKind::MemoryMax, 1 << 30), (LimitKind::CpuQuota, 100_000)]);
        assert_eq!(limits(&[(LimitKind::MemoryMax, 1 << 30)]).above(&max, &"[limits.max]"), []);
        for (kind, asked, ceiling) in [
            (LimitKind::MemoryMax, MAX, "1073741824"),
            (LimitKind::MemoryMax, (1 << 30) + 1, "1073741824"),
            (LimitKind::CpuQuota, 150_000, "1 CPUs"),
        ] {
            let faults = limits(&[(kind, asked)]).above(&max, &"[limits.max]");
            assert_eq!(faults[0].field, kind.field());
            assert!(faults[0].fault.contains(ceiling), "{}", faults[0].fault);
        }
    }

    #[test]
    fn cpus_are_compared_as_rates() {
        let max = limits(&[(LimitKind::CpuQuota, 50_000)]);
        let asked =
            |quota| limits(&[(LimitKind::CpuQuota, quota), (LimitKind::CpuPeriod, 1_000_000)]);
        assert_eq!(asked(500_000).above(&max, &"[limits.max]"), []);
        assert_eq!(asked(500_001).above(&max, &"[limits.max]").len(), 1);
    }

    #[test]
    fn naming_another_disk_does_not_lose_the_default_rates_of_the_working_directory() {
        let default = Limits { io: vec![rule(DiskName::WorkingDirectory, 5)], ..Limits::default() };
        let tables = tables(default.clone(), default);
        let own = rule(DiskName::Path("/srv".into()), 3);
        let given = Limits { io: vec![own.clone()], ..Limits::default() }.with_defaults(&tables);
        assert_eq!(given.io, [rule(DiskName::WorkingDirectory, 5), own]);
        let more = Limits { io: vec![rule(DiskName::Path("/srv".into()), 6)], ..Limits::default() };
        assert_eq!(more.above(&tables.max, &"[limits.max]")[0].field, "limits.io_max");
    }

    #[test]
    fn a_change_replaces_what_it_names_and_leaves_the_rest() {
        let old = limits(&[
            (LimitKind::CpuQuota, 1_000),
            (LimitKind::CpuPeriod, 500_000),
            (LimitKind::PidsMax, 9),
        ]);
        let one = |rates| IoRule { rates, ..IoRule::default() };
        let old = Limits { io: vec![one([None, Some(5), None, None])], ..old };
        let change = Limits {
            io: vec![one([None, None, Some(7), None])],
            ..limits(&[(LimitKind::CpuQuota, 50_000)])
        };
        let new = old.changed_by(&change);
        assert_eq!(new.io, [one([None, Some(5), Some(7), None])]);
        assert_eq!(new.cpu_max(), Some((50_000, CPU_PERIOD)));
        assert_eq!(new.get(LimitKind::PidsMax), Some(9));
    }

    #[test]
    fn a_soft_limit_above_the_hard_one_is_refused() {
        let with =
            |values| Limits { rlimits: [(Rlimit::Nofile, values)].into(), ..Limits::default() };
        assert_eq!(with((16, 32)).faults(), []);
        assert_eq!(with((32, 16)).faults().len(), 1);
        assert_eq!(with((1, 1 << 21)).faults().len(), 1);
    }
}
