//! Runs one command as a job, without the network, prints what it wrote, and exits as it did:
//!
//! ```text
//! sudo target/debug/examples/run target/x86_64-unknown-linux-musl/shim/job-shim sh -c 'id; exit 7'
//! ```

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;

use job_broker::action::{Delete, Logs};
use job_broker::config::{Jobs, Retention};
use job_broker::{
    Audit, Identity, IsolationRules, JobId, JobRequest, Kind, LimitTables, Policy, Quotas, Range,
    Request, Supervisor, Timeline,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let shim = arguments.next().ok_or("usage: run SHIM COMMAND [ARGUMENT...]")?;
    let home = std::env::temp_dir().join(format!("job-broker-example-{}", std::process::id()));
    let config = Jobs {
        state_dir: home.join("state"),
        run_dir: home.join("run"),
        shim: shim.into(),
        shim_user: "64998".into(), // a number, for hosts without the account job-shim
        cgroup: Some(format!("job-broker-example-{}", std::process::id()).into()),
        ..Jobs::default()
    };
    let supervisor = Supervisor::open(
        config,
        (LimitTables::default(), IsolationRules::default()),
        Retention::default(),
        Arc::new(Quotas::default()),
        || Ok(Audit::default()),
    )
    .await?;

    let caller = Policy::default().caller(Identity::new("example")?);
    let request = JobRequest { argv: arguments.collect(), ..JobRequest::default() };
    let call = supervisor.admit(&caller, Kind::Start(0))?;
    let plan = caller.may_start(request, &supervisor.defaults());
    let plan = plan.map_err(|refusal| format!("{refusal:?}"))?;
    let started = supervisor.start(plan, &Request::default(), call, Timeline::begin(None)).await?;
    let id: JobId = started.id();

    let job = supervisor.find::<Logs>(&caller, id).await?.ok_or("the job is gone")?;
    let mut output = supervisor.output(&job, Range { follow: true, ..Range::default() }).await?;
    while let Some(piece) = output.next().await? {
        std::io::stdout().write_all(&piece.data)?;
    }
    let end = job.subject().snapshot();
    let status = end.exited.map(|exited| ExitStatus::from_raw(exited.wait_status));
    match status {
        Some(status) => eprintln!("job {id} ended: {status}"),
        None => eprintln!("job {id} ended without an exit status: {:?}", end.failure),
    }

    let job = supervisor.find::<Delete>(&caller, id).await?.ok_or("the job is gone")?;
    supervisor.delete(&job).await?;
    std::fs::remove_dir(supervisor.cgroup().path())?;
    drop(supervisor);
    std::fs::remove_dir_all(home)?;
    // As shells have it: 128+N for signal N.
    let code = status.and_then(|status| status.code().or(status.signal().map(|n| 128 + n)));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
