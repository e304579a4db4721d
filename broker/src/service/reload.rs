//! SIGHUP: reads configuration and certificates again; certificates that were replaced on disk are read without it. What
//! is invalid must be rejected as a whole; the old one stays active.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::audit::{self, Entry, OwnAction, Phase};
use crate::auth::Policy;
use crate::config;
use crate::config::{Config, OnRevoked};
use crate::jobs::commands::revocation::Revoked;
use crate::jobs::supervisor::Supervisor;
use crate::journal::AUDIT;
use crate::model::certificates::TlsReport;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::serve::live::RevokedPeer;
use crate::serve::tls::{Tls, TlsError};
use crate::service::certificate_watch;
use crate::service::certificate_watch::{CertificateWatch, Stamps};
use crate::service::certificates;
use crate::service::settings;
use crate::service::settings::{Settings, SettingsError, fixed_differences};
use crate::service::status::Status;
use crate::store::records::CertificateRecord;
use crate::sync::lock;
use crate::systemd::notify::one_line;

/// The configuration that can change while the broker runs, and its subscribers.
#[derive(Debug)]
pub(super) struct Reloader {
    file: PathBuf,
    /// The configuration at the broker's start: its fixed keys stay in force.
    started_with: Config,
    /// `[tls]` as of the last reload, and its files.
    files: Mutex<(config::Tls, CertificateWatch)>,
    pub(super) policy: watch::Sender<Policy>,
    pub(super) tls: watch::Sender<Tls>,
    pub(super) report: watch::Sender<TlsReport>,
    supervisor: Supervisor,
    /// Jobs that a revocation has paused or stopped.
    treated: Mutex<HashSet<JobId>>,
}

impl Reloader {
    /// `read` has the files of `tls` as they were before they were read.
    pub(super) fn new(
        file: PathBuf,
        config: Config,
        (policy, tls, read): (Policy, Tls, Stamps),
        supervisor: Supervisor,
    ) -> Reloader {
        let report = watch::Sender::new(report(&tls));
        let (policy, tls) = (watch::Sender::new(policy), watch::Sender::new(tls));
        let files = Mutex::new((config.tls.clone(), CertificateWatch::new(read)));
        Reloader {
            file,
            started_with: config,
            files,
            policy,
            tls,
            report,
            supervisor,
            treated: Mutex::default(),
        }
    }

    /// Reads configuration and certificates. Valid ones apply to all later calls, connections and jobs; a connection
    /// whose certificate is not accepted any more ends.
    ///
    /// # Errors
    ///
    /// The fault; the old configuration stays active.
    pub(super) async fn reload(&self) -> Result<(), SettingsError> {
        let file = self.file.clone();
        // A disk that hangs must not block the jobs' thread.
        let read = tokio::task::spawn_blocking(move || Settings::load(&file)).await;
        let settings = read.map_err(SettingsError::TaskFailed).and_then(|read| read);
        let Settings { config, policy, limits, isolation, quotas, tls, stamps, findings } =
            match settings {
                Ok(settings) => settings,
                Err(e) => {
                    let fault = one_line(&e);
                    self.note_refused(OwnAction::Reload, &fault);
                    self.report.send_modify(|report| report.fault = Some(fault));
                    return Err(e);
                }
            };
        findings.log();
        let fixed = fixed_differences(&self.started_with, &config);
        if !fixed.is_empty() {
            let keys = fixed.join(", ");
            tracing::warn!("these changes need a restart of the broker (jobs go on): {keys}");
        }
        self.supervisor.set_limits(limits);
        self.supervisor.set_retention(config.retention);
        self.supervisor.quotas().set(quotas, settings::membership(&policy));
        let roles = policy.len();
        self.policy.send_replace(policy);
        *lock(&self.files) = (config.tls, CertificateWatch::new(stamps));
        self.use_tls(tls);
        tracing::info!(target: AUDIT, admins = config.admins.len(), roles, "reloaded");
        let admins = format!("roles: {roles}; admins: {}", config.admins.join(", "));
        let entry =
            Entry::own(Phase::Broker, OwnAction::Reload).category("configuration").message(admins);
        self.supervisor.audit().note(&entry);
        // Last: it looks at the host's directories, and what is revoked must not wait for a disk that hangs.
        self.supervisor.set_isolation(isolation).await;
        Ok(())
    }

    /// What was read is not in force.
    fn note_refused(&self, action: OwnAction, fault: &str) {
        let entry = Entry::own(Phase::Failed, action).category("configuration");
        self.supervisor.audit().note(&entry.error("refused", fault));
    }

    fn use_tls(&self, tls: Tls) {
        self.report.send_replace(report(&tls));
        self.tls.send_replace(tls);
        if let Some(signer) = audit::signer(&lock(&self.files).0) {
            self.supervisor.audit().set_signer(signer);
        }
        self.treat_jobs(&[]);
    }

    /// Does to the jobs of revoked certificates what the configuration says; `seen` are those that were connected.
    pub(super) fn treat_jobs(&self, seen: &[RevokedPeer]) {
        let action = lock(&self.files).0.on_revoked;
        if action == OnRevoked::Keep {
            return;
        }
        let trust = Arc::clone(&self.tls.borrow().trust);
        let find = |owner: &Identity, certificate: &CertificateRecord| {
            let entry = trust.revoked(owner, &certificate.serial, &certificate.issuer)?;
            Some(entry.date().as_secs())
        };
        let revoked = Revoked { find: &find, seen };
        self.supervisor.revoke(revoked, action, &mut lock(&self.treated));
    }

    /// Reads the certificates whenever their files were replaced. Broken ones are told once, and the old ones stay.
    pub(super) async fn watch_certificates(&self, status: &Status) {
        loop {
            tokio::time::sleep(certificate_watch::INTERVAL).await;
            let files = lock(&self.files).0.clone();
            let read = move || {
                let stamps = certificate_watch::stamps(&files.files());
                (files, stamps)
            };
            // A panic is in the log; the next look is in two seconds.
            let Ok((files, stamps)) = tokio::task::spawn_blocking(read).await else { continue };
            let has_changed = lock(&self.files).1.has_changed(&stamps);
            if has_changed {
                self.read_certificates(files, stamps, status).await;
            }
        }
    }

    async fn read_certificates(&self, files: config::Tls, stamps: Stamps, status: &Status) {
        let read = move || {
            let tls = Tls::load(&files)?;
            let findings = certificates::check_loaded(&files, &tls);
            Ok::<_, TlsError>((tls, findings))
        };
        let Ok(read) = tokio::task::spawn_blocking(read).await else { return };
        match read {
            Ok((tls, findings)) => {
                lock(&self.files).1.settle(stamps);
                findings.log();
                self.use_tls(tls);
                let entry = Entry::own(Phase::Broker, OwnAction::ReloadCertificates);
                self.supervisor.audit().note(&entry.category("configuration"));
                tracing::info!(target: AUDIT, "certificates on disk were replaced, and are in force");
                status.certificates_read(None);
            }
            Err(e) => {
                if lock(&self.files).1.found_broken(stamps) {
                    let fault = one_line(&e);
                    self.note_refused(OwnAction::ReloadCertificates, &fault);
                    tracing::error!(
                        "certificates on disk were replaced, and the former ones stay in force: {fault}"
                    );
                    self.report.send_modify(|report| report.fault = Some(fault.clone()));
                    status.certificates_read(Some(fault));
                }
            }
        }
    }
}

fn report(tls: &Tls) -> TlsReport {
    TlsReport {
        loaded: Some(SystemTime::now()),
        expires: tls.expires[0].and_then(|end| {
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).ok()?))
        }),
        authorities: tls.trust.report(),
        fault: None,
    }
}
