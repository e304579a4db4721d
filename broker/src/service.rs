//! The program: command line, start, and a clean end that leaves every job running.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use caps::{CapSet, Capability};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tracing_subscriber::EnvFilter;

use crate::authorize::Policy;
use crate::config::{Config, ConfigError};
use crate::grpc;
use crate::identity::Identity;
use crate::jobs::{Supervisor, SupervisorError};
use crate::serve;
use crate::serve::tls::{Tls, TlsError};

/// Runs commands for remote users who are not trusted with a shell. Runs as root, usually as a
/// systemd service. SIGTERM ends it; its jobs go on, and the next one takes them over.
#[derive(Debug, Parser)]
#[command(name = "job-broker", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/job-broker/config.toml")]
    config: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("it must run as root: it makes cgroups and gives up privileges for its jobs")]
    NotRoot,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("admins: {0}")]
    Admin(String),
    #[error("{0} {1}")]
    Limits(&'static str, String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: std::net::SocketAddr, source: io::Error },
    #[error("cannot run: {0}")]
    Io(#[from] io::Error),
}

/// The program `job-broker`. Exit status 0 after SIGTERM or SIGINT, 1 if it could not run, 2 for
/// a wrong command line.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("JOB_BROKER_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("job-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), ServiceError> {
    let config = Config::load(&arguments.config)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(ServiceError::NotRoot);
    }
    raise_descriptor_limit();
    warn_of_missing_capability();
    crate::sys::keep_freed_memory();
    // One thread for the jobs; connections have their own, see `serve`.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve_until_signal(config));
    runtime.shutdown_background(); // a thread in a system call of a job must not hold the end up
    ended
}

async fn serve_until_signal(config: Config) -> Result<(), ServiceError> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let tls = Tls::load(&config.tls)?;
    let admins: Result<Vec<_>, _> = config.admins.iter().map(|name| Identity::new(name)).collect();
    let policy = Policy::new(admins.map_err(ServiceError::Admin)?);
    let limits = config.limits.tables().map_err(|(key, fault)| ServiceError::Limits(key, fault))?;
    let supervisor = Supervisor::open(config.jobs, limits, config.retention).await?;
    let addr = config.listen;
    let listener =
        TcpListener::bind(addr).await.map_err(|source| ServiceError::Listen { addr, source })?;
    let (close, closing) = watch::channel(false);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), addr = %listener.local_addr()?, "ready");
    let routes = routes(supervisor, policy, closing.clone()).await?;
    let serving = serve::serve(listener, tls, routes, closing);
    let mut serving = std::pin::pin!(serving);
    let name = tokio::select! {
        ended = &mut serving => return Ok(ended?),
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!("{name}: ending; jobs go on");
    close.send_replace(true);
    serving.await?;
    Ok(())
}

/// The contract, and beside it the standard services for health and reflection.
async fn routes(
    supervisor: Supervisor,
    policy: Policy,
    closing: watch::Receiver<bool>,
) -> Result<Routes, ServiceError> {
    let service = grpc::service(supervisor, policy, closing);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("job.v1.JobService", tonic_health::ServingStatus::Serving).await;
    let reflection = |builder: tonic_reflection::server::Builder<'static>| {
        builder
            .register_encoded_file_descriptor_set(job_api::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection(tonic_reflection::server::Builder::configure()).build_v1();
    let v1alpha = reflection(tonic_reflection::server::Builder::configure()).build_v1alpha();
    Ok(Routes::new(service)
        .add_service(health)
        .add_service(v1.map_err(io::Error::other)?)
        .add_service(v1alpha.map_err(io::Error::other)?)
        .prepare())
}

/// Root in many containers lacks it; shims start all the same, see step 2 in `shim/README.md`.
fn warn_of_missing_capability() {
    if let Ok(false) = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE) {
        tracing::warn!(
            "root lacks CAP_SYS_RESOURCE here: when memory runs out, the kernel may kill shims, too"
        );
    }
}

/// A connection and a shim are a descriptor or two each; the soft limit is 1024 by tradition only
/// (select(2)), and jobs get it back from their shim.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!("cannot raise the limit of descriptors: {e}");
    }
}
