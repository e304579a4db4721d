//! Calls of the contract that many tests make.

use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::stream_output_response::Kind;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{
    GetJobRequest, Job, JobSpec, Limit, Limits, OutputStream, PauseJobRequest, ResumeJobRequest,
    StartJobRequest, StopJobRequest, StreamOutputRequest, StreamOutputResponse, UpdateJobRequest,
    Usage, WaitJobRequest,
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::wait::{TIMEOUT, eventually};

/// A job's output, and the job as the trailer shows it.
#[derive(Debug, Default)]
pub struct Output {
    /// All of it.
    pub stdout: Vec<u8>,
    /// All of it.
    pub stderr: Vec<u8>,
    /// From the trailer.
    pub job: Job,
}

/// A specification of this command alone.
pub fn spec(argv: &[&str]) -> JobSpec {
    JobSpec { argv: argv.iter().map(|arg| (*arg).to_owned()).collect(), ..JobSpec::default() }
}

/// The same for a script of sh(1).
pub fn script(text: &str) -> JobSpec {
    spec(&["sh", "-c", text])
}

/// A script of sh(1) with these limits.
pub fn limited(text: &str, limits: Limits) -> JobSpec {
    JobSpec { limits: Some(limits), ..script(text) }
}

/// A duration of the contract.
pub fn duration(time: Duration) -> prost_types::Duration {
    time.try_into().expect("it is short")
}

/// Starts a job.
///
/// # Errors
/// The broker's.
pub async fn try_start(client: &mut Client, spec: JobSpec) -> Result<Job, Status> {
    let request =
        StartJobRequest { spec: Some(spec), request_id: String::new(), ..Default::default() };
    let answer = client.start_job(request).await?.into_inner();
    Ok(answer.job.expect("an answer has a job"))
}

/// The same as the request of this id.
///
/// # Errors
/// The refusal.
///
/// # Panics
/// When the answer has no job.
pub async fn try_request(client: &mut Client, spec: JobSpec, id: &str) -> Result<Job, Status> {
    let request = StartJobRequest { spec: Some(spec), request_id: id.into(), ..Default::default() };
    let answer = client.start_job(request).await?.into_inner();
    Ok(answer.job.expect("an answer has a job"))
}

/// The word for programs in a refusal; empty where there is none.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Starts a job that has to start.
///
/// # Panics
/// When it does not.
pub async fn start(client: &mut Client, spec: JobSpec) -> Job {
    try_start(client, spec).await.expect("the job starts")
}

/// The job as it is now.
///
/// # Panics
/// When there is none.
pub async fn job(client: &mut Client, id: &str) -> Job {
    let answer = client.get_job(GetJobRequest { id: id.into() }).await;
    answer.expect("there is such a job").into_inner().job.expect("an answer has a job")
}

/// The job once nothing of it is left.
///
/// # Panics
/// After [`TIMEOUT`].
pub async fn ended(client: &mut Client, id: &str) -> Job {
    wait(client, id, Until::End).await
}

/// The job once its exit status is known.
///
/// # Panics
/// After [`TIMEOUT`].
pub async fn exited(client: &mut Client, id: &str) -> Job {
    wait(client, id, Until::Exit).await
}

async fn wait(client: &mut Client, id: &str, until: Until) -> Job {
    let timeout = Some(duration(TIMEOUT));
    let request = WaitJobRequest { id: id.into(), until: until.into(), timeout };
    let answer = client.wait_job(request).await.expect("there is such a job").into_inner();
    let job = answer.job.expect("an answer has a job");
    assert!(answer.done, "it had not ended after {TIMEOUT:?}: {job:?}");
    job
}

/// The job once it is as it is waited for: what no call waits for by itself.
///
/// # Panics
/// After [`TIMEOUT`], with the job as it is then.
pub async fn becomes(client: &mut Client, id: &str, is_it: impl Fn(&Job) -> bool) -> Job {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let job = job(client, id).await;
        if is_it(&job) {
            return job;
        }
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} in vain: {job:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
    }
}

/// Stops a job with this grace.
///
/// # Panics
/// When there is none.
pub async fn stop(client: &mut Client, id: &str, grace: Duration) {
    let request = StopJobRequest { id: id.into(), grace: Some(duration(grace)) };
    client.stop_job(request).await.expect("there is such a job");
}

/// Changes a job's limits.
///
/// # Errors
/// The broker's.
pub async fn update(client: &mut Client, request: UpdateJobRequest) -> Result<Job, Status> {
    let answer = client.update_job(request).await?.into_inner();
    Ok(answer.job.expect("an answer has a job"))
}

/// The same of a broker that may not have reached the job's shim yet, or whose shim is slow: as long
/// as it says so, it is asked again. For what may be said twice.
///
/// # Panics
/// When the broker refuses.
pub async fn updated(client: &mut Client, request: UpdateJobRequest) -> Job {
    let ask = async || match update(client, request.clone()).await {
        Err(status) if status.code() == Code::Unavailable => None,
        answer => Some(answer.expect("the job takes its new limits")),
    };
    eventually("the job's shim is reached", ask).await
}

/// Gives a running job a deadline so long from now, and answers with its new time limit.
///
/// # Panics
/// When there is no such job, or it does not run.
pub async fn end_in(client: &mut Client, id: &str, time: Duration) -> Duration {
    let limit = usage_and_time(client, id).await.1 + time;
    let time_limit = Some(duration(limit));
    updated(client, UpdateJobRequest { id: id.into(), time_limit, ..Default::default() }).await;
    limit
}

/// Pauses a job.
///
/// # Errors
/// The broker's.
pub async fn pause(client: &mut Client, id: &str) -> Result<Job, Status> {
    let answer = client.pause_job(PauseJobRequest { id: id.into() }).await?.into_inner();
    Ok(answer.job.expect("an answer has a job"))
}

/// Lets it go on.
///
/// # Errors
/// The broker's.
pub async fn resume(client: &mut Client, id: &str) -> Result<Job, Status> {
    let answer = client.resume_job(ResumeJobRequest { id: id.into() }).await?.into_inner();
    Ok(answer.job.expect("an answer has a job"))
}

/// What a job uses now, or has used.
///
/// # Panics
/// When there is no such job, or its usage is not told.
pub async fn usage(client: &mut Client, id: &str) -> Usage {
    job(client, id).await.usage.expect("a job has its usage")
}

/// The same, and for how long its program has run: once its shim has told the broker since when.
///
/// # Panics
/// When it does not.
pub async fn usage_and_time(client: &mut Client, id: &str) -> (Usage, Duration) {
    let time = |job: &Job| job.usage.as_ref().and_then(|usage| usage.wall_time);
    let job = becomes(client, id, |job| time(job).is_some()).await;
    let time = time(&job).and_then(|time| time.try_into().ok()).expect("it is not negative");
    (job.usage.expect("a job has its usage"), time)
}

/// From the start of a job's program to its end, in seconds.
///
/// # Panics
/// When it has not ended, or never ran.
pub fn lasted(job: &Job) -> f64 {
    let seconds = |time: Option<prost_types::Timestamp>| {
        let time = time.expect("it ran and has ended");
        time.seconds as f64 + f64::from(time.nanos) / 1e9
    };
    seconds(job.ended_at) - seconds(job.started_at)
}

/// The limit of this name, as a job shows it.
///
/// # Panics
/// When it shows none.
#[track_caller]
pub fn limit<'a>(job: &'a Job, name: &str) -> &'a Limit {
    let found = job.limits.iter().find(|limit| limit.name == name);
    found.unwrap_or_else(|| panic!("no limit {name}: {:#?}", job.limits))
}

/// All output of a job, to its end.
///
/// # Panics
/// When the stream breaks, leaves a gap, or does not go on for [`TIMEOUT`].
pub async fn output(client: &mut Client, id: &str) -> Output {
    let request = StreamOutputRequest { id: id.into(), follow: true, ..Default::default() };
    read(client, request).await
}

/// The part of a job's output that is asked for.
///
/// # Panics
/// When the stream breaks, leaves a gap, or does not go on for [`TIMEOUT`].
pub async fn read(client: &mut Client, request: StreamOutputRequest) -> Output {
    try_read(client, request).await.expect("the stream does not break")
}

/// The part of a job's output that is asked for.
///
/// # Errors
/// The broker's.
///
/// # Panics
/// On a gap between chunks, when the stream ends without its trailer, and when nothing of it comes
/// for [`TIMEOUT`].
pub async fn try_read(client: &mut Client, request: StreamOutputRequest) -> Result<Output, Status> {
    let late = "a stream goes on, or ends with its job";
    let answer = timeout(TIMEOUT, client.stream_output(request)).await.expect(late);
    whole(&mut answer?.into_inner()).await
}

/// What is left of a stream, to its end.
///
/// # Errors
/// The broker's.
///
/// # Panics
/// As [`try_read`]; and when the job is said to have started, which is RunJob's first word.
pub async fn whole(stream: &mut Streaming<StreamOutputResponse>) -> Result<Output, Status> {
    let late = "a stream goes on, or ends with its job";
    let mut output = Output::default();
    let mut next = [None, None];
    while let Some(message) = timeout(TIMEOUT, stream.message()).await.expect(late)? {
        match message.kind.expect("a message has a kind") {
            Kind::Chunk(chunk) => {
                let is_err = chunk.stream() == OutputStream::Err;
                let next = &mut next[usize::from(is_err)];
                assert_eq!(chunk.offset, next.unwrap_or(chunk.offset), "a chunk goes on");
                *next = Some(chunk.offset + chunk.data.len() as u64);
                let bytes = if is_err { &mut output.stderr } else { &mut output.stdout };
                bytes.extend_from_slice(&chunk.data);
            }
            Kind::Trailer(trailer) => {
                output.job = trailer.job.expect("a trailer has a job");
                let after = stream.message().await?;
                assert!(after.is_none(), "the trailer is the last message");
                return Ok(output);
            }
            Kind::Started(job) => panic!("{} has started before", job.id),
        }
    }
    panic!("the stream ended without its trailer");
}
