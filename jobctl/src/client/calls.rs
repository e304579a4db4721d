//! Calls that several commands make, and what they put on the wire.

use std::time::Duration;

use job_api::client::Client;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{Job, WaitJobRequest, WhoAmIRequest, WhoAmIResponse};

use super::connection::Broker;
use crate::failure::{Failure, Result};
use crate::format::escape::escape;

/// The job when it has come as far, however often the connection is lost meanwhile.
pub(crate) async fn wait(broker: &Broker, id: &str, until: Until) -> Result<Job> {
    let request = WaitJobRequest { id: id.to_owned(), until: until.into(), timeout: None };
    let what = format!("cannot wait for {}", escape(id));
    loop {
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.wait_job(request).await }
        };
        let answer = broker.persistent(&what, call).await?;
        if answer.done {
            return Ok(answer.job.unwrap_or_default());
        }
    }
}

/// Who the caller is to the broker.
pub(crate) async fn identity(broker: &Broker) -> Result<WhoAmIResponse> {
    let call = async |mut client: Client| client.who_am_i(WhoAmIRequest {}).await;
    broker.once("cannot ask who you are", call).await
}

pub(crate) fn wire_duration(duration: Duration) -> Result<prost_types::Duration> {
    prost_types::Duration::try_from(duration)
        .map_err(|_| Failure::usage("a duration is longer than the protocol can say"))
}
