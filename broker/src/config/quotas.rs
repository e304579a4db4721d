//! `[quotas]`: what each identity may take. The same keys for everybody, for admins, for single identities, and in a
//! role of the policy. It must not count anything: it only builds the tables of `quota`.

use std::collections::BTreeMap;

use job_api::units::{Cpus, parse_count, parse_cpus, parse_size};
use serde::{Deserialize, Deserializer};

use crate::config::limits::parse_value;
use crate::model::glob::{Pattern, Syntax};
use crate::model::identity::Identity;
use crate::quota::kind::{QuotaKind, UNLIMITED};
use crate::quota::limits::{self, QuotaTables};

/// `[quotas]`. For each key by itself: the identity's own table (its name first, then globs, the longest first), else
/// the most generous of its roles (`admin` is that of admins), else `default`, else no limit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Of each identity.
    pub default: QuotaTable,
    /// Of each admin, as a role.
    pub admin: QuotaTable,
    /// Of identities by name: `[quotas.identity.alice]`, or by glob: `[quotas.identity."ci-*"]`.
    pub identity: BTreeMap<String, QuotaTable>,
}

/// The quotas of one identity; every key is optional, and `"max"` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaTable {
    /// Maximum number of jobs that have not ended.
    #[serde(deserialize_with = "count_or_max")]
    pub running_jobs: Option<u64>,
    /// Maximum starts in a minute.
    #[serde(deserialize_with = "count_or_max")]
    pub starts_per_minute: Option<u64>,
    /// Maximum starts at once after a pause. Not set: as many as in a minute.
    pub start_burst: Option<u64>,
    /// Maximum sum of the CPU limits of running jobs. A job without one is rejected.
    #[serde(deserialize_with = "cpus_or_max")]
    pub cpus: Option<Cpus>,
    /// Maximum sum of the memory limits of running jobs. A job without one is rejected.
    #[serde(deserialize_with = "size_or_max")]
    pub memory: Option<u64>,
    /// Maximum sum of the pids limits of running jobs. A job without one is rejected.
    #[serde(deserialize_with = "count_or_max")]
    pub pids: Option<u64>,
    /// Maximum output of finished jobs, index files included; the owner's oldest are removed. The newest job is kept.
    #[serde(deserialize_with = "size_or_max")]
    pub kept_bytes: Option<u64>,
    /// Maximum number of finished jobs; the owner's oldest are removed. At least 1.
    #[serde(deserialize_with = "count_or_max")]
    pub kept_jobs: Option<u64>,
    /// Maximum open streams of output; the built-in limit is 1024.
    #[serde(deserialize_with = "count_or_max")]
    pub streams: Option<u64>,
    /// Maximum calls that wait for a job; the built-in limit is 2048.
    #[serde(deserialize_with = "count_or_max")]
    pub waits: Option<u64>,
    /// Maximum connections; the built-in limit is a quarter of all, 512 at most. At least 1.
    #[serde(deserialize_with = "count_or_max")]
    pub connections: Option<u64>,
    /// Maximum bytes of requests at a time; the built-in limit is 16 MiB. At least 2M, the largest request.
    #[serde(deserialize_with = "size_or_max")]
    pub request_bytes: Option<u64>,
}

/// The largest request. Less would make some requests impossible, whatever else is in use.
const LEAST_REQUEST_BYTES: u64 = 2 << 20;

impl Quotas {
    /// Converts all tables to those of the broker.
    ///
    /// # Errors
    /// The section and what is wrong with it.
    pub fn tables(&self) -> Result<QuotaTables, (&'static str, String)> {
        let default = self.default.table().map_err(|fault| ("quotas.default", fault))?;
        let admin = self.admin.table().map_err(|fault| ("quotas.admin", fault))?;
        let mut identities = Vec::new();
        for (name, table) in &self.identity {
            let fault = |fault| ("quotas.identity", format!("{name:?}: {fault}"));
            let pattern = Pattern::parse(name, Syntax::Text).map_err(fault)?;
            if let Some(exact) = pattern.exact() {
                Identity::new(exact).map_err(fault)?;
            }
            identities.push((pattern, table.table().map_err(fault)?));
        }
        Ok(QuotaTables { default, admin, identities, roles_have_some: false })
    }
}

impl QuotaTable {
    /// Converts it to the table of the broker.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn table(&self) -> Result<limits::QuotaTable, String> {
        let values = QuotaKind::ALL.into_iter().filter_map(|kind| Some((kind, self.value(kind)?)));
        let table = limits::QuotaTable { values: values.collect(), burst: self.start_burst };
        table.check().map_err(|(key, fault)| format!("{key} {fault}"))?;
        if let Some(bytes) = self.request_bytes.filter(|bytes| *bytes < LEAST_REQUEST_BYTES) {
            return Err(format!(
                "request_bytes is {bytes}; it must be at least {LEAST_REQUEST_BYTES}"
            ));
        }
        Ok(table)
    }

    fn value(&self, kind: QuotaKind) -> Option<u64> {
        match kind {
            QuotaKind::RunningJobs => self.running_jobs,
            QuotaKind::StartsPerMinute => self.starts_per_minute,
            QuotaKind::Cpus => self.cpus.map(millis),
            QuotaKind::Memory => self.memory,
            QuotaKind::Pids => self.pids,
            QuotaKind::KeptBytes => self.kept_bytes,
            QuotaKind::KeptJobs => self.kept_jobs,
            QuotaKind::Streams => self.streams,
            QuotaKind::Waits => self.waits,
            QuotaKind::Connections => self.connections,
            QuotaKind::RequestBytes => self.request_bytes,
        }
    }
}

fn millis(cpus: Cpus) -> u64 {
    match cpus == Cpus::MAX {
        true => UNLIMITED,
        false => cpus.quota_usec.saturating_mul(1000) / cpus.period_usec.max(1),
    }
}

fn or_max(text: &str, parse: fn(&str) -> Result<u64, String>) -> Result<u64, String> {
    if text.trim() == "max" { Ok(UNLIMITED) } else { parse(text) }
}

fn count_or_max<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_value(from, |text| or_max(text, parse_count))
}

fn size_or_max<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_value(from, |text| or_max(text, parse_size))
}

fn cpus_or_max<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cpus>, D::Error> {
    parse_value(from, parse_cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(text: &str) -> Result<QuotaTables, String> {
        let quotas: Quotas = toml::from_str(text).map_err(|e| e.to_string())?;
        quotas.tables().map_err(|(key, fault)| format!("{key}: {fault}"))
    }

    #[test]
    fn people_write_units_and_max() {
        let text = "[default]\ncpus = 1.5\nmemory = \"4G\"\nrunning_jobs = 7\npids = \"max\"\n\
                    [identity.\"ci-*\"]\ncpus = \"max\"\nstarts_per_minute = 60\nstart_burst = 5\n";
        let tables = tables(text).unwrap();
        let default = &tables.default.values;
        assert_eq!(default[&QuotaKind::Cpus], 1500);
        assert_eq!(default[&QuotaKind::Memory], 4 << 30);
        assert_eq!(default[&QuotaKind::Pids], UNLIMITED);
        assert_eq!(default.len(), 4);
        let is_ci = |(name, _): &&(Pattern, limits::QuotaTable)| name.text() == "ci-*";
        let ci = &tables.identities.iter().find(is_ci).unwrap().1;
        assert_eq!((ci.values[&QuotaKind::Cpus], ci.burst), (UNLIMITED, Some(5)));
    }

    #[test]
    fn what_is_misspelt_or_would_admit_nothing_is_refused_by_key() {
        for (text, says) in [
            ("default.runing_jobs = 1", "unknown field"),
            ("default.memory = \"x\"", "not a size"),
            ("default.starts_per_minute = 0", "quotas.default: starts_per_minute is 0"),
            ("admin.start_burst = 3", "quotas.admin: start_burst says nothing without"),
            ("identity.ann.kept_jobs = 0", "quotas.identity: \"ann\": kept_jobs is 0"),
            ("identity.\"a b\".pids = 1", "quotas.identity: \"a b\": identity"),
            ("default.request_bytes = \"1M\"", "request_bytes is 1048576"),
        ] {
            let fault = tables(text).unwrap_err();
            assert!(fault.contains(says), "{fault}");
        }
    }
}
