//! `job-broker drain`: stops all jobs at shutdown or before the package is removed. It is a broker without a network and
//! must run after the broker has ended, since it needs the lock of the state directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{self, Audit, Entry, OwnAction, Phase};
use crate::config::Config;
use crate::jobs::supervisor::Supervisor;
use crate::service::error::ServiceError;
use crate::service::settings::SettingsError;
use crate::systemd;

/// Stops all jobs. Returns when each job's cgroup is removed and each end is on record.
pub(super) fn run(file: &Path, grace: Duration) -> Result<(), ServiceError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ServiceError::NotRoot);
    }
    let config = Config::load(file).map_err(SettingsError::from)?;
    if config.jobs.cgroup.is_none() && systemd::is_init() && !systemd::scope::exists() {
        tracing::info!("there is no {}: no job runs", systemd::scope::NAME);
        return Ok(());
    }
    let limits =
        config.limits.tables().map_err(|(key, fault)| SettingsError::Limits(key, fault))?;
    let isolation =
        config.isolation.rules().map_err(|(key, fault)| SettingsError::Limits(key, fault))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let drained = runtime.block_on(async {
        let dir = audit::directory(&config);
        let Config { jobs, retention, tls, audit, .. } = config;
        let audit = || Audit::start(&audit, dir, audit::signer(&tls));
        let supervisor =
            Supervisor::open(jobs, (limits, isolation), retention, Arc::default(), audit).await?;
        let drained = Entry::own(Phase::Broker, OwnAction::Drain).by_name("job-broker drain");
        supervisor.audit().note(&drained);
        let (live, _) = supervisor.count();
        tracing::info!("stopping {live} running jobs, each in its own way, within {grace:?}");
        supervisor.drain("job-broker drain", grace).await;
        supervisor.audit().close();
        tracing::info!("no job is left");
        Ok(())
    });
    runtime.shutdown_background(); // a thread in a job's system call must not delay the exit
    drained
}
