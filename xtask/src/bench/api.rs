//! A client of the broker over connections that stay open. It must not measure anything itself.

use anyhow::{Context, Result};
use job_api::client::{Client, connect};
use job_api::v1::wait_job_request::Until;
use job_api::v1::{Job, JobSpec, StartJobRequest, StopJobRequest, WaitJobRequest};
use tokio::runtime::{Builder, Runtime};

use crate::site::{IDENTITIES, Site};

/// A runtime of one thread, as jobctl's.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot make a runtime")
}

/// A new connection as the admin, whom the policy permits every measured call.
pub(crate) async fn client(site: &Site) -> Result<Client> {
    Ok(connect(&site.addr().to_string(), &site.credentials(IDENTITIES[0])?).await?)
}

/// Starts a job. Returns when its program runs.
pub(crate) async fn start(client: &mut Client, argv: &[&str]) -> Result<Job> {
    start_spec(client, spec(argv)).await
}

/// A spec with a command and no options.
pub(crate) fn spec(argv: &[&str]) -> JobSpec {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    JobSpec { argv, ..Default::default() }
}

/// As [`start`], of a complete spec.
pub(crate) async fn start_spec(client: &mut Client, spec: JobSpec) -> Result<Job> {
    let request = StartJobRequest { spec: Some(spec), ..Default::default() };
    let answer = client.start_job(request).await?;
    answer.into_inner().job.context("StartJob: no job")
}

/// Waits until the exit status is known, or until the job's cgroup is gone.
pub(crate) async fn wait(client: &mut Client, id: &str, until: Until) -> Result<Job> {
    let request = WaitJobRequest { id: id.to_owned(), until: until.into(), timeout: None };
    let answer = client.wait_job(request).await?;
    answer.into_inner().job.context("WaitJob: no job")
}

/// Kills a job. Returns when its cgroup is gone.
pub(crate) async fn end(client: &mut Client, id: &str) -> Result<()> {
    let grace = Some(prost_types::Duration::default());
    client.stop_job(StopJobRequest { id: id.to_owned(), grace }).await?;
    wait(client, id, Until::End).await.map(drop)
}
