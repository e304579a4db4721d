//! StartJob and RunJob, from the request to the job: decode, look for an earlier one, authorize, start, encode. It must
//! check nothing before it has looked for an earlier call with the same request id.

use std::sync::Arc;

use job_api::v1;
use prost::Message as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};

use crate::auth::{Caller, Logs, StartRefusal, Verb};
use crate::grpc::streams::Output;
use crate::grpc::{Grpc, convert, failed, status, streams, time};
use crate::jobs::commands::start::StartError;
use crate::jobs::job::Job;
use crate::jobs::output::Range;
use crate::jobs::shared::calls::Kind;
use crate::trace::Timeline;

/// What this call or an earlier one has started.
struct Started {
    caller: Caller,
    job: Arc<Job>,
    /// The caller wants the output compressed.
    deflate: bool,
}

/// W3C trace context, of a start.
const TRACEPARENT: &str = "traceparent";

impl Grpc {
    /// StartJob.
    pub(super) async fn start(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<v1::StartJobResponse>, Status> {
        let (timeline, answered) = traced(&request);
        let started = self.started(request, timeline).await;
        let message = |started: Started| {
            Response::new(v1::StartJobResponse { job: Some(convert::job(&started.job)) })
        };
        with_trace(started.map(message), answered)
    }

    /// RunJob: what fails after the start fails in the stream, behind the job.
    pub(super) async fn run(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<Output>, Status> {
        let (timeline, answered) = traced(&request);
        let started = self.started(request, timeline).await;
        let stream = match started {
            Ok(started) => {
                let first = streams::started(&started.job);
                let rest = self.whole_output(&started).await;
                Ok(Response::new(streams::behind(first, rest)))
            }
            Err(status) => Err(status),
        };
        with_trace(stream, answered)
    }

    /// All of the job's output, as it comes.
    async fn whole_output(&self, started: &Started) -> Result<Output, Status> {
        let job = self.job::<Logs>(&started.caller, &started.job.id().to_string()).await?;
        let range = Range { follow: true, deflate: started.deflate, ..Range::default() };
        self.follow(job, range).await
    }

    /// The job that this call or an earlier one has started.
    async fn started(
        &self,
        request: Request<v1::StartJobRequest>,
        timeline: Timeline,
    ) -> Result<Started, Status> {
        let size = Kind::Start(request.get_ref().encoded_len() as u64);
        let (caller, call) = self.admit(&request, size)?;
        let within = time::deadline(request.metadata());
        let v1::StartJobRequest { spec, request_id, compression } = request.into_inner();
        let deflate = convert::deflate(compression)?;
        let spec = spec.unwrap_or_default();
        let request = convert::request(request_id, &spec)?;
        // Before any check: a retry of a completed start succeeds even if the policy would reject it now.
        let repeated = self.supervisor.repeated(&caller, &request).await;
        let repeated = repeated.map_err(|error| start_refused(&caller, error))?;
        let job = match repeated {
            Some(job) if caller.has(Verb::Start) || caller.may(Verb::View, job.owner()) => {
                timeline.discard();
                job
            }
            Some(_) => return Err(status::retry_denied()),
            None => {
                let spec = convert::job_request(spec).map_err(|e| not_started(&caller, e))?;
                let defaults = self.supervisor.defaults();
                let plan = caller
                    .may_start(spec, &defaults)
                    .map_err(|refusal| plan_refused(&caller, refusal))?;
                let started = self.supervisor.start(plan, &request, call, timeline);
                // The queue drops a call at its deadline, even if the client does not cancel it.
                let started = tokio::time::timeout(within, started).await;
                let started =
                    started.map_err(|_| not_started(&caller, status::deadline_exceeded()))?;
                started.map_err(|error| start_refused(&caller, error))?
            }
        };
        Ok(Started { caller, job, deflate })
    }
}

/// The phases of this start, and what its answer says of them.
fn traced<T>(request: &Request<T>) -> (Timeline, Option<MetadataValue<Ascii>>) {
    let traceparent = request.metadata().get(TRACEPARENT).and_then(|text| text.to_str().ok());
    let timeline = Timeline::begin(traceparent);
    let answered = timeline.traceparent().and_then(|text| text.parse().ok());
    (timeline, answered)
}

fn with_trace<T>(
    mut outcome: Result<Response<T>, Status>,
    traceparent: Option<MetadataValue<Ascii>>,
) -> Result<Response<T>, Status> {
    if let Some(traceparent) = traceparent {
        let metadata = match &mut outcome {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        metadata.insert(TRACEPARENT, traceparent);
    }
    outcome
}

/// A start that was refused, recorded. Of one that has a job, the launch records the outcome.
fn start_refused(caller: &Caller, error: StartError) -> Status {
    match error {
        StartError::Failed { .. } | StartError::Shortage(_) | StartError::Unrecorded(_) => {
            status::start(error)
        }
        error => not_started(caller, status::start(error)),
    }
}

/// A denial is recorded where it is made.
fn plan_refused(caller: &Caller, refusal: StartRefusal) -> Status {
    match refusal {
        StartRefusal::Denied(_) => status::start_refused(refusal),
        StartRefusal::Invalid(_) => not_started(caller, status::start_refused(refusal)),
    }
}

fn not_started(caller: &Caller, status: Status) -> Status {
    caller.audit().note_bounded(caller.identity(), || failed(caller, Verb::Start, &status));
    status
}
