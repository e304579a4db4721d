//! Starts the endpoint for Prometheus and gathers what it shows: the counters of all rooms, and what is counted when it
//! asks. It must not show a name of an identity or a job.

use tokio::sync::watch;

use crate::config;
use crate::jobs::stats::Census;
use crate::jobs::supervisor::Supervisor;
use crate::metrics::text::Text;
use crate::metrics::{METRICS, endpoint, process};
use crate::model::state::State;
use crate::serve::tls::Tls;
use crate::trace::exporter;

/// Starts the endpoint, if it is configured. The broker runs without it where it cannot listen: its jobs need it.
pub(super) fn start(
    configured: &config::Metrics,
    supervisor: Supervisor,
    tls: watch::Receiver<Tls>,
) {
    let collect = Box::new(move |text: &mut Text| collect(&supervisor, &tls, text));
    let started = match configured.address() {
        Ok(None) => return,
        Ok(Some(address)) => endpoint::start(&address, collect).map_err(|e| e.to_string()),
        Err((key, fault)) => Err(format!("{key} {fault}")),
    };
    let listen = configured.listen.as_deref().unwrap_or_default();
    match started {
        Ok(()) => tracing::info!(listen, "metrics are served"),
        Err(e) => tracing::error!(listen, "metrics are not served: {e}"),
    }
}

/// Starts the export of spans, if it is configured.
pub(super) fn export_traces(configured: &config::Traces) {
    let started = match configured.endpoint() {
        Ok(None) => return,
        Ok(Some(endpoint)) => exporter::start(endpoint).map_err(|e| e.to_string()),
        Err((key, fault)) => Err(format!("{key} {fault}")),
    };
    let endpoint = configured.endpoint.as_deref().unwrap_or_default();
    match started {
        Ok(()) => tracing::info!(endpoint, "spans of starts are sent"),
        Err(e) => tracing::error!(endpoint, "spans of starts are not sent: {e}"),
    }
}

fn collect(supervisor: &Supervisor, tls: &watch::Receiver<Tls>, text: &mut Text) {
    text.info(
        "job_broker_build_info",
        "The version of this broker.",
        &[("version", env!("CARGO_PKG_VERSION"))],
    );
    let census = supervisor.census();
    write_census(&census, text);
    text.gauges(
        "job_broker_quota_in_use",
        "What all identities together have in use of what quotas bound: bytes, thousandths of a CPU, or a number.",
        "quota",
        supervisor.quotas().in_use(&census.in_use).into_iter().map(|(kind, used)| (kind.name(), used)),
    );
    let pressure = supervisor.quota_pressure();
    text.gauges(
        "job_broker_quota_use_ratio_max",
        "The highest use of a quota by one identity, of its limit: 1 is all of it.",
        "quota",
        pressure.iter().map(|(kind, pressure)| (kind.name(), pressure.highest)),
    );
    text.gauges(
        "job_broker_quota_identities_at_limit",
        "Identities that use as much of a quota as their limit is, or more. Which: jobctl quota --owner.",
        "quota",
        pressure.iter().map(|(kind, pressure)| (kind.name(), pressure.at_limit)),
    );
    METRICS.write(text);
    text.gauge(
        "job_broker_audit_lag_seconds",
        "How long the oldest entry of the audit that is not durable has waited; about 1 at most while the disk works.",
        supervisor.audit().lag().as_secs_f64(),
    );
    let [server, authority] = tls.borrow().expires;
    let expires = [("server", server), ("client_ca", authority)];
    text.gauges(
        "job_broker_certificate_expiry_timestamp_seconds",
        "When the broker's certificate ends, and the first of the clients' authorities; seconds since 1970.",
        "certificate",
        expires.into_iter().filter_map(|(name, end)| Some((name, end?))),
    );
    if let Some(end) = tls.borrow().trust.first_list_end() {
        text.gauge(
            "job_broker_revocation_list_next_update_timestamp_seconds",
            "When the first revocation list is to be renewed, in seconds since 1970: no client of its authority connects after.",
            end.as_secs(),
        );
    }
    process::write(text);
}

fn write_census(census: &Census, text: &mut Text) {
    let live = State::ALL.into_iter().filter(|state| !state.is_over());
    text.gauges(
        "job_broker_jobs",
        "Live jobs, by state.",
        "state",
        live.map(|state| (state.name(), census.live[state as usize])),
    );
    let ending = census.live[State::Finished as usize] + census.live[State::Lost as usize];
    text.gauge(
        "job_broker_jobs_ending",
        "Jobs that are over and whose final record is not written yet.",
        ending,
    );
    text.gauge(
        "job_broker_jobs_max",
        "Jobs that may run at a time (jobs.max_running).",
        census.max_running,
    );
    text.gauge("job_broker_jobs_kept", "Jobs that are over and kept.", census.finished);
    text.gauge(
        "job_broker_output_kept_bytes",
        "Output of jobs that are over and kept.",
        census.kept_bytes,
    );
    text.gauge(
        "job_broker_jobs_unreadable",
        "Jobs whose records cannot be read and that are left in their place.",
        census.unreadable,
    );
    let contact = ["answering", "not_reached", "silent"];
    text.gauges(
        "job_broker_shims",
        "Shims of live jobs: those that answer, that an adopted job's broker has not reached yet, and that live and do not answer.",
        "contact",
        contact.into_iter().zip(census.shims),
    );
}
