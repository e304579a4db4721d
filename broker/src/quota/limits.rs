//! Which limit of a quota holds for an identity, and where it was set. Pure: who has which role comes with the
//! question.
//!
//! The rule, for each quota by itself: the identity's own entry, the exact name before globs and the longest glob
//! first; else the most generous of its roles, `[quotas.admin]` being that of admins; else `[quotas.default]`; else
//! there is no limit. An entry that says nothing of a quota is as if it were not there.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::glob::Pattern;
use crate::model::identity::Identity;
use crate::quota::kind::{QuotaKind, UNLIMITED};

/// One table of quotas. What is not there is not said; [`UNLIMITED`] says that there is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaTable {
    /// In the units of the quotas.
    pub values: BTreeMap<QuotaKind, u64>,
    /// Starts at once after a pause. Not set: as many as a minute has.
    pub burst: Option<u64>,
}

/// All tables of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaTables {
    /// `[quotas.default]`.
    pub default: QuotaTable,
    /// `[quotas.admin]`.
    pub admin: QuotaTable,
    /// `[quotas.identity."..."]`: a name or a glob.
    pub identities: Vec<(Pattern, QuotaTable)>,
    /// Whether roles of the policy have tables, too.
    pub roles_have_some: bool,
}

/// What an identity is, for its quotas.
#[derive(Debug, Clone, Default)]
pub(crate) struct Membership {
    /// Whether `[quotas.admin]` is one of its roles.
    pub is_admin: bool,
    /// Its roles that have quotas: the name, and the table.
    pub roles: Vec<(String, Arc<QuotaTable>)>,
}

/// A limit that binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) value: u64,
    /// Of the rate of starts; as `value` for all others.
    pub(crate) burst: u64,
    /// Where it is set: `[quotas.default]`, `role ci`.
    pub(crate) origin: Arc<str>,
}

/// The limits of one identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    of_kinds: [Option<Limit>; QuotaKind::ALL.len()],
    is_admin: bool,
}

impl Limits {
    /// The limit of a quota, if it has one.
    pub(crate) fn get(&self, kind: QuotaKind) -> Option<&Limit> {
        self.of_kinds.get(kind.index())?.as_ref()
    }

    /// Whether the identity is an admin, for whom there are reserves.
    pub(crate) fn is_admins(&self) -> bool {
        self.is_admin
    }

    /// Whether running jobs are counted or summed up.
    pub(crate) fn bound_running_jobs(&self) -> bool {
        let kinds = [QuotaKind::RunningJobs, QuotaKind::Cpus, QuotaKind::Memory, QuotaKind::Pids];
        kinds.into_iter().any(|kind| self.get(kind).is_some())
    }
}

impl QuotaTables {
    /// The limits that hold for an identity.
    pub(super) fn limits(&self, identity: &Identity, membership: &Membership) -> Limits {
        let own = self.own(identity.as_str());
        let mut roles: Vec<(String, &QuotaTable)> = Vec::new();
        if membership.is_admin {
            roles.push(("[quotas.admin]".into(), &self.admin));
        }
        let named = |(name, table)| (format!("role {name}"), Arc::as_ref(table));
        roles.extend(membership.roles.iter().map(|(name, table)| named((name, table))));
        let of_kinds = QuotaKind::ALL.map(|kind| {
            let own = own.iter().find_map(|(origin, table)| table.limit(kind, origin));
            let of_roles = || {
                let all = roles.iter().filter_map(|(origin, table)| table.limit(kind, origin));
                // The first of equals, so that an order of roles that says nothing changes nothing.
                all.reduce(|best, next| if next.rank() > best.rank() { next } else { best })
            };
            let limit = own.or_else(of_roles);
            let limit = limit.or_else(|| self.default.limit(kind, "[quotas.default]"));
            limit.filter(|limit| limit.value != UNLIMITED)
        });
        Limits { of_kinds, is_admin: membership.is_admin }
    }

    /// Whether any table sets one of these quotas.
    pub(super) fn set(&self, kinds: &[QuotaKind]) -> bool {
        let sets = |table: &QuotaTable| kinds.iter().any(|kind| table.values.contains_key(kind));
        self.roles_have_some
            || sets(&self.default)
            || sets(&self.admin)
            || self.identities.iter().any(|(_, table)| sets(table))
    }

    /// The entries of an identity: its name first, then globs, the longest first.
    fn own(&self, name: &str) -> Vec<(String, &QuotaTable)> {
        let mut own: Vec<_> =
            self.identities.iter().filter(|(pattern, _)| pattern.matches(name)).collect();
        // Of two of one length the first in the order of their texts, so that nothing else decides.
        own.sort_by_key(|(pattern, _)| {
            (pattern.exact().is_none(), Reverse(pattern.text().len()), pattern.text())
        });
        own.into_iter()
            .map(|(pattern, table)| (format!("[quotas.identity.{:?}]", pattern.text()), table))
            .collect()
    }
}

impl QuotaTable {
    fn limit(&self, kind: QuotaKind, origin: &str) -> Option<Limit> {
        let value = *self.values.get(&kind)?;
        let is_rate = kind == QuotaKind::StartsPerMinute;
        let burst = self.burst.filter(|_| is_rate).unwrap_or(value);
        Some(Limit { value, burst, origin: origin.into() })
    }

    /// What is wrong with it: the key, and the fault.
    ///
    /// # Errors
    /// A limit of 0 where that can only be a mistake; a burst without a rate.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_zero = |kind| self.values.get(&kind) == Some(&0);
        for kind in [QuotaKind::StartsPerMinute, QuotaKind::KeptJobs, QuotaKind::Connections] {
            if is_zero(kind) {
                return Err((kind.name(), "is 0; it must be at least 1"));
            }
        }
        match (self.burst, self.values.get(&QuotaKind::StartsPerMinute)) {
            (Some(0), _) => Err(("start_burst", "is 0; it must be at least 1")),
            (Some(_), None) => Err(("start_burst", "says nothing without starts_per_minute")),
            _ => Ok(()),
        }
    }
}

impl Limit {
    /// A larger one is more generous.
    fn rank(&self) -> (u64, u64) {
        (self.value, self.burst)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::glob::Syntax;

    fn table(values: &[(QuotaKind, u64)]) -> QuotaTable {
        QuotaTable { values: values.iter().copied().collect(), burst: None }
    }

    /// Limits of everybody.
    pub(in crate::quota) fn limits(values: &[(QuotaKind, u64)]) -> Limits {
        let tables = QuotaTables { default: table(values), ..QuotaTables::default() };
        tables.limits(&Identity::new("ann").unwrap(), &Membership::default())
    }

    use QuotaKind::{Cpus, Memory, Pids, RunningJobs};

    #[test]
    fn an_own_entry_wins_then_the_most_generous_role_then_the_default() {
        let tables = QuotaTables {
            default: table(&[(RunningJobs, 1), (Cpus, 1), (Memory, 1), (Pids, 1)]),
            admin: table(&[(RunningJobs, 500)]),
            identities: [
                ("ci-main", table(&[(RunningJobs, 2)])),
                ("ci-*", table(&[(RunningJobs, 3), (Cpus, 4)])),
                ("*", table(&[(Cpus, 5), (Memory, UNLIMITED)])),
            ]
            .map(|(name, table)| (Pattern::parse(name, Syntax::Text).unwrap(), table))
            .into(),
            ..QuotaTables::default()
        };
        let role = |name: &str, value| (name.to_owned(), Arc::new(table(&[(RunningJobs, value)])));
        let of = |name: &str, is_admin, roles: Vec<_>| {
            let limits =
                tables.limits(&Identity::new(name).unwrap(), &Membership { is_admin, roles });
            [RunningJobs, Cpus, Memory, Pids]
                .map(|kind| limits.get(kind).map(|own| (own.value, own.origin.to_string())))
        };
        let set = |value, origin: &str| Some((value, origin.to_owned()));
        let roles = || vec![role("a", 7), role("b", 9), role("c", 8)];
        let [jobs, cpus, memory, pids] = of("ci-main", true, roles());
        assert_eq!(jobs, set(2, "[quotas.identity.\"ci-main\"]"), "however little it is");
        assert_eq!(cpus, set(4, "[quotas.identity.\"ci-*\"]"));
        assert_eq!(memory, None, "\"max\" takes the default away");
        assert_eq!(pids, set(1, "[quotas.default]"));
        assert_eq!(of("ann", false, roles())[0], set(9, "role b"));
        assert_eq!(of("ann", true, roles())[0], set(500, "[quotas.admin]"));
        assert_eq!(of("ann", false, vec![])[0], set(1, "[quotas.default]"));
        let mut turned = roles();
        turned.reverse();
        assert_eq!(of("ann", false, turned)[0], set(9, "role b"));
    }

    #[test]
    fn a_burst_belongs_to_the_rate_beside_it() {
        let with = |burst| QuotaTable { burst, ..table(&[(QuotaKind::StartsPerMinute, 6)]) };
        let burst = |burst| {
            let tables = QuotaTables { default: with(burst), ..QuotaTables::default() };
            let limits = tables.limits(&Identity::new("a").unwrap(), &Membership::default());
            limits.get(QuotaKind::StartsPerMinute).unwrap().burst
        };
        assert_eq!((burst(None), burst(Some(2))), (6, 2));
        assert!(QuotaTable { burst: Some(1), ..QuotaTable::default() }.check().is_err());
        assert!(table(&[(QuotaKind::StartsPerMinute, 0)]).check().is_err());
        assert!(table(&[(QuotaKind::RunningJobs, 0)]).check().is_ok(), "nobody may start");
    }
}
