//! A job's limits after all changes, and their status. Pure: `cgroup` and the shim enforce them.

use std::fmt;

use job_launch::projects;
use job_launch::shim_limits::shim_limits;
use job_shim::wire;

use crate::model::limits::{ByDefault, LimitKind, LimitStatus, LimitTables, Limits, MAX, Rlimit};
use crate::model::spec::JobSpec;
use crate::store::records::{ChangeRecord, SpecRecord};
use job_launch::cgroup::limits::{Plan, Reading, ResolvedDisks, Unenforceable, Value};

/// The limits of a job, with their changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EffectiveLimits {
    /// As they are now.
    pub limits: Limits,
    /// The limits that come from defaults.
    pub by_default: ByDefault,
    /// Their disks.
    pub disks: ResolvedDisks,
    /// What became of them, the oldest first.
    pub changes: Vec<ChangeRecord>,
    /// The limits that the shim has acknowledged, if any.
    pub acknowledged: Option<wire::Limits>,
}

impl EffectiveLimits {
    /// As they stand in a record.
    pub fn of(record: &SpecRecord) -> EffectiveLimits {
        EffectiveLimits {
            limits: record.spec.limits.clone(),
            by_default: record.spec.by_default.clone(),
            disks: record.disks.clone(),
            changes: record.changes.clone(),
            acknowledged: None,
        }
    }

    /// The record with these limits.
    pub fn recorded(&self, mut record: SpecRecord) -> SpecRecord {
        record.spec.limits = self.limits.clone();
        record.spec.by_default = self.by_default.clone();
        record.disks = self.disks.clone();
        record.changes = self.changes.clone();
        record.is_changing = false;
        record
    }

    /// What the kernel is to keep.
    pub fn plan(&self) -> Plan {
        Plan::new(&self.limits, &self.disks)
    }

    /// What the shim is to see to.
    pub fn shim_limits(&self) -> wire::Limits {
        shim_limits(&self.limits)
    }

    /// Names and values of all that is asked, by name.
    pub fn requested(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self.plan().requested().collect();
        all.extend(self.limits.rlimits.iter().map(|(rlimit, (soft, hard))| {
            let word = |value: u64| if value == MAX { "max".into() } else { value.to_string() };
            (format!("rlimit {}", rlimit.name()), format!("{} {}", word(*soft), word(*hard)))
        }));
        all.extend(displayed(&self.shim_limits()));
        if let Some(bytes) = self.limits.get(LimitKind::JobDir) {
            let value = if bytes == MAX { bytes } else { projects::whole_blocks(bytes) };
            all.push(("job_dir".into(), Value::Number(value).to_string()));
        }
        all
    }

    /// A row for each limit. `readings` are the kernel's; without them only what was asked is told.
    pub fn statuses(&self, readings: Option<Vec<Reading>>) -> Vec<LimitStatus> {
        let told: Vec<_> = self.acknowledged.iter().flat_map(displayed).collect();
        let known = readings.is_some();
        let mut readings = readings.unwrap_or_default();
        let mut rows = Vec::new();
        for (name, requested) in self.requested() {
            let read = readings.iter().position(|r| r.name == name).map(|at| readings.remove(at));
            let mut row = match read {
                Some(reading) => LimitStatus::from(reading),
                None => LimitStatus { name: name.clone(), ..LimitStatus::default() },
            };
            // The kernel either takes an rlimit as it is or the start fails: setrlimit(2).
            let exact = name.starts_with("rlimit ").then(|| requested.clone());
            let told = told.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
            if let Some(applied) = exact.or(told).filter(|_| known) {
                row.effective = Some(applied.clone());
                row.applied = Some(applied);
            }
            row.is_default = self.is_default(&name);
            row.requested = requested;
            rows.push(row);
        }
        rows.extend(readings.into_iter().map(LimitStatus::from));
        rows
    }

    fn is_default(&self, name: &str) -> bool {
        let ByDefault { kinds, rlimits } = &self.by_default;
        match name.strip_prefix("rlimit ").map(Rlimit::parse) {
            Some(rlimit) => rlimit.is_ok_and(|rlimit| rlimits.contains(&rlimit)),
            None => LimitKind::named(name).is_some_and(|kind| kinds.contains(&kind)),
        }
    }
}

/// Adds the section of the configuration that set the limit, if the request did not set it.
pub(crate) fn name_the_section(
    mut error: Unenforceable,
    spec: &JobSpec,
    tables: &LimitTables,
) -> Unenforceable {
    let kinds = match LimitKind::named(error.limit) {
        Some(LimitKind::MemorySwapMax) => vec![LimitKind::MemorySwapMax, LimitKind::MemoryMax], // 0 goes with it
        kind => kind.into_iter().collect(),
    };
    let sets = |table: &Limits| {
        let given = |kind| spec.by_default.kinds.contains(kind) && table.get(*kind).is_some();
        let all_rules =
            || !table.io.is_empty() && spec.limits.io.iter().all(|r| table.io.contains(r));
        kinds.iter().any(given) || (error.limit == "io.max" && all_rules())
    };
    let sections = [(&tables.default, "[limits.default]"), (&tables.max, "[limits.max]")];
    if let Some((_, section)) = sections.into_iter().find(|(table, _)| sets(table)) {
        error.reason += &format!(
            "; the request does not set this limit, {section} in this broker's configuration does: its \
             operator has to change it"
        );
    }
    error
}

/// What of it is limited, by the names of the contract.
fn displayed(limits: &wire::Limits) -> Vec<(String, String)> {
    let seconds = |name: &str, value: Option<u64>, per_second: u64| {
        value.map(|value| (name.to_owned(), format!("{}s", Decimal(value, per_second))))
    };
    let output = limits.output.map(|bytes| ("output_limit".to_owned(), bytes.to_string()));
    [
        seconds("time_limit", limits.time_ms, 1_000),
        seconds("cpu_time_limit", limits.cpu_time_us, 1_000_000),
        output,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A value in parts of a unit, as a decimal without needless zeros.
struct Decimal(u64, u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal(value, per_unit) = *self;
        write!(f, "{}", value / per_unit)?;
        let digits = per_unit.ilog10() as usize;
        let rest = format!("{:0digits$}", value % per_unit);
        match rest.trim_end_matches('0') {
            "" => Ok(()),
            rest => write!(f, ".{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(kinds: &[(LimitKind, u64)]) -> Limits {
        Limits { values: kinds.iter().copied().collect(), ..Limits::default() }
    }

    #[test]
    fn times_are_shown_in_seconds() {
        let cases = [(600_000, "600s"), (1_500, "1.5s"), (1, "0.001s"), (0, "0s")];
        for (ms, text) in cases {
            let shown = displayed(&wire::Limits { time_ms: Some(ms), ..Default::default() });
            assert_eq!(shown, [("time_limit".to_owned(), text.to_owned())]);
        }
    }

    #[test]
    fn a_row_has_what_was_asked_what_is_there_and_what_binds() {
        let limits = EffectiveLimits {
            limits: limits(&[(LimitKind::MemoryMax, 8192)]),
            ..EffectiveLimits::default()
        };
        let reading = |name: &str, applied, effective| Reading {
            name: name.into(),
            applied: Value::Number(applied),
            effective: Value::Number(effective),
            bound_by: (applied != effective).then(|| "jobs".into()),
        };
        let readings = vec![reading("memory.max", 8192, 4096), reading("pids.max", MAX, MAX)];
        let rows = limits.statuses(Some(readings));
        assert_eq!((rows[0].requested.as_str(), rows[0].bound_by.as_str()), ("8192", "jobs"));
        assert_eq!(rows[0].effective.as_deref(), Some("4096"));
        assert_eq!((rows[1].requested.as_str(), rows[1].applied.as_deref()), ("", Some("max")));
    }
}
