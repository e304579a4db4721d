//! `[retention]`: how many finished jobs are kept for how long, and when new jobs are rejected. It must not delete
//! anything: `jobs::history` does.

use std::time::Duration;

use job_api::units::parse_size;
use serde::{Deserialize, Deserializer};

use crate::config::limits::{duration, parse_value, size};

/// `[retention]`. Without keys, finished jobs are kept until a client deletes them.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Maximum age of a finished job.
    #[serde(deserialize_with = "duration")]
    pub age: Option<Duration>,
    /// Maximum number of finished jobs; the oldest are removed. At least 1.
    pub count: Option<u64>,
    /// Maximum number of finished jobs of one owner; the oldest are removed. At least 1.
    pub count_per_owner: Option<u64>,
    /// Maximum output of all finished jobs, index files included; the oldest are removed. The newest job is kept.
    #[serde(deserialize_with = "size")]
    pub bytes: Option<u64>,
    /// New jobs are rejected while all jobs together, running ones included, keep more output than this.
    #[serde(deserialize_with = "size")]
    pub max_output: Option<u64>,
    /// New jobs are rejected while less of the file system of `state_dir` is free: `"5%"` of bytes and of inodes, or
    /// `"20G"`. `0` disables the check.
    ///
    /// Default: `"1%"`
    #[serde(deserialize_with = "min_free_value")]
    pub min_free: MinFree,
}

/// The space that must be free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinFree {
    /// A share of bytes and of inodes: 0 to 1.
    Share(f64),
    /// A number of bytes, and inodes for a few jobs.
    Bytes(u64),
}

impl Default for MinFree {
    /// 1 %: by default a job is rejected before a full disk blocks running jobs.
    fn default() -> MinFree {
        MinFree::Share(0.01)
    }
}

impl Retention {
    /// Whether any rule removes jobs.
    pub fn has_rules(&self) -> bool {
        self.age.is_some()
            || [self.count, self.count_per_owner, self.bytes].iter().any(Option::is_some)
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        // 0 would remove a job before its owner has seen its result.
        let counts =
            [("retention.count", self.count), ("retention.count_per_owner", self.count_per_owner)];
        match counts.into_iter().find(|(_, count)| *count == Some(0)) {
            Some((key, _)) => Err((key, "must be at least 1".into())),
            None => Ok(()),
        }
    }
}

fn min_free_value<'de, D: Deserializer<'de>>(from: D) -> Result<MinFree, D::Error> {
    parse_value(from, parse_min_free).map(Option::unwrap_or_default)
}

fn parse_min_free(text: &str) -> Result<MinFree, String> {
    let Some(percent) = text.trim().strip_suffix('%') else {
        return parse_size(text).map(MinFree::Bytes).map_err(|fault| format!("{fault} or \"5%\""));
    };
    match percent.trim().parse::<f64>() {
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(MinFree::Share(percent / 100.0)),
        _ => Err(format!("{text:?} is not from \"0%\" to below \"100%\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Retention, String> {
        let retention: Retention = toml::from_str(text).map_err(|e| e.to_string())?;
        retention.check().map_err(|(key, fault)| format!("{key} {fault}"))?;
        Ok(retention)
    }

    #[test]
    fn people_write_units_and_percentages() {
        let text = "age = \"30d\"\ncount = 5\nbytes = \"10G\"\nmax_output = 7\nmin_free = \"5%\"\n";
        let retention = read(text).unwrap();
        assert_eq!(retention.age, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!((retention.bytes, retention.max_output), (Some(10 << 30), Some(7)));
        assert_eq!(retention.min_free, MinFree::Share(0.05));
        assert_eq!(read("min_free = \"1G\"").unwrap().min_free, MinFree::Bytes(1 << 30));
        assert_eq!(read("").unwrap().min_free, MinFree::Share(0.01));
    }

    #[test]
    fn what_would_remove_or_refuse_everything_is_an_error() {
        for text in ["count = 0", "count_per_owner = 0", "min_free = \"100%\"", "min_free = \"x\""]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
