//! `[audit]`: where the audit is written, what of a job is in it, and how much of it is kept. It must not open anything:
//! `audit` does.

use std::path::PathBuf;
use std::time::Duration;

use job_api::units::{parse_duration, parse_size};
use serde::{Deserialize, Deserializer};

use crate::config::limits::parse_value;

/// `[audit]`: who did what, a JSON object a line, each with the hash of the line before. A change needs a restart of
/// the broker.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Directory of the audit; owner root, mode 0700. Not set: `audit` in `jobs.state_dir`.
    pub dir: Option<PathBuf>,
    /// Size at which a new file begins; at least 64 KiB.
    ///
    /// Default: `"64M"`
    #[serde(deserialize_with = "file_size")]
    pub file_size: u64,
    /// Number of files that are kept; at least 2. The oldest is removed, and a line says which lines went with it.
    ///
    /// Default: `16`
    pub files: u32,
    /// Time between two signed checkpoints; from 1 second to 30 days.
    ///
    /// Default: `"1h"`
    #[serde(deserialize_with = "checkpoint")]
    pub checkpoint: Duration,
    /// What is written of a job's arguments: `"full"` (the first 8 KiB), `"program"` (none of them), or `"hash"` (the
    /// SHA-256 of all).
    ///
    /// Default: `"full"`
    pub arguments: Arguments,
    /// What happens to changes while the audit cannot be written: `"refuse"` (UNAVAILABLE; a stop and a
    /// deletion are done all the same, and their lines kept in memory and in the journal), or `"continue"` (all are done, their lines kept in memory and in
    /// the journal).
    ///
    /// Default: `"refuse"`
    pub on_failure: OnFailure,
}

/// What is written of a job's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arguments {
    /// All, up to a bound.
    Full,
    /// Only the program.
    Program,
    /// The SHA-256 of all.
    Hash,
}

/// What happens to changes while the audit cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are refused, but for stops.
    Refuse,
    /// They are done.
    Continue,
}

impl Default for Audit {
    fn default() -> Audit {
        Audit {
            dir: None,
            file_size: 64 << 20,
            files: 16,
            checkpoint: Duration::from_secs(3600),
            arguments: Arguments::Full,
            on_failure: OnFailure::Refuse,
        }
    }
}

impl Audit {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.file_size < 64 << 10 {
            faults.push(("audit.file_size", "must be at least 64K".into()));
        }
        if self.files < 2 {
            faults.push(("audit.files", "must be at least 2".into()));
        }
        let longest = Duration::from_secs(30 * 86_400);
        if !(Duration::from_secs(1)..=longest).contains(&self.checkpoint) {
            faults.push(("audit.checkpoint", "must be from 1s to 30d".into()));
        }
        if self.dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            faults.push(("audit.dir", "must be an absolute path".into()));
        }
        faults
    }
}

fn file_size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_value(from, parse_size).map(|size| size.unwrap_or(0))
}

fn checkpoint<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_value(from, parse_duration).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_would_keep_nothing_are_refused_by_key() {
        let keys = |text: &str| -> Vec<_> {
            let audit: Audit = toml::from_str(text).unwrap();
            audit.faults().into_iter().map(|(key, _)| key).collect()
        };
        assert!(keys("").is_empty());
        let text = "file_size = \"1K\"\nfiles = 1\ncheckpoint = \"0s\"\ndir = \"x\"\n";
        assert_eq!(keys(text), ["audit.file_size", "audit.files", "audit.checkpoint", "audit.dir"]);
        assert!(toml::from_str::<Audit>("arguments = \"none\"").is_err());
    }
}
