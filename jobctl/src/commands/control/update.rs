//! `pause`, `resume` and `update`.

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{
    GetJobRequest, Job, LimitChange, Limits, PauseJobRequest, ResumeJobRequest, UpdateJobRequest,
};

use crate::cli::{Format, Global, Jobs, TimeChange, Update};
use crate::client::calls::wire_duration;
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::client::lookup;
use crate::commands::control::stop::each;
use crate::failure::{Failure, Result, notice};
use crate::format::escape::escape;
use crate::format::limits;
use crate::print::{json, sink};

pub(crate) async fn pause(global: &Global, command: Jobs) -> Result<()> {
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let (_, result) = each(global, &command.jobs, async |word| {
        let id = lookup::resolve(&broker, word).await?;
        let call = |mut client: Client| {
            let request = PauseJobRequest { id: id.clone() };
            async move { client.pause_job(request).await }
        };
        broker.persistent(&format!("cannot pause {}", escape(word)), call).await?;
        Ok((id, ()))
    })
    .await;
    result
}

pub(crate) async fn resume(global: &Global, command: Jobs) -> Result<()> {
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let (_, result) = each(global, &command.jobs, async |word| {
        let id = lookup::resolve(&broker, word).await?;
        let call = |mut client: Client| {
            let request = ResumeJobRequest { id: id.clone() };
            async move { client.resume_job(request).await }
        };
        broker.persistent(&format!("cannot resume {}", escape(word)), call).await?;
        Ok((id, ()))
    })
    .await;
    result
}

pub(crate) async fn update(global: &Global, command: Update) -> Result<()> {
    let mut request = request(&command)?;
    let word = &command.which.job;
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    request.id = lookup::resolve(&broker, word).await?;
    let what = format!("cannot update {}", escape(word));
    let asked = GetJobRequest { id: request.id.clone() };
    let call = async |mut client: Client| client.get_job(asked).await;
    let before = broker.once(&what, call).await?.job.unwrap_or_default();
    // Not repeated after a loss: "+10m" twice is twenty.
    let call = async |mut client: Client| client.update_job(request).await;
    let after = broker.once(&what, call).await?;
    let job = after.job.unwrap_or_default();
    match global.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            sink::print(&json::shown("Job", &job, format)?)
        }
        Some(Format::Name) => sink::print(&format!("{}\n", job.id)),
        _ if global.quiet => Ok(()),
        _ => match changes(&before, &job) {
            text if text.is_empty() => {
                notice("nothing has changed: these limits it had already");
                Ok(())
            }
            text => sink::print(&text),
        },
    }
}

fn request(command: &Update) -> Result<UpdateJobRequest> {
    let options = &command.limits;
    let limits = options.limits()?;
    let (to, by) = match command.time {
        Some(TimeChange::To(time)) => (Some(time), None),
        Some(TimeChange::By(time)) => (None, Some(time)),
        None => (None, None),
    };
    let request = UpdateJobRequest {
        limits: Some(limits).filter(|limits| *limits != Limits::default()),
        time_limit: to.map(wire_duration).transpose()?,
        time_limit_extension: by.map(wire_duration).transpose()?,
        cpu_time_limit: options.cpu_time.map(wire_duration).transpose()?,
        output_limit_bytes: options.output_limit.unwrap_or_default(),
        ..UpdateJobRequest::default()
    };
    if request == UpdateJobRequest::default() {
        return Err(Failure::usage("nothing to change: no limit is given")
            .hint("e.g. --memory 512M, --cpus 2, --time +10m; \"jobctl update --help\" has all"));
    }
    Ok(UpdateJobRequest { force: command.force, ..request })
}

/// `memory.max: 64 MiB -> 512 MiB`, a line for each change that `before` does not know.
fn changes(before: &Job, after: &Job) -> String {
    let words = |change: &LimitChange, value: &str| match value {
        "" => "not set".to_owned(),
        value => escape(&limits::in_words(&change.name, value)).into_owned(),
    };
    let new = after.changes.iter().filter(|change| !before.changes.contains(change));
    new.map(|change| {
        let (from, to) = (words(change, &change.from), words(change, &change.to));
        let later = if is_pending(after, change) {
            " (recorded; the job's shim does not answer, and takes it when it does)"
        } else {
            ""
        };
        format!("{}: {from} -> {to}{later}\n", escape(&change.name))
    })
    .collect()
}

/// Whether the shim enforces this limit and has not acknowledged the change yet.
fn is_pending(job: &Job, change: &LimitChange) -> bool {
    let limit = job.limits.iter().find(|limit| limit.name == change.name);
    let is_live = matches!(job.state(), State::Running | State::Paused | State::Stopping);
    let by_shim = ["time_limit", "cpu_time_limit", "output_limit"].contains(&change.name.as_str());
    is_live && by_shim && limit.is_some_and(|limit| limit.applied.as_ref() != Some(&change.to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn asked(words: &[&str]) -> Result<UpdateJobRequest> {
        let words = ["jobctl", "update", "web"].iter().chain(words);
        match Cli::try_parse_from(words).expect("parses").command {
            Command::Update(command) => request(&command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_given_is_asked() {
        let request = asked(&["--time", "+10m", "-m", "512M"]).expect("something is given");
        let expected = UpdateJobRequest {
            limits: Some(Limits { memory_max_bytes: Some(512 << 20), ..Limits::default() }),
            time_limit_extension: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
            ..UpdateJobRequest::default()
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn an_update_that_changes_nothing_is_wrong_usage() {
        assert!(asked(&[]).is_err());
        assert!(asked(&["--force"]).is_err());
    }

    #[test]
    fn the_changes_of_this_update_are_told_in_words() {
        let change = |name: &str, from: &str, to: &str| LimitChange {
            name: name.into(),
            from: from.into(),
            to: to.into(),
            ..LimitChange::default()
        };
        let old = change("memory.max", "max", "67108864");
        let before = Job { changes: vec![old.clone()], ..Job::default() };
        let after = Job {
            changes: vec![
                old,
                change("memory.max", "67108864", "536870912"),
                change("cpu_time_limit", "", "10s"),
            ],
            ..Job::default()
        };
        assert_eq!(
            changes(&before, &after),
            "memory.max: 64 MiB -> 512 MiB\ncpu_time_limit: not set -> 10s\n"
        );
        assert_eq!(changes(&after, &after), "");
    }
}
