//! The broker over connections that stay open.

use anyhow::{Context, Result};
use job_api::client::{Client, connect};
use job_api::v1::wait_job_request::Until;
use job_api::v1::{Job, JobSpec, StartJobRequest, StopJobRequest, WaitJobRequest};
use tokio::runtime::{Builder, Runtime};

use crate::site::{IDENTITIES, Site};

/// A runtime of one thread, as jobctl has.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot make a runtime")
}

/// A new connection, as the admin, who may do everything that is measured.
pub(crate) async fn client(site: &Site) -> Result<Client> {
    Ok(connect(&site.addr().to_string(), &site.credentials(IDENTITIES[0])?).await?)
}

/// Starts a job, and returns when its program runs.
pub(crate) async fn start(client: &mut Client, argv: &[&str]) -> Result<Job> {
    start_spec(client, spec(argv)).await
}

/// A job that asks for nothing but its command.
pub(crate) fn spec(argv: &[&str]) -> JobSpec {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    JobSpec { argv, ..Default::default() }
}

/// As [`start`].
pub(crate) async fn start_spec(client: &mut Client, spec: JobSpec) -> Result<Job> {
    let request = StartJobRequest { spec: Some(spec), ..Default::default() };
    let answer = client.start_job(request).await?;
    answer.into_inner().job.context("StartJob: no job")
}

/// Waits until the exit status is known, or until nothing is left.
pub(crate) async fn wait(client: &mut Client, id: &str, until: Until) -> Result<Job> {
    let request = WaitJobRequest { id: id.to_owned(), until: until.into(), timeout: None };
    let answer = client.wait_job(request).await?;
    answer.into_inner().job.context("WaitJob: no job")
}

/// Kills a job and waits until nothing of it is left.
pub(crate) async fn end(client: &mut Client, id: &str) -> Result<()> {
    let grace = Some(prost_types::Duration::default());
    client.stop_job(StopJobRequest { id: id.to_owned(), grace }).await?;
    wait(client, id, Until::End).await.map(drop)
}
