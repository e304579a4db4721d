//! StartJob, from the request to the job: decode, look for an earlier one, authorize, start, encode. It must check nothing
//! before it has looked for an earlier call with the same request id.

use job_api::v1;
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::auth::{Caller, StartRefusal, Verb};
use crate::grpc::{Grpc, convert, failed, status, time};
use crate::jobs::commands::start::StartError;
use crate::jobs::shared::calls::Kind;
use crate::trace::Timeline;

impl Grpc {
    /// StartJob.
    pub(super) async fn start(
        &self,
        request: Request<v1::StartJobRequest>,
        timeline: Timeline,
    ) -> Result<Response<v1::StartJobResponse>, Status> {
        let size = Kind::Start(request.get_ref().encoded_len() as u64);
        let (caller, call) = self.admit(&request, size)?;
        let within = time::deadline(request.metadata());
        let v1::StartJobRequest { spec, request_id } = request.into_inner();
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
        Ok(Response::new(v1::StartJobResponse { job: Some(convert::job(&job)) }))
    }
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
