//! Builds policy, limits and TLS from the configuration file, at start, reload and `check-config`. It must not put anything
//! in force.

use std::path::Path;
use std::sync::Arc;

use crate::auth;
use crate::auth::{Host, Policy, PolicyError, PolicyRole, Role};
use crate::config::{Config, ConfigError};
use crate::model::identity::Identity;
use crate::model::isolation::IsolationRules;
use crate::model::limits::LimitTables;
use crate::quota::limits::{Membership, QuotaTables};
use crate::quota::quotas::MembershipOf;
use crate::serve::tls::{Tls, TlsError};
use crate::service::certificate_watch;
use crate::service::certificate_watch::Stamps;
use crate::service::certificates;
use crate::service::certificates::Findings;

/// The configuration file, and the settings built from it. None of them is in force yet.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) policy: Policy,
    pub(super) limits: LimitTables,
    pub(super) isolation: IsolationRules,
    pub(super) quotas: QuotaTables,
    pub(super) tls: Tls,
    /// The certificate files, as they were before they were read.
    pub(super) stamps: Stamps,
    /// The findings about its certificates.
    pub(super) findings: Findings,
}

/// A fault of the configuration, in a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("admins: {0}")]
    Admin(String),
    #[error("{0} {1}")]
    Limits(&'static str, String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("reading was broken off: {0}")]
    TaskFailed(tokio::task::JoinError),
}

impl Settings {
    /// Reads the file and its certificates.
    pub(super) fn load(file: &Path) -> Result<Settings, SettingsError> {
        let config = Config::load(file)?;
        let policy = policy(&config)?;
        let limits =
            config.limits.tables().map_err(|(key, fault)| SettingsError::Limits(key, fault))?;
        let isolation =
            config.isolation.rules().map_err(|(key, fault)| SettingsError::Limits(key, fault))?;
        let mut quotas =
            config.quotas.tables().map_err(|(key, fault)| SettingsError::Limits(key, fault))?;
        quotas.roles_have_some = policy.has_quotas();
        let stamps = certificate_watch::stamps(&config.tls.files());
        let tls = Tls::load(&config.tls)?;
        let findings = certificates::check_loaded(&config.tls, &tls);
        Ok(Settings { config, policy, limits, isolation, quotas, tls, stamps, findings })
    }
}

/// What an identity is, for its quotas, by this policy.
pub(super) fn membership(policy: &Policy) -> MembershipOf {
    let policy = policy.clone();
    Arc::new(move |identity| {
        let caller = policy.caller(identity.clone());
        let quota = |role: &Arc<PolicyRole>| Some((role.name.to_string(), role.quota.clone()?));
        let roles = caller.roles().iter().filter_map(quota).collect();
        Membership { is_admin: caller.role() == Role::Admin, roles }
    })
}

/// The policy of the configuration: the file, or the one that is built in.
pub(super) fn policy(config: &Config) -> Result<Policy, SettingsError> {
    policy_of(config, config.policy.as_deref())
}

/// The policy of this file, as this configuration would have it.
pub(super) fn policy_of(config: &Config, file: Option<&Path>) -> Result<Policy, SettingsError> {
    let admins: Result<Vec<_>, _> = config.admins.iter().map(|name| Identity::new(name)).collect();
    let admins = admins.map_err(SettingsError::Admin)?;
    let Some(file) = file else { return Ok(Policy::new(admins)) };
    let resolve =
        |path: &str| std::fs::canonicalize(path).ok()?.into_os_string().into_string().ok();
    let (trust_domain, run_as) = (config.tls.trust_domain.as_str(), config.jobs.run_as.as_slice());
    Ok(auth::load(file, &Host { admins, trust_domain, run_as, resolve })?)
}

/// The keys that differ and that need a restart.
pub(super) fn fixed_differences(old: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (&old.jobs, &new.jobs);
    [
        ("listen", old.listen == new.listen),
        ("jobs.state_dir", a.state_dir == b.state_dir),
        ("jobs.run_dir", a.run_dir == b.run_dir),
        ("jobs.shim", a.shim == b.shim),
        ("jobs.shim_user", a.shim_user == b.shim_user),
        ("jobs.cgroup", a.cgroup == b.cgroup),
        ("jobs.require_controllers", a.require_controllers == b.require_controllers),
        ("jobs.run_as", a.run_as == b.run_as),
        ("jobs.pool", a.pool == b.pool),
        ("jobs.job_dir_projects", a.job_dir_projects == b.job_dir_projects),
        ("jobs.stop_timeout_seconds", a.stop_timeout_seconds == b.stop_timeout_seconds),
        ("jobs.leftover_grace_seconds", a.leftover_grace_seconds == b.leftover_grace_seconds),
        ("jobs.max_running", a.max_running == b.max_running),
        ("metrics", old.metrics == new.metrics),
        ("audit", old.audit == new.audit),
        ("log", old.log == new.log),
        ("traces", old.traces == new.traces),
    ]
    .into_iter()
    .filter_map(|(key, is_same)| (!is_same).then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quotas;
    use crate::quota::kind::QuotaKind;

    #[test]
    fn quotas_of_roles_count_before_the_default_and_the_most_generous_of_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let role = |name: &str, jobs: u64| {
            format!(
                "[[role]]\nname = \"{name}\"\nidentities = [\"ci-*\"]\nallow = [\"view\"]\n\
                 quota.running_jobs = {jobs}\n"
            )
        };
        std::fs::write(file.path(), role("some", 3) + &role("more", 7)).unwrap();
        let config = "admins = [\"root\"]\n[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n\
                      [quotas.default]\nrunning_jobs = 1\n[quotas.admin]\nrunning_jobs = 50\n\
                      [quotas.identity.ci-held]\nrunning_jobs = 2\n";
        let config: Config = toml::from_str(config).unwrap();
        let policy = policy_of(&config, Some(file.path())).unwrap();
        assert!(policy.has_quotas());
        let quotas = Quotas::default();
        quotas.set(config.quotas.tables().unwrap(), membership(&policy));
        for (name, value, origin) in [
            ("ci-7", 7, "role more"),
            ("ci-held", 2, "[quotas.identity.\"ci-held\"]"),
            ("root", 50, "[quotas.admin]"),
            ("ann", 1, "[quotas.default]"),
        ] {
            let limits = quotas.limits(&Identity::new(name).unwrap());
            let limit = limits.get(QuotaKind::RunningJobs).unwrap();
            assert_eq!((limit.value, &*limit.origin), (value, origin), "{name}");
        }
        let bad = role("some", 3).replace("running_jobs", "runing_jobs");
        std::fs::write(file.path(), bad).unwrap();
        assert!(policy_of(&config, Some(file.path())).is_err());
    }

    #[test]
    fn what_a_reload_cannot_change_is_named() {
        let config = |text: &str| -> Config {
            toml::from_str(&format!(
                "{text}\n[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n"
            ))
            .unwrap()
        };
        let old = config("");
        assert!(fixed_differences(&old, &config("admins = [\"a\"]")).is_empty());
        let new = config("listen = \"127.0.0.1:1\"\n[jobs]\nshim = \"x\"");
        assert_eq!(fixed_differences(&old, &new), ["listen", "jobs.shim"]);
    }
}
