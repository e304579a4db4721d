//! `[limits.default]` and `[limits.max]`: the same keys, in human units. It must not apply a limit: it only builds the
//! tables of `model::limits`.

use std::collections::BTreeMap;
use std::time::Duration;

use job_api::units::{Cpus, parse_cpus, parse_duration, parse_rate, parse_size};
use serde::{Deserialize, Deserializer, de};

use crate::model::limits::{DiskName, IoRule, LimitKind, LimitTables, Limits as JobLimits, Rlimit};

/// `[limits]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The limits of a job whose request does not set them.
    pub default: Table,
    /// The maximum that a request may set; also the limit if neither the request nor `default` sets one.
    pub max: Table,
}

/// One of the tables; every key is optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Table {
    /// CPU quota of the workload, in CPUs: `0.5` or `"500m"`.
    #[serde(deserialize_with = "cpus")]
    pub cpus: Option<Cpus>,
    /// CPU weight relative to other jobs, 1 to 10000; the kernel's default is 100.
    pub cpu_weight: Option<u64>,
    /// Memory limit: beyond it the kernel kills the workload. The page cache of the job's log counts.
    #[serde(deserialize_with = "size")]
    pub memory: Option<u64>,
    /// Memory beyond which the kernel throttles the job and reclaims its memory.
    #[serde(deserialize_with = "size")]
    pub memory_high: Option<u64>,
    /// Swap limit. Not set: 0 if `memory` is limited.
    #[serde(deserialize_with = "size")]
    pub memory_swap: Option<u64>,
    /// Maximum number of processes and threads of the workload.
    pub pids: Option<u64>,
    /// I/O weight relative to other jobs, 1 to 10000; rejected for disks without a weight policy (BFQ or io.cost).
    pub io_weight: Option<u64>,
    /// Bytes per second read from the disk of the working directory.
    #[serde(deserialize_with = "bytes_per_second")]
    pub read_bps: Option<u64>,
    /// Bytes per second written to the disk of the working directory.
    #[serde(deserialize_with = "bytes_per_second")]
    pub write_bps: Option<u64>,
    /// Reads per second from the disk of the working directory.
    pub read_iops: Option<u64>,
    /// Writes per second to the disk of the working directory.
    pub write_iops: Option<u64>,
    /// Maximum run time of the program; then the job is stopped.
    #[serde(deserialize_with = "duration")]
    pub time: Option<Duration>,
    /// Maximum CPU time of all processes of the workload together.
    #[serde(deserialize_with = "duration")]
    pub cpu_time: Option<Duration>,
    /// Maximum output that is kept. If neither table sets it, `default` is 10 GiB.
    #[serde(deserialize_with = "size")]
    pub output: Option<u64>,
    /// Maximum size of the job's own directory, and with it the number of files in it: one for each 16 KiB, 1024 at
    /// least. Rejected where `jobs.work_dir` is on a file system without project quotas.
    #[serde(deserialize_with = "size")]
    pub job_dir: Option<u64>,
    /// Resource limits by name, as in getrlimit(2): one number, or `[soft, hard]`. In `max` they only restrict
    /// requests and are not applied to other jobs.
    pub ulimit: BTreeMap<String, Ulimit>,
}

/// `1024`, or `[1024, 4096]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    /// Soft and hard limit.
    One(u64),
    /// Soft limit, hard limit.
    Two(u64, u64),
}

/// The default output limit, in bytes, so that one job cannot fill the disk.
const DEFAULT_OUTPUT: u64 = 10 << 30;

impl Limits {
    /// Converts both tables to the supervisor's type.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub fn tables(&self) -> Result<LimitTables, (&'static str, String)> {
        let max = self.max.limits("limits.max")?;
        let mut default = self.default.limits("limits.default")?;
        if max.get(LimitKind::Output).is_none() {
            default.values.entry(LimitKind::Output).or_insert(DEFAULT_OUTPUT);
        }
        if let Some(fault) = default.above(&max, &"[limits.max]").first() {
            return Err(("limits.default", format!("{} {}", fault.field, fault.fault)));
        }
        Ok(LimitTables { default, max, ..LimitTables::default() })
    }
}

impl Table {
    /// The value of the key of this limit.
    fn value(&self, kind: LimitKind) -> Option<u64> {
        match kind {
            LimitKind::CpuQuota => self.cpus.map(|cpus| cpus.quota_usec),
            LimitKind::CpuPeriod => self.cpus.map(|cpus| cpus.period_usec),
            LimitKind::CpuWeight => self.cpu_weight,
            LimitKind::MemoryMax => self.memory,
            LimitKind::MemoryHigh => self.memory_high,
            LimitKind::MemorySwapMax => self.memory_swap,
            LimitKind::PidsMax => self.pids,
            LimitKind::IoWeight => self.io_weight,
            LimitKind::Time => self.time.map(|time| saturating(time.as_millis())),
            LimitKind::CpuTime => self.cpu_time.map(|time| saturating(time.as_micros())),
            LimitKind::Output => self.output,
            LimitKind::JobDir => self.job_dir,
        }
    }

    pub(crate) fn limits(&self, key: &'static str) -> Result<JobLimits, (&'static str, String)> {
        let mut all = JobLimits::default();
        for kind in LimitKind::ALL {
            all.set(*kind, self.value(*kind));
        }
        let rates = [self.read_bps, self.write_bps, self.read_iops, self.write_iops];
        if rates.iter().any(Option::is_some) {
            all.io.push(IoRule { disk: DiskName::WorkingDirectory, rates });
        }
        for (name, values) in &self.ulimit {
            let rlimit = Rlimit::parse(name).map_err(|fault| (key, format!("ulimit: {fault}")))?;
            let values = match values {
                Ulimit::One(both) => (*both, *both),
                Ulimit::Two(soft, hard) => (*soft, *hard),
            };
            all.rlimits.insert(rlimit, values);
        }
        match all.faults().into_iter().next() {
            Some(fault) => Err((key, format!("{} {}", fault.field, fault.fault))),
            None => Ok(all),
        }
    }
}

fn saturating(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A TOML number, or text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Integer(u64),
    Float(f64),
    Text(String),
}

pub(super) fn parse_value<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = match Raw::deserialize(from)? {
        Raw::Integer(number) => number.to_string(),
        Raw::Float(number) => number.to_string(),
        Raw::Text(text) => text,
    };
    parse(&text).map(Some).map_err(de::Error::custom)
}

fn cpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cpus>, D::Error> {
    parse_value(from, parse_cpus)
}

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_value(from, parse_size)
}

fn bytes_per_second<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parse_value(from, parse_rate)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parse_value(from, parse_duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(text: &str) -> Result<LimitTables, String> {
        let limits: Limits = toml::from_str(text).map_err(|e| e.to_string())?;
        limits.tables().map_err(|(key, fault)| format!("{key} {fault}"))
    }

    #[test]
    fn people_write_units_and_numbers() {
        let text = "[default]\ncpus = 0.5\nmemory = \"256M\"\npids = 100\nwrite_bps = \"5M\"\n\
                    time = \"1h\"\nulimit = { nofile = [16, 32], core = 0 }\n";
        let default = tables(text).unwrap().default;
        assert_eq!(default.cpu_max(), Some((50_000, 100_000)));
        assert_eq!(default.get(LimitKind::MemoryMax), Some(256 << 20));
        assert_eq!(default.get(LimitKind::Time), Some(3_600_000));
        assert_eq!(default.get(LimitKind::Output), Some(DEFAULT_OUTPUT));
        assert_eq!(default.io[0].rates, [None, Some(5 << 20), None, None]);
        assert_eq!(default.rlimits[&Rlimit::Nofile], (16, 32));
    }

    #[test]
    fn a_default_above_its_ceiling_is_refused() {
        let fault = tables("default.memory = \"2G\"\nmax.memory = \"1G\"\n").unwrap_err();
        assert!(fault.contains("limits.memory_max_bytes is 2147483648"), "{fault}");
    }

    #[test]
    fn what_is_misspelt_or_out_of_range_is_refused() {
        for text in
            ["max.memroy = 1", "max.pids = 0", "default.ulimit.files = 3", "max.cpus = \"x\""]
        {
            assert!(tables(text).is_err(), "{text}");
        }
    }
}
