//! `stop`, `kill`, `rm` and `prune`.

use std::time::SystemTime;

use job_api::client::Client;
use job_api::signals::signal_name;
use job_api::v1::job::State;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{DeleteJobRequest, ListJobsRequest, SignalJobRequest, StopJobRequest};
use tonic::Code;

use crate::cli::{Global, Kill, Prune, Rm, Stop};
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::client::{calls, lookup};
use crate::exit;
use crate::failure::{Failure, Result, notice};
use crate::format::escape::escape;
use crate::print::sink;

/// Runs `act` for each job, goes on after a failure, and prints the ids of those that succeeded.
pub(crate) async fn each<T>(
    global: &Global,
    words: &[String],
    act: impl AsyncFn(&str) -> Result<(String, T)>,
) -> (Vec<T>, Result<()>) {
    let (mut done, mut result) = (Vec::new(), Ok(()));
    for word in words {
        let acted = match act(word).await {
            Ok((id, acted)) if global.quiet => Ok((id, acted)),
            Ok((id, acted)) => sink::print(&format!("{id}\n")).map(|()| (id, acted)),
            Err(failure) => Err(failure),
        };
        match acted {
            Ok((_, acted)) => done.push(acted),
            Err(failure) => result = Err(already_printed(failure)),
        }
    }
    (done, result)
}

/// Says it now, and keeps the exit status for the end.
fn already_printed(failure: Failure) -> Failure {
    failure.print();
    Failure::already_printed(exit::of_failure(&failure, false))
}

pub(crate) async fn stop(global: &Global, command: Stop) -> Result<()> {
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let grace = command.grace.map(calls::wire_duration).transpose()?;
    let (ids, mut result) = each(global, &command.jobs, async |word| {
        let id = lookup::resolve(&broker, word).await?;
        ask_to_stop(&broker, word, StopJobRequest { id: id.clone(), grace }).await?;
        Ok((id.clone(), id))
    })
    .await;
    if !command.no_wait {
        for id in ids {
            if let Err(failure) = calls::wait(&broker, &id, Until::End).await {
                result = Err(already_printed(failure));
            }
        }
    }
    result
}

async fn ask_to_stop(broker: &Broker, word: &str, request: StopJobRequest) -> Result<()> {
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.stop_job(request).await }
    };
    broker.persistent(&format!("cannot stop {}", escape(word)), call).await.map(drop)
}

pub(crate) async fn kill(global: &Global, command: Kill) -> Result<()> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let signal = command.signal;
    let (_, result) = each(global, &command.jobs, async |word| {
        let id = lookup::resolve(&broker, word).await?;
        let request = SignalJobRequest { id: id.clone(), signal };
        let what = format!("cannot send {} to {}", signal_name(signal), escape(word));
        let call = async |mut client: Client| client.signal_job(request).await;
        broker.once(&what, call).await?;
        Ok((id, ()))
    })
    .await;
    result
}

pub(crate) async fn rm(global: &Global, command: Rm) -> Result<()> {
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let (_, result) = each(global, &command.jobs, async |word| {
        let id = lookup::resolve(&broker, word).await?;
        if command.force {
            let grace = Some(prost_types::Duration::default());
            ask_to_stop(&broker, word, StopJobRequest { id: id.clone(), grace }).await?;
            calls::wait(&broker, &id, Until::End).await?;
        }
        delete(&broker, word, &id).await.map_err(|failure| match failure.code {
            Some(Code::FailedPrecondition) => {
                failure.hint("\"jobctl rm --force\" kills it first, \"jobctl stop\" asks it to end")
            }
            _ => failure,
        })?;
        Ok((id, ()))
    })
    .await;
    result
}

async fn delete(broker: &Broker, word: &str, id: &str) -> Result<()> {
    let request = DeleteJobRequest { id: id.to_owned() };
    let call = async |mut client: Client| client.delete_job(request).await;
    broker.once(&format!("cannot remove {}", escape(word)), call).await.map(drop)
}

pub(crate) async fn prune(global: &Global, command: Prune) -> Result<()> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let before = SystemTime::now().checked_sub(command.older_than);
    let request = ListJobsRequest {
        states: vec![State::Finished.into(), State::Lost.into()],
        // An admin sees everybody's.
        owner: calls::identity(&broker).await?.identity,
        ended_before: Some(before.unwrap_or(SystemTime::UNIX_EPOCH).into()),
        ..Default::default()
    };
    let old = lookup::list(&broker, request, None).await?;
    let ids: Vec<String> = old.into_iter().map(|job| job.id).collect();
    let (gone, result) = each(global, &ids, async |id| {
        if !command.dry_run {
            match delete(&broker, id, id).await {
                // Somebody else was faster.
                Err(failure) if failure.code == Some(Code::NotFound) => {}
                deleted => deleted?,
            }
        }
        Ok((id.to_owned(), ()))
    })
    .await;
    if !global.quiet {
        let jobs = if gone.len() == 1 { "job" } else { "jobs" };
        let done = if command.dry_run { "would be removed" } else { "removed" };
        notice(&format!("{} {jobs} {done}", gone.len()));
    }
    result
}
