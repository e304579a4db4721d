//! The configuration file: every key has a default but those of `[tls]`, and an unknown key is an
//! error, since a misspelt limit is no limit.

mod limits;
mod retention;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use crate::config::limits::{Limits, Table, Ulimit};
pub use crate::config::retention::{Floor, Retention};

/// `/etc/job-broker/config.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Certificates, and whose to trust.
    pub tls: Tls,
    /// Identities that see and control everybody's jobs.
    #[serde(default)]
    pub admins: Vec<String>,
    /// What jobs get and where they live.
    #[serde(default)]
    pub jobs: Jobs,
    /// What jobs may use.
    #[serde(default)]
    pub limits: Limits,
    /// What is kept of jobs that are over.
    #[serde(default)]
    pub retention: Retention,
}

/// The part of the configuration that a [`crate::jobs::supervisor::Supervisor`] needs: all but the network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Jobs on disk; root 0700.
    pub state_dir: PathBuf,
    /// Sockets of the shims; root 0700. It must outlive a restart of the service.
    pub run_dir: PathBuf,
    /// The program `job-shim`; opened once, at start.
    pub shim: PathBuf,
    /// The account, or the number, that shims run as. Never that of a job.
    pub shim_user: String,
    /// The cgroup that holds all jobs, below the cgroup2 mount. Absent: a scope of systemd's where
    /// systemd is process 1, `job-broker` elsewhere.
    pub cgroup: Option<PathBuf>,
    /// Controllers without which the broker refuses to start.
    pub require_controllers: Vec<String>,
    /// Whom jobs may run as; the first is the default. `nobody`, `pool`, or accounts of this host.
    pub run_as: Vec<String>,
    /// The uids of `pool`: first and last.
    pub pool: (u32, u32),
    /// From the stop signal to the kill for each job that does not say, in seconds.
    pub stop_timeout_seconds: f64,
    /// How long what outlives a job's main process may go on, in seconds.
    pub leftover_grace_seconds: f64,
    /// Most jobs that run at a time; absent: what the limit of descriptors and the memory allow.
    pub max_running: Option<u64>,
}

/// Where the certificates are, PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The broker's own, leaf first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that sign clients' certificates.
    pub client_ca: PathBuf,
    /// The `<trust-domain>` that a client's `job://<trust-domain>/<name>` must have.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7443))
}

fn default_trust_domain() -> String {
    "local".into()
}

impl Default for Jobs {
    fn default() -> Self {
        Jobs {
            state_dir: "/var/lib/job-broker".into(),
            run_dir: "/run/job-broker".into(),
            shim: "/usr/lib/job-broker/job-shim".into(),
            shim_user: "job-shim".into(),
            cgroup: None,
            require_controllers: Vec::new(),
            run_as: vec!["nobody".into(), "pool".into()],
            // Beyond nobody (65534), systemd's DynamicUser= (61184-65519) and its containers
            // (524288-1879048191), and below /etc/subuid's usual first (100000).
            pool: (70_000, 79_999),
            stop_timeout_seconds: 10.0,
            leftover_grace_seconds: 1.0,
            max_running: None,
        }
    }
}

impl Jobs {
    /// From the stop signal to the kill.
    pub fn stop_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.stop_timeout_seconds)
    }

    /// For what outlives the main process.
    pub fn leftover_grace(&self) -> Duration {
        Duration::from_secs_f64(self.leftover_grace_seconds)
    }
}

/// A configuration that cannot be used; the text names file, line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not there, or not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong kind.
    #[error("{path}: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        detail: String,
    },
    /// Understood, and impossible.
    #[error("{path}: {key} {fault}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// "must ...".
        fault: String,
    },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`], in words for an operator.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let config = Config::read(path)?;
        match config.faults().into_iter().next() {
            Some((key, fault)) => Err(ConfigError::Value { path: path.into(), key, fault }),
            None => Ok(config),
        }
    }

    /// Reads the file; whether its values are possible is still to be seen.
    ///
    /// # Errors
    /// [`ConfigError`], in words for an operator.
    pub(crate) fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        toml::from_str(&text)
            .map_err(|e| ConfigError::Parse { path: path.into(), detail: e.to_string() })
    }

    /// Keys with impossible values, and what is wrong with each.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = self.jobs.faults();
        faults.extend(self.limits.tables().err());
        faults.extend(self.retention.check().err());
        faults
    }
}

impl Jobs {
    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        for (key, value) in [
            ("jobs.stop_timeout_seconds", self.stop_timeout_seconds),
            ("jobs.leftover_grace_seconds", self.leftover_grace_seconds),
        ] {
            let time = Duration::try_from_secs_f64(value);
            if !time.is_ok_and(|time| time <= Duration::from_secs(86_400)) {
                faults.push((key, format!("is {value}; it must be from 0 to 86400")));
            }
        }
        if self.max_running == Some(0) {
            faults.push(("jobs.max_running", "is 0; it must be at least 1".into()));
        }
        if self.run_as.is_empty() {
            faults.push(("jobs.run_as", "must name at least one account".into()));
        }
        if self.pool.0 == 0 || self.pool.0 > self.pool.1 {
            let fault =
                format!("is {:?}; it must be [first, last] with 0 < first <= last", self.pool);
            faults.push(("jobs.pool", fault));
        }
        let is_plain = |path: &Path| {
            path.components().all(|c| matches!(c, std::path::Component::Normal(_)))
                && !path.as_os_str().is_empty()
        };
        if !self.cgroup.as_deref().is_none_or(is_plain) {
            let fault = "must be a relative path below the cgroup2 mount, without \"..\"";
            faults.push(("jobs.cgroup", fault.into()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS: &str = "[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n";

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn certificates_are_all_that_must_be_configured() {
        let config = load(TLS).unwrap();
        assert_eq!(config.listen.port(), 7443);
        assert_eq!(config.jobs.run_as[0], "nobody");
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        for text in ["lisen = 1\n", "[jobs]\nout_limit = 3\n"] {
            let fault = load(&format!("{text}{TLS}")).unwrap_err();
            assert!(fault.contains("unknown field"), "{fault}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_key() {
        for (text, key) in [
            ("stop_timeout_seconds = -1.0", "jobs.stop_timeout_seconds"),
            ("leftover_grace_seconds = nan", "jobs.leftover_grace_seconds"),
            ("max_running = 0", "jobs.max_running"),
            ("run_as = []", "jobs.run_as"),
            ("pool = [9, 3]", "jobs.pool"),
            ("cgroup = \"../x\"", "jobs.cgroup"),
        ] {
            let fault = load(&format!("{TLS}[jobs]\n{text}\n")).unwrap_err();
            assert!(fault.contains(key), "{fault}");
        }
    }
}
