//! One canary over the API: start, watch, stop, remove.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use job_api::v1::stream_output_response::Kind;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{
    DeleteJobRequest, GetJobRequest, Job, JobSpec, OutputStream, PauseJobRequest, ResumeJobRequest,
    StartJobRequest, StopJobRequest, StreamOutputRequest, WaitJobRequest,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use super::canary::{Canary, Evidence, Reading, Step, Unmeasured};
use crate::client::connection::Broker;
use crate::failure::{is_transient, notice, rejection};

type Outcome<T> = std::result::Result<T, Unmeasured>;

/// Every canary's deadline, so that none stays where we cannot stop it.
const DEADLINE: prost_types::Duration = prost_types::Duration { seconds: 60, nanos: 0 };
/// Between two readings while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The longest time from the kill to the removal.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of standard error that are kept of a canary.
const MAX_STDERR: usize = 200;

/// What all canaries of one check share.
pub(crate) struct Runner {
    broker: Broker,
    directory: String,
    /// Tells this check's canaries from those of others: names are unique.
    run: String,
    interrupted: watch::Receiver<bool>,
}

impl Runner {
    pub(crate) fn new(
        broker: Broker,
        directory: String,
        interrupted: watch::Receiver<bool>,
    ) -> Runner {
        let run = uuid::Uuid::new_v4().simple().to_string();
        Runner { broker, directory, run: run[..8].to_owned(), interrupted }
    }

    /// The hint for a user who interrupts the check.
    pub(crate) fn how_to_remove(&self) -> String {
        let run = &self.run;
        format!("left; to remove the canaries: jobctl rm -f $(jobctl ps -aq -l selfcheck={run})")
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        *self.interrupted.borrow()
    }

    async fn interrupted(&self) {
        let mut interrupted = self.interrupted.clone();
        if interrupted.wait_for(|is_so| *is_so).await.is_err() {
            std::future::pending().await
        }
    }

    /// One call; what the broker refuses is a finding, not a failure.
    async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Outcome<T> {
        match call.await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if is_transient(&status) => {
                let failure = self.broker.failure("cannot check", &status).await;
                Err(Unmeasured::Lost(Box::new(failure)))
            }
            Err(status) if is_refusal(&status) => Err(Unmeasured::Refused(rejection(&status))),
            Err(status) => Err(Unmeasured::Failed(rejection(&status))),
        }
    }

    fn spec(&self, name: &str, script: &str) -> JobSpec {
        let argv = ["/bin/sh", "-c", script, "sh", &self.directory];
        JobSpec {
            argv: argv.map(String::from).to_vec(),
            name: format!("selfcheck-{name}-{}", self.run),
            labels: BTreeMap::from([("selfcheck".to_owned(), self.run.clone())]),
            working_directory: "/".into(),
            time_limit: Some(DEADLINE),
            ..JobSpec::default()
        }
    }

    async fn start(&self, spec: JobSpec) -> Outcome<String> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let request = StartJobRequest { spec: Some(spec), request_id, ..Default::default() };
        let mut client = self.broker.client.clone();
        let answer = self.call(client.start_job(request)).await?;
        Ok(answer.job.unwrap_or_default().id)
    }

    async fn job(&self, id: &str) -> Outcome<Job> {
        let mut client = self.broker.client.clone();
        let answer = self.call(client.get_job(GetJobRequest { id: id.to_owned() })).await?;
        Ok(answer.job.unwrap_or_default())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Outcome<()> {
        let request = StopJobRequest { id: id.to_owned(), grace: wire(grace) };
        let mut client = self.broker.client.clone();
        self.call(client.stop_job(request)).await.map(drop)
    }

    async fn wait(&self, id: &str, until: Until, at_most: Duration) -> Outcome<()> {
        let until = until.into();
        let request = WaitJobRequest { id: id.to_owned(), until, timeout: wire(at_most) };
        let mut client = self.broker.client.clone();
        self.call(client.wait_job(request)).await.map(drop)
    }

    /// Nothing of it stays.
    async fn remove(&self, id: &str) -> Outcome<()> {
        self.stop(id, Duration::ZERO).await?;
        self.wait(id, Until::End, REMOVE_TIMEOUT).await?;
        let mut client = self.broker.client.clone();
        self.call(client.delete_job(DeleteJobRequest { id: id.to_owned() })).await.map(drop)
    }

    /// The beginning of its standard error, one line; empty where that cannot be had.
    async fn said(&self, id: &str) -> String {
        let stream = OutputStream::Err.into();
        let request = StreamOutputRequest { id: id.to_owned(), stream, ..Default::default() };
        let mut client = self.broker.client.clone();
        let Ok(answer) = client.stream_output(request).await else { return String::new() };
        let (mut stream, mut said) = (answer.into_inner(), Vec::new());
        while let Ok(Some(message)) = stream.message().await {
            match message.kind {
                Some(Kind::Chunk(chunk)) if said.len() < MAX_STDERR => said.extend(chunk.data),
                Some(Kind::Chunk(_)) => break,
                Some(Kind::Trailer(_) | Kind::Started(_)) | None => {}
            }
        }
        said.truncate(MAX_STDERR);
        String::from_utf8_lossy(&said).trim_end().to_owned()
    }
}

fn wire(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

/// The broker takes no such job here, as against one that could not be run.
fn is_refusal(status: &Status) -> bool {
    let step = status
        .get_details_error_info()
        .filter(|info| info.reason == "START_FAILED")
        .map(|info| info.metadata.get("step").cloned().unwrap_or_default());
    match status.code() {
        Code::FailedPrecondition => step.is_none_or(|step| step == "limits"),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => true,
        _ => false,
    }
}

/// Starts it, does what its course says, and removes it, whatever comes.
pub(crate) async fn measure(runner: &Runner, canary: &Canary) -> Outcome<Evidence> {
    let mut jobs = Vec::new();
    let outcome = observed(runner, canary, &mut jobs).await;
    for id in jobs {
        match runner.remove(&id).await {
            Ok(()) => {}
            Err(Unmeasured::Refused(why) | Unmeasured::Failed(why)) => {
                notice(&format!("cannot remove the canary {id}: {why}"));
            }
            Err(_) => notice(&format!("cannot remove the canary {id}; it ends at its deadline")),
        }
    }
    outcome
}

async fn observed(runner: &Runner, canary: &Canary, jobs: &mut Vec<String>) -> Outcome<Evidence> {
    if runner.is_interrupted() {
        return Err(Unmeasured::Interrupted);
    }
    // Starts are not given up half-way: what came of them would stay.
    let mut neighbour = None;
    if let Some(script) = canary.beside {
        let name = format!("{}-beside", canary.name);
        let id = runner.start(runner.spec(&name, script)).await?;
        jobs.push(id.clone());
        neighbour = Some(id);
    }
    let mut spec = runner.spec(canary.name, canary.script);
    (canary.limits)(&mut spec, &runner.directory);
    let id = runner.start(spec).await?;
    jobs.push(id.clone());
    let steps = async {
        let mut evidence = followed(runner, &id, canary.steps).await?;
        if let Some(neighbour) = neighbour {
            evidence.beside = Some(runner.job(&neighbour).await?);
        }
        Ok(evidence)
    };
    tokio::select! {
        evidence = steps => evidence,
        () = runner.interrupted() => Err(Unmeasured::Interrupted),
    }
}

async fn followed(runner: &Runner, id: &str, steps: &[Step]) -> Outcome<Evidence> {
    let began = Instant::now();
    let mut evidence = Evidence::default();
    for step in steps {
        if let Step::Sleep(ms) = step {
            sleep(Duration::from_millis(*ms)).await;
            continue;
        }
        let job = done(runner, id, step).await?;
        evidence.readings.push(Reading { at: began.elapsed(), job });
    }
    let last = evidence.readings.last().map(|reading| &reading.job);
    if last.is_some_and(|job| job.exit_code.is_some_and(|code| code != 0)) {
        evidence.said = runner.said(id).await;
    }
    Ok(evidence)
}

/// Does it and reads the job.
async fn done(runner: &Runner, id: &str, step: &Step) -> Outcome<Job> {
    let mut client = runner.broker.client.clone();
    match step {
        Step::Sleep(_) | Step::Read => {}
        Step::Until(is_so, ms) => return until(runner, id, *is_so, *ms).await,
        Step::Pause => {
            runner.call(client.pause_job(PauseJobRequest { id: id.to_owned() })).await?;
        }
        Step::Resume => {
            runner.call(client.resume_job(ResumeJobRequest { id: id.to_owned() })).await?;
        }
        Step::Stop(ms) => runner.stop(id, Duration::from_millis(*ms)).await?,
        Step::Exit(ms) => runner.wait(id, Until::Exit, Duration::from_millis(*ms)).await?,
        Step::End(ms) => runner.wait(id, Until::End, Duration::from_millis(*ms)).await?,
    }
    runner.job(id).await
}

async fn until(runner: &Runner, id: &str, is_so: fn(&Job) -> bool, ms: u64) -> Outcome<Job> {
    let began = Instant::now();
    loop {
        let job = runner.job(id).await?;
        if is_so(&job) || began.elapsed() >= Duration::from_millis(ms) {
            return Ok(job);
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use job_api::ERROR_DOMAIN;
    use tonic_types::ErrorDetails;

    fn start_failed(step: &str) -> Status {
        let metadata = HashMap::from([("step".to_owned(), step.to_owned())]);
        let details = ErrorDetails::with_error_info("START_FAILED", ERROR_DOMAIN, metadata);
        Status::with_error_details(Code::FailedPrecondition, "no", details)
    }

    #[test]
    fn a_limit_that_the_host_lacks_is_refused_and_a_missing_shell_is_not() {
        assert!(is_refusal(&Status::failed_precondition("no controller memory")));
        assert!(is_refusal(&Status::invalid_argument("above the ceiling")));
        assert!(is_refusal(&start_failed("limits")));
        assert!(!is_refusal(&start_failed("exec")));
        assert!(!is_refusal(&Status::resource_exhausted("too many jobs")));
    }
}
