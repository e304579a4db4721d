//! SIGHUP: reads configuration and certificates again. An invalid configuration must be rejected as a whole; the old one
//! stays active.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::auth::Policy;
use crate::config::Config;
use crate::jobs::supervisor::Supervisor;
use crate::journal::AUDIT;
use crate::serve::tls::Tls;
use crate::service::settings::{Settings, SettingsError, fixed_differences};

/// The configuration that can change while the broker runs, and its subscribers.
#[derive(Debug)]
pub(super) struct Reloader {
    file: PathBuf,
    /// The configuration at the broker's start: its fixed keys stay in force.
    started_with: Config,
    pub(super) policy: watch::Sender<Policy>,
    pub(super) tls: watch::Sender<Tls>,
    supervisor: Supervisor,
}

impl Reloader {
    pub(super) fn new(
        file: PathBuf,
        config: Config,
        (policy, tls): (Policy, Tls),
        supervisor: Supervisor,
    ) -> Reloader {
        let (policy, tls) = (watch::Sender::new(policy), watch::Sender::new(tls));
        Reloader { file, started_with: config, policy, tls, supervisor }
    }

    /// Reads configuration and certificates. Valid ones apply to all later calls, connections and jobs.
    ///
    /// # Errors
    ///
    /// The fault; the old configuration stays active.
    pub(super) async fn reload(&self) -> Result<(), SettingsError> {
        let file = self.file.clone();
        // A disk that hangs must not block the jobs' thread.
        let read = tokio::task::spawn_blocking(move || Settings::load(&file)).await;
        let settings = read.map_err(SettingsError::TaskFailed)??;
        let Settings { config, policy, limits, tls, findings } = settings;
        findings.log();
        let fixed = fixed_differences(&self.started_with, &config);
        if !fixed.is_empty() {
            let keys = fixed.join(", ");
            tracing::warn!("these changes need a restart of the broker (jobs go on): {keys}");
        }
        self.supervisor.set_limits(limits);
        self.supervisor.set_retention(config.retention);
        self.policy.send_replace(policy);
        self.tls.send_replace(tls);
        tracing::info!(target: AUDIT, admins = config.admins.len(), "reloaded");
        Ok(())
    }
}
