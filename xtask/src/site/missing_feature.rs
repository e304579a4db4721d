//! Whether this host can enforce every kind of limit. It must ask a broker, and not guess from the kernel's version.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{IDENTITIES, Site};
use crate::process;

/// A feature that this host lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MissingFeature {
    /// The start of a sentence: "this host has no memory controller for jobs (why)".
    pub(crate) words: String,
    /// An option of `jobctl run` that is rejected for lack of the feature.
    pub(crate) refused: String,
}

/// The controllers that limits need, each with an option that needs it, by importance.
const OPTIONS: [(&str, &str); 4] = [
    ("memory", "--memory=64M"),
    ("cpu", "--cpus=0.2"),
    ("pids", "--pids-limit=10"),
    ("io", "--device-write-bps=5M"),
];

impl Site {
    /// The first missing feature that limits of CPU, memory, processes and of a directory's disk need; `None` if the
    /// host has all. The broker must run.
    ///
    /// # Errors
    /// The broker does not respond.
    pub(crate) fn missing_feature(&self, directory: &Path) -> Result<Option<MissingFeature>> {
        let info = process::output(self.jobctl(IDENTITIES[0]).args(["info", "-o", "json"]))?;
        let info = serde_json::from_str(&info).context("jobctl info: bad JSON")?;
        match controllers(&info) {
            Some(missing_feature) => Ok(Some(missing_feature)),
            None => self.disk(directory),
        }
    }

    /// Starts a job with the limit: only the broker knows which file systems are on a disk that can be limited.
    fn disk(&self, directory: &Path) -> Result<Option<MissingFeature>> {
        let refused = format!("--device-write-bps={}:1G", directory.display());
        let mut run = self.jobctl(IDENTITIES[0]);
        run.args(["run", &refused, "--", "true"]).stdin(Stdio::null());
        let output = run.output().context("cannot run jobctl")?;
        if output.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.trim_end().trim_start_matches("jobctl: cannot start: ");
        let directory = directory.display();
        let words =
            format!("this host cannot limit what jobs do on the disk of {directory} ({why})");
        Ok(Some(MissingFeature { words, refused }))
    }
}

/// From `GetServerInfoResponse`.
fn controllers(info: &Value) -> Option<MissingFeature> {
    let why = |name: &str| info["missing_controllers"][name].as_str();
    let missing: Vec<_> = OPTIONS.iter().filter(|(name, _)| why(name).is_some()).collect();
    let (first, option) = missing.first()?;
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let controllers = match names.as_slice() {
        [one] => format!("{one} controller"),
        [some @ .., last] => format!("{} and {last} controllers", some.join(", ")),
        [] => return None,
    };
    let why = why(first).unwrap_or_default();
    let why = if names.len() > 1 { format!("{first}: {why}") } else { why.to_owned() };
    let words = format!("this host has no {controllers} for jobs ({why})");
    Some(MissingFeature { words, refused: (*option).to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_controller_is_named_with_its_reason() {
        let info = json!({"controllers": ["cpu", "memory", "pids"],
                          "missing_controllers": {"io": "held by cgroup v1"}});
        let expected = MissingFeature {
            words: "this host has no io controller for jobs (held by cgroup v1)".into(),
            refused: "--device-write-bps=5M".into(),
        };
        assert_eq!(controllers(&info), Some(expected));
    }

    #[test]
    fn of_several_the_first_has_its_reason() {
        let info = json!({"missing_controllers": {"cpu": "c", "pids": "p", "memory": "m"}});
        let missing_feature = controllers(&info).expect("three are missing");
        let words = "this host has no memory, cpu and pids controllers for jobs (memory: m)";
        assert_eq!(
            (missing_feature.words.as_str(), missing_feature.refused.as_str()),
            (words, "--memory=64M")
        );
    }

    #[test]
    fn a_host_with_all_controllers_lacks_none() {
        assert_eq!(controllers(&json!({"missing_controllers": {}})), None);
    }
}
