//! Defaults and ceilings, of the configuration and of a role of the policy: of each limit the tighter ceiling binds, and a
//! refusal names it. Pure; enforces nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::limits::io::IoRule;
use crate::model::limits::kind::LimitKind;
use crate::model::limits::set::{Limits, rate};
use crate::model::limits::violations::Violation;

/// What the operator gives to jobs that do not say, and the most that a job may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitTables {
    /// `[limits.default]`.
    pub default: Limits,
    /// `[limits.max]`.
    pub max: Limits,
    /// What a role of the policy sets below that.
    pub role_max: RoleMax,
}

/// What a role of the policy says of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleLimits {
    /// Before `[limits.default]`.
    pub default: Limits,
    /// Beside `[limits.max]`.
    pub max: Limits,
}

/// The ceilings that a role sets below those of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleMax {
    /// By name; empty: none.
    role: Arc<str>,
    max: Limits,
}

impl LimitTables {
    /// These tables for what is done under a role. A default of the configuration above the role's ceiling gives way to
    /// the ceiling.
    pub fn for_role(&self, role: &Arc<str>, own: &RoleLimits) -> LimitTables {
        if *own == RoleLimits::default() {
            return self.clone();
        }
        let mut default = own.default.clone();
        default.adopt(&self.default);
        // Of each limit that both have, one: that of the configuration where they are equal.
        let max = below(&self.max, &own.max, true);
        let role_max = RoleMax { role: Arc::clone(role), max: below(&own.max, &self.max, false) };
        let default = below(&below(&default, &max, true), &role_max.max, true);
        LimitTables { default, max, role_max }
    }

    /// What is above a ceiling, with the ceiling named.
    pub fn above(&self, limits: &Limits) -> Vec<Violation> {
        let mut faults = limits.above(&self.max, &"[limits.max]");
        if !self.role_max.role.is_empty() {
            let name = format!("[role.limits.max] of role {}", self.role_max.role);
            faults.extend(limits.above(&self.role_max.max, &name));
        }
        faults
    }
}

impl Limits {
    /// What a job gets that asks for `self`: the operator's default where it says nothing, the
    /// ceiling where that says nothing either, and no swap where memory is limited.
    pub fn with_defaults(&self, tables: &LimitTables) -> Limits {
        let mut all = self.clone();
        all.adopt(&tables.default);
        // What a process may have by itself is below most ceilings, and a raise needs a privilege
        // that root may lack: a ceiling of rlimits judges requests and gives nothing.
        for max in [&tables.role_max.max, &tables.max] {
            all.adopt(&Limits { rlimits: BTreeMap::new(), ..max.clone() });
        }
        all.without_swap()
    }
}

/// What is tighter in `own` than in `other`, or not limited there at all; with `or_equal` what is equal, too.
fn below(own: &Limits, other: &Limits, or_equal: bool) -> Limits {
    let keeps = |own: u128, other: Option<u128>| {
        other.is_none_or(|other| own < other || (or_equal && own == other))
    };
    let cpu = own.cpu_max().is_some_and(|cpu| keeps(rate(cpu), other.cpu_max().map(rate)));
    let mut all = Limits::default();
    for (kind, value) in &own.values {
        let kept = match kind {
            LimitKind::CpuQuota | LimitKind::CpuPeriod => cpu,
            kind => keeps(u128::from(*value), other.get(*kind).map(u128::from)),
        };
        all.set(*kind, kept.then_some(*value));
    }
    let theirs = other.io.first().map(|rule| rule.rates).unwrap_or_default();
    for rule in &own.io {
        let mut rates = rule.rates;
        for (rate, theirs) in rates.iter_mut().zip(theirs) {
            *rate = rate.filter(|rate| keeps(u128::from(*rate), theirs.map(u128::from)));
        }
        if rates.iter().any(Option::is_some) {
            all.io.push(IoRule { rates, ..rule.clone() });
        }
    }
    for (rlimit, (soft, hard)) in &own.rlimits {
        let theirs = other.rlimits.get(rlimit).map(|(_, hard)| u128::from(*hard));
        if keeps(u128::from(*hard), theirs) {
            all.rlimits.insert(*rlimit, (*soft, *hard));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::Rlimit;

    fn limits(kinds: &[(LimitKind, u64)]) -> Limits {
        Limits { values: kinds.iter().copied().collect(), ..Limits::default() }
    }

    fn tables(default: &[(LimitKind, u64)], max: &[(LimitKind, u64)]) -> LimitTables {
        LimitTables { default: limits(default), max: limits(max), ..LimitTables::default() }
    }

    fn role(default: &[(LimitKind, u64)], max: &[(LimitKind, u64)]) -> RoleLimits {
        RoleLimits { default: limits(default), max: limits(max) }
    }

    #[test]
    fn the_tightest_ceiling_binds_and_is_named() {
        let both = tables(&[], &[(LimitKind::PidsMax, 100), (LimitKind::MemoryMax, 1 << 20)])
            .for_role(
                &"ci".into(),
                &role(&[], &[(LimitKind::PidsMax, 10), (LimitKind::MemoryMax, 1 << 30)]),
            );
        let fault = |asked: &[(LimitKind, u64)]| {
            let faults = both.above(&limits(asked));
            assert_eq!(faults.len(), 1, "{faults:?}");
            faults[0].fault.clone()
        };
        let pids = fault(&[(LimitKind::PidsMax, 1000)]);
        assert!(pids.contains("is 10 ([role.limits.max] of role ci)"), "{pids}");
        let memory = fault(&[(LimitKind::MemoryMax, 1 << 40), (LimitKind::PidsMax, 10)]);
        assert!(memory.contains("1048576 ([limits.max])"), "{memory}");
    }

    #[test]
    fn the_role_s_default_comes_first_and_no_default_is_above_a_ceiling() {
        let both = tables(
            &[(LimitKind::PidsMax, 512), (LimitKind::Time, 50)],
            &[(LimitKind::PidsMax, 1000)],
        )
        .for_role(&"ci".into(), &role(&[(LimitKind::Time, 60)], &[(LimitKind::PidsMax, 64)]));
        let given = Limits::default().with_defaults(&both);
        assert_eq!(
            (given.get(LimitKind::PidsMax), given.get(LimitKind::Time)),
            (Some(64), Some(60))
        );
        assert_eq!(both.above(&given), []);
    }

    #[test]
    fn cpus_are_compared_as_rates_and_go_with_their_period() {
        let cpus = |quota, period| [(LimitKind::CpuQuota, quota), (LimitKind::CpuPeriod, period)];
        let both = tables(&[], &cpus(400_000, 100_000))
            .for_role(&"ci".into(), &role(&[], &cpus(1_000_000, 500_000)));
        let given = Limits::default().with_defaults(&both);
        assert_eq!(given.cpu_max(), Some((1_000_000, 500_000)));
        assert_eq!(both.above(&limits(&cpus(200_000, 100_000))), []);
        assert_eq!(both.above(&limits(&cpus(300_000, 100_000))).len(), 1);
    }

    #[test]
    fn a_ceiling_of_rlimits_restricts_requests_and_gives_nothing() {
        let max = Limits { rlimits: [(Rlimit::Nofile, (9, 9))].into(), ..Limits::default() };
        let both =
            tables(&[], &[]).for_role(&"ci".into(), &RoleLimits { max, ..RoleLimits::default() });
        assert_eq!(Limits::default().with_defaults(&both).rlimits.len(), 0);
        let asked = Limits { rlimits: [(Rlimit::Nofile, (9, 10))].into(), ..Limits::default() };
        assert_eq!(both.above(&asked).len(), 1);
    }
}
