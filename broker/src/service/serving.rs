//! The service itself: start, serve, reload on SIGHUP, end on SIGTERM. It must not end a job.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;

use crate::audit::{self, Audit, Entry, OwnAction, Phase};
use crate::auth::Policy;
use crate::jobs::shared::threads;
use crate::jobs::supervisor::Supervisor;
use crate::journal::{AUDIT, Journal};
use crate::metrics::METRICS;
use crate::metrics::labels::Reload;
use crate::model::certificates::TlsReport;
use crate::quota::Quotas;
use crate::service::error::ServiceError;
use crate::service::monitoring;
use crate::service::reload::Reloader;
use crate::service::settings;
use crate::service::settings::Settings;
use crate::service::status::Status;
use crate::systemd::notify::{Notifier, one_line};
use crate::systemd::sockets;
use crate::{grpc, serve};

/// Runs the service until SIGTERM or SIGINT.
pub(super) fn run(file: PathBuf, log: &Journal) -> Result<(), ServiceError> {
    let notifier = Notifier::from_environment();
    let outcome = start(file, log, notifier.clone());
    if let Err(e) = &outcome {
        notifier.failed(e);
    }
    outcome
}

fn start(file: PathBuf, log: &Journal, notifier: Notifier) -> Result<(), ServiceError> {
    let settings = Settings::load(&file)?;
    let configured = &settings.config.log;
    log.configure(configured.format, configured.output_tail.unwrap_or(0));
    if !nix::unistd::geteuid().is_root() {
        return Err(ServiceError::NotRoot);
    }
    let passed = sockets::listener().map_err(ServiceError::PassedSocket)?;
    raise_descriptor_limit();
    warn_of_missing_protection();
    // One thread for the jobs; connections have threads of their own, see `serve`.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(threads::MOST)
        .build()?;
    let ended = runtime.block_on(serve_until_signal(file, settings, passed, notifier));
    runtime.shutdown_background(); // a thread in a job's system call must not delay the exit
    ended
}

async fn serve_until_signal(
    file: PathBuf,
    settings: Settings,
    passed: Option<std::net::TcpListener>,
    notifier: Notifier,
) -> Result<(), ServiceError> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // From here on SIGHUP does not end the process; an early one is handled later.
    let mut hang_up = signal(SignalKind::hangup())?;
    let Settings { config, policy, limits, isolation, quotas: tables, tls, stamps, findings } =
        settings;
    findings.log();
    let quotas = Arc::<Quotas>::default();
    quotas.set(tables, settings::membership(&policy));
    let (jobs, retention) = (config.jobs.clone(), config.retention.clone());
    let open_audit =
        || Audit::start(&config.audit, audit::directory(&config), audit::signer(&config.tls));
    let supervisor =
        Supervisor::open(jobs, (limits, isolation), retention, Arc::clone(&quotas), open_audit)
            .await?;
    let audit = supervisor.audit().clone();
    let listener = listen(passed, config.listen).await?;
    let addr = listener.local_addr()?;
    let status = Status::new(notifier, supervisor.clone(), addr);
    let (monitoring, traces) = (config.metrics.clone(), config.traces.clone());
    let reloader = Reloader::new(file, config, (policy, tls, stamps), supervisor.clone());
    monitoring::start(&monitoring, supervisor.clone(), reloader.tls.subscribe());
    monitoring::export_traces(&traces);
    let (close, closing) = watch::channel(false);
    let (policy, report) = (reloader.policy.subscribe(), reloader.report.subscribe());
    let routes = routes(supervisor, policy, report, closing.clone()).await?;
    let (tls, policy) = (reloader.tls.subscribe(), reloader.policy.subscribe());
    let (revoked, mut revoked_peers) = mpsc::unbounded_channel();
    reloader.treat_jobs(&[]); // lists may be newer than the last broker
    let told = (audit.clone(), revoked);
    let serving = serve::serve(listener, tls, routes, policy, &quotas, told, closing);
    let mut serving = std::pin::pin!(serving);
    let mut status_updates = std::pin::pin!(status.run());
    let mut certificates = std::pin::pin!(reloader.watch_certificates(&status));
    tracing::info!(target: AUDIT, version = env!("CARGO_PKG_VERSION"), %addr, "ready");
    let started = Entry::own(Phase::Broker, OwnAction::BrokerStart);
    audit.note(&started.message(format_args!("{} on {addr}", env!("CARGO_PKG_VERSION"))));
    status.ready();
    let name = loop {
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            () = &mut status_updates => {}
            () = &mut certificates => {}
            Some(peer) = revoked_peers.recv() => reloader.treat_jobs(&[peer]),
            _ = hang_up.recv() => reload(&reloader, &status).await,
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
        }
    };
    tracing::info!(target: AUDIT, "{name}: ending; jobs go on");
    status.stopping();
    close.send_replace(true);
    serving.await?;
    audit.note(&Entry::own(Phase::Broker, OwnAction::BrokerStop).message(name));
    audit.close();
    Ok(())
}

/// A socket passed by systemd takes precedence over the configured address.
async fn listen(
    passed: Option<std::net::TcpListener>,
    addr: SocketAddr,
) -> Result<TcpListener, ServiceError> {
    match passed {
        Some(listener) => TcpListener::from_std(listener).map_err(ServiceError::PassedSocket),
        None => {
            TcpListener::bind(addr).await.map_err(|source| ServiceError::Listen { addr, source })
        }
    }
}

async fn reload(reloader: &Reloader, status: &Status) {
    status.reloading();
    let outcome = reloader.reload().await;
    if let Err(e) = &outcome {
        METRICS.reloads.add(Reload::Failed, 1);
        tracing::error!("reload failed, everything stays as it was: {}", one_line(e));
    }
    METRICS.reload_failed.set(u64::from(outcome.is_err()));
    if outcome.is_ok() {
        METRICS.reloads.add(Reload::Done, 1);
    }
    status.reloaded(outcome.as_ref().err().map(|e| e as &dyn std::error::Error));
}

/// Maximum bytes of a health or reflection request, which holds one name. tonic's default is 4 MiB.
const MAX_AUXILIARY_REQUEST: usize = 16 << 10;

/// The gRPC service, with the standard health and reflection services.
async fn routes(
    supervisor: Supervisor,
    policy: watch::Receiver<Policy>,
    report: watch::Receiver<TlsReport>,
    closing: watch::Receiver<bool>,
) -> Result<Routes, ServiceError> {
    let service = grpc::service(supervisor, policy, report, closing);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("job.v1.JobService", tonic_health::ServingStatus::Serving).await;
    let reflection = |builder: tonic_reflection::server::Builder<'static>| {
        builder
            .register_encoded_file_descriptor_set(job_api::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection(tonic_reflection::server::Builder::configure()).build_v1();
    let v1alpha = reflection(tonic_reflection::server::Builder::configure()).build_v1alpha();
    let (v1, v1alpha) = (v1.map_err(io::Error::other)?, v1alpha.map_err(io::Error::other)?);
    Ok(Routes::new(service)
        .add_service(health.max_decoding_message_size(MAX_AUXILIARY_REQUEST))
        .add_service(v1.max_decoding_message_size(MAX_AUXILIARY_REQUEST))
        .add_service(v1alpha.max_decoding_message_size(MAX_AUXILIARY_REQUEST))
        .prepare())
}

/// Root in many containers lacks the capability; shims start without it, see steps 2 and 9 in `shim/README.md`.
fn warn_of_missing_protection() {
    if let Ok(false) = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE) {
        tracing::warn!(
            "root lacks CAP_SYS_RESOURCE here: when memory runs out, the kernel may kill shims, too"
        );
    }
    if !job_shim::filter::is_available() {
        tracing::warn!(
            "the kernel has no filters of system calls (seccomp): shims run without one"
        );
    }
}

/// A connection and a shim take one or two descriptors each. The soft limit is 1024 only because of select(2); the
/// shim restores it for the job.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!("cannot raise the limit of descriptors: {e}");
    }
}
