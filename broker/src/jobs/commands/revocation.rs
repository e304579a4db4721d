//! What becomes of jobs when certificates are revoked: they are paused or stopped, if so configured. Does nothing to a
//! job twice, so that an admin may resume one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use job_shim::wire::Source;

use crate::audit::{Entry, Phase};
use crate::auth::Verb;
use crate::config::OnRevoked;
use crate::jobs::commands::{pause, stop};
use crate::jobs::job::Job;
use crate::jobs::shared::Shared;
use crate::jobs::stop_request::StopRequest;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::store::records::CertificateRecord;

/// What is known to be revoked.
#[derive(Clone, Copy)]
pub(crate) struct Revoked<'a> {
    /// Since when a certificate of this owner is revoked, in seconds since 1970.
    pub(crate) find: &'a dyn Fn(&Identity, &CertificateRecord) -> Option<u64>,
    /// Owners whose connection has ended for it, the number of the certificate, and since when.
    pub(crate) seen: &'a [(Identity, String, u64)],
}

/// Pauses or stops the live jobs that were started with a revoked certificate, and those that its holder had started
/// before the revocation. `done` has the jobs that were treated so before, and then those of them that live, and the
/// new ones.
pub(crate) fn revoke(
    shared: &Arc<Shared>,
    revoked: Revoked<'_>,
    action: OnRevoked,
    done: &mut HashSet<JobId>,
) {
    let live: Vec<Arc<Job>> = {
        let registry = shared.registry();
        registry.live().filter(|job| !job.snapshot().state.is_over()).cloned().collect()
    };
    let ids: HashSet<JobId> = live.iter().map(|job| job.id()).collect();
    done.retain(|id| ids.contains(id));
    for (job, serial) in affected(&live, revoked) {
        if done.insert(job.id()) {
            act(shared, job, action, format!("revocation of {serial}"));
        }
    }
}

/// The jobs, and the number of the certificate that each is treated for.
fn affected<'a>(live: &'a [Arc<Job>], revoked: Revoked<'a>) -> Vec<(&'a Arc<Job>, &'a str)> {
    let mut owners: HashMap<&Identity, (u64, &str)> = HashMap::new();
    let mut note = |owner, since, serial| {
        let known = owners.entry(owner).or_insert((since, serial));
        if known.0 < since {
            *known = (since, serial);
        }
    };
    revoked.seen.iter().for_each(|(owner, serial, since)| note(owner, *since, serial.as_str()));
    let mut own: HashMap<JobId, &str> = HashMap::new();
    for job in live {
        let Some(certificate) = &job.record().certificate else { continue };
        if let Some(since) = (revoked.find)(job.owner(), certificate) {
            own.insert(job.id(), &certificate.serial);
            note(job.owner(), since, certificate.serial.as_str());
        }
    }
    let of_owner = |job: &Arc<Job>| {
        let (since, serial) = owners.get(job.owner())?;
        (job.record().created_ns / 1_000_000_000 <= *since).then_some(*serial)
    };
    let serial = |job: &Arc<Job>| own.get(&job.id()).copied().or_else(|| of_owner(job));
    live.iter().filter_map(|job| Some((job, serial(job)?))).collect()
}

fn act(shared: &Arc<Shared>, job: &Arc<Job>, action: OnRevoked, by: String) {
    match action {
        OnRevoked::Keep => {}
        OnRevoked::Stop => {
            let grace = job.record().spec.stop_timeout;
            shared.audit.note(&entry(Phase::Broker, Verb::Stop, job, &by));
            stop::request(shared, job, StopRequest::new(Source::System, by, grace));
        }
        OnRevoked::Pause => {
            let (own, job) = (Arc::clone(shared), Arc::clone(job));
            shared.runtime.spawn(async move {
                let _turn = job.change_turn.lock().await;
                let paused = pause::pause_now(&own, &job, job.owner(), &by).await;
                own.audit.note(&match paused {
                    Ok(()) => entry(Phase::Broker, Verb::Pause, &job, &by),
                    Err(e) => {
                        tracing::warn!(job = %job.id(), by, "the job could not be paused: {e}");
                        let failed = entry(Phase::Failed, Verb::Pause, &job, &by);
                        failed.error("pause", &e.to_string())
                    }
                });
            });
        }
    }
}

/// Nobody has called for it: the configuration is the rule.
fn entry(phase: Phase, verb: Verb, job: &Job, by: &str) -> Entry {
    Entry::new(phase, verb).job(job.id(), job.owner()).rule("tls.on_revoked").message(by)
}
