//! The configuration file. Every key but those of `[tls]` has a default. An unknown key must be an error, since a
//! misspelt limit would not be enforced.

mod audit;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod isolation;
mod limits;
mod log;
mod metrics;
mod quotas;
mod retention;
mod tls;
mod traces;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use crate::config::audit::{Arguments as AuditArguments, Audit, OnFailure};
pub use crate::config::isolation::Isolation;
pub use crate::config::limits::{Limits, Table, Ulimit};
pub use crate::config::log::Log;
pub use crate::config::metrics::Metrics;
pub use crate::config::quotas::{QuotaTable, Quotas};
pub use crate::config::retention::{MinFree, Retention};
pub use crate::config::tls::{Authority, OnRevoked, Tls};
pub use crate::config::traces::Traces;

/// `/etc/job-broker/config.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port for clients: `"0.0.0.0:7443"` is every IPv4 address, `"[::]:7443"` every address. A
    /// socket passed by systemd takes precedence.
    ///
    /// Default: `"127.0.0.1:7443"`
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The broker's certificate and the trusted authorities.
    pub tls: Tls,
    /// Identities that see and control the jobs of every owner.
    ///
    /// Default: `[]`
    #[serde(default)]
    pub admins: Vec<String>,
    /// The policy: which identities may do what. It must be root's, and writable by nobody else. Not set: everybody
    /// controls their own jobs, `admins` all jobs.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// Directories, accounts and timeouts of jobs.
    #[serde(default)]
    pub jobs: Jobs,
    /// Default and maximum limits of jobs.
    #[serde(default)]
    pub limits: Limits,
    /// What a job sees of the host, docs/ISOLATION.md.
    #[serde(default)]
    pub isolation: Isolation,
    /// What each identity may take. For each key by itself: the identity's own table (its name first, then globs, the
    /// longest first), else the most generous of its roles, else `default`, else no limit.
    #[serde(default)]
    pub quotas: Quotas,
    /// How long finished jobs are kept, and when new jobs are rejected.
    #[serde(default)]
    pub retention: Retention,
    /// The form of the log.
    #[serde(default)]
    pub log: Log,
    /// The endpoint for Prometheus.
    #[serde(default)]
    pub metrics: Metrics,
    /// Who did what.
    #[serde(default)]
    pub audit: Audit,
    /// Where spans of starts are sent.
    #[serde(default)]
    pub traces: Traces,
}

/// The configuration of a [`crate::jobs::supervisor::Supervisor`]: everything but the network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Directory of records and output; owner root, mode 0700. Put it on a file system that jobs cannot write to.
    ///
    /// Default: `"/var/lib/job-broker"`
    pub state_dir: PathBuf,
    /// Directory of the jobs' own directories (`JOB_DIR`), which are removed when the jobs end; owner root, mode 0711.
    /// Not set: beside `state_dir`, with `-work` after its name.
    pub work_dir: Option<PathBuf>,
    /// Directory of the images that `job-broker images import` makes; owner root, mode 0700. Not set: `images` in
    /// `state_dir`.
    pub images_dir: Option<PathBuf>,
    /// Directory of the shims' sockets; owner root, mode 0700. A restart of the service must not remove it.
    ///
    /// Default: `"/run/job-broker"`
    pub run_dir: PathBuf,
    /// The program `job-shim`. The broker opens it once, when it starts.
    ///
    /// Default: `"/usr/lib/job-broker/job-shim"`
    pub shim: PathBuf,
    /// Account or uid of the shims. No job may run as this account.
    ///
    /// Default: `"job-shim"`
    pub shim_user: String,
    /// Cgroup of all jobs, relative to the cgroup2 mount. Not set: the scope `job-broker-jobs.scope` if systemd
    /// is process 1, else `job-broker`.
    pub cgroup: Option<PathBuf>,
    /// Controllers that the broker requires to start: `cpu`, `memory`, `io`, `pids`.
    ///
    /// Default: `[]`
    pub require_controllers: Vec<String>,
    /// Accounts that jobs may run as; the first is the default. `pool` gives each job its own uid. Jobs that share
    /// an account, such as `nobody`, can signal, trace and read each other.
    ///
    /// Default: `["nobody", "pool"]`
    pub run_as: Vec<String>,
    /// Uids of `pool`: first and last. Uids and gids of this host's accounts and groups are skipped.
    ///
    /// Default: `[70000, 79999]`
    pub pool: (u32, u32),
    /// Project ids for jobs whose directory has a size limit: first and last. Ids that files or limits of others have are
    /// skipped, and so are those in `/etc/projid` and `/etc/projects`.
    ///
    /// Default: `[1900000000, 1900099999]`
    pub job_dir_projects: (u32, u32),
    /// Seconds from the stop signal to SIGKILL, for a job without its own timeout; 0 to 86400.
    ///
    /// Default: `10.0`
    pub stop_timeout_seconds: f64,
    /// Seconds from the exit of a job's main process to SIGKILL for its remaining processes; 0 to 86400.
    ///
    /// Default: `1.0`
    pub leftover_grace_seconds: f64,
    /// Maximum number of running jobs of all owners; at least 1. Not set: five eighths of RLIMIT_NOFILE, and at most
    /// as many as half of the memory holds at 320 KiB a job.
    pub max_running: Option<u64>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7443))
}

impl Default for Jobs {
    fn default() -> Self {
        Jobs {
            state_dir: "/var/lib/job-broker".into(),
            work_dir: None,
            images_dir: None,
            run_dir: "/run/job-broker".into(),
            shim: "/usr/lib/job-broker/job-shim".into(),
            shim_user: "job-shim".into(),
            cgroup: None,
            require_controllers: Vec::new(),
            run_as: vec!["nobody".into(), "pool".into()],
            // Beyond nobody (65534), systemd's DynamicUser= (61184-65519) and its containers
            // (524288-1879048191), and below /etc/subuid's usual first (100000).
            pool: (70_000, 79_999),
            // Beyond what containers and administrators use.
            job_dir_projects: (1_900_000_000, 1_900_099_999),
            stop_timeout_seconds: 10.0,
            leftover_grace_seconds: 1.0,
            max_running: None,
        }
    }
}

impl Jobs {
    /// Directory of the jobs' own directories.
    pub fn work_dir(&self) -> PathBuf {
        let beside = || {
            let mut name = self.state_dir.clone().into_os_string();
            name.push("-work");
            name.into()
        };
        self.work_dir.clone().unwrap_or_else(beside)
    }

    /// Directory of images.
    pub fn images_dir(&self) -> PathBuf {
        self.images_dir.clone().unwrap_or_else(|| self.state_dir.join("images"))
    }

    /// The time from the stop signal to SIGKILL.
    pub fn stop_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.stop_timeout_seconds)
    }

    /// The time from the exit of the main process to SIGKILL for the remaining processes.
    pub fn leftover_grace(&self) -> Duration {
        Duration::from_secs_f64(self.leftover_grace_seconds)
    }
}

/// A configuration that cannot be used; the text names file, line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist or is not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's message, with the line.
        detail: String,
    },
    /// A value out of range.
    #[error("{path}: {key} {fault}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
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

    /// Reads the file without checking the ranges of its values.
    ///
    /// # Errors
    /// [`ConfigError`], in words for an operator.
    pub(crate) fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Config::parse(&text).map_err(|detail| ConfigError::Parse { path: path.into(), detail })
    }

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    /// Keys with values out of range, and what is wrong with each.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = self.jobs.faults();
        faults.extend(self.tls.faults());
        faults.extend(self.limits.tables().err());
        faults.extend(self.isolation.rules().err());
        faults.extend(self.quotas.tables().err());
        faults.extend(self.retention.check().err());
        faults.extend(self.metrics.address().err());
        faults.extend(self.audit.faults());
        faults.extend(self.log.check().err());
        faults.extend(self.traces.endpoint().err());
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
        let projects = self.job_dir_projects;
        if projects.0 == 0 || projects.0 > projects.1 || projects.1 == u32::MAX {
            let fault = format!(
                "is {projects:?}; it must be [first, last] with 0 < first <= last < {}",
                u32::MAX
            );
            faults.push(("jobs.job_dir_projects", fault));
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
