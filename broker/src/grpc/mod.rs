//! The gRPC service: each call decodes, authorizes, acts and encodes. Only this module may name a prost type or a
//! `tonic::Status`; it must not decide anything about a job.

mod audit;
mod bounded;
mod can_i;
mod context;
mod convert;
mod enumeration;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod isolation;
mod limits;
mod revoked;
mod start;
mod status;
mod status_size;
mod streams;
mod time;
pub(crate) mod transport_status;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::grpc::revoked::{revoked, revoked_verb};
pub(crate) use crate::grpc::status_size::limit_status_size;
use job_api::v1;
use job_api::v1::job_service_server::{JobService, JobServiceServer};
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::audit::{Entry, Phase};
use crate::auth::{
    Action, Authorized, Caller, Input, Logs, Policy, Question, Role, Verb, View,
    authorize_of_broker, decide,
};
use crate::jobs::job::Job;
use crate::jobs::output::Range;
use crate::jobs::query::Listed;
use crate::jobs::registry::filter::Page;
use crate::jobs::shared::calls::{Call, Kind};
use crate::jobs::supervisor::Supervisor;
use crate::model::certificates::TlsReport;
use crate::model::identity::{Identity, IdentityError, Peer};
use job_launch::host;

/// The peer that a connection's TLS handshake authenticated; an extension of each of its requests.
pub(crate) type PeerResult = Arc<Result<Arc<Peer>, IdentityError>>;

/// Maximum bytes of one request: the largest start or input message, with a margin.
pub(crate) const MAX_REQUEST: usize = 2 << 20;
/// Maximum jobs of one page, and the default.
const PAGE: (usize, usize) = (1000, 100);
/// Maximum bytes of one page, without usage. One job's arguments can have 1 MiB; gRPC clients accept messages of 4
/// MiB by default.
const PAGE_BYTES: usize = 3 << 20;

/// Maximum grace of a stop, the same as of `jobs.stop_timeout_seconds`: each stop occupies a task and a record until
/// it ends.
const MAX_GRACE: Duration = Duration::from_secs(86_400);

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    supervisor: Supervisor,
    /// As of the last reload.
    policy: watch::Receiver<Policy>,
    /// The certificates in force.
    report: watch::Receiver<TlsReport>,
    started_at: SystemTime,
    /// True once the broker shuts down: streams end, jobs keep running.
    closing: watch::Receiver<bool>,
}

/// The service for a router, with its limits.
pub(crate) fn service(
    supervisor: Supervisor,
    policy: watch::Receiver<Policy>,
    report: watch::Receiver<TlsReport>,
    closing: watch::Receiver<bool>,
) -> JobServiceServer<Grpc> {
    let started_at = SystemTime::now();
    let grpc = Grpc { supervisor, policy, report, started_at, closing };
    JobServiceServer::new(grpc).max_decoding_message_size(MAX_REQUEST)
}

impl Grpc {
    /// The peer, as its certificate identifies it.
    fn peer<T>(&self, request: &Request<T>) -> Result<Arc<Peer>, Status> {
        match request.extensions().get::<PeerResult>().map(Arc::as_ref) {
            Some(Ok(peer)) => Ok(Arc::clone(peer)),
            Some(Err(error)) => Err(status::unauthenticated(Some(error))),
            None => Err(status::unauthenticated(None)),
        }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = self.peer(request)?;
        let context = context::of_request(Arc::clone(&peer), request)?;
        let audit = self.supervisor.audit().clone();
        let caller = self.policy.borrow().caller(peer.identity.clone());
        Ok(caller.calling(Arc::new(context), audit))
    }

    /// The authenticated caller, and a slot for the call.
    fn admit<T>(&self, request: &Request<T>, kind: Kind) -> Result<(Caller, Call), Status> {
        let caller = self.caller(request)?;
        let call = self.supervisor.admit(&caller, kind).map_err(status::busy)?;
        Ok((caller, call))
    }

    /// The job to change, and the call.
    async fn job_to_change<A: Action>(
        &self,
        (caller, call): (Caller, Call),
        id: &str,
    ) -> Result<(Authorized<A, Arc<Job>>, Call), Status> {
        let job = self.job(&caller, id).await?;
        let call = self.supervisor.admit_change(call, &job).map_err(status::busy)?;
        Ok((job, call))
    }

    async fn job<A: Action>(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Authorized<A, Arc<Job>>, Status> {
        let parsed = id.parse().map_err(|fault| status::field("id", fault))?;
        let found = self.supervisor.find(caller, parsed).await.map_err(status::find)?;
        found.ok_or_else(|| status::no_such_job(parsed))
    }

    /// A range of the job's output.
    async fn follow(
        &self,
        job: Authorized<Logs, Arc<Job>>,
        range: Range,
    ) -> Result<streams::Output, Status> {
        let reader = self.supervisor.output(&job, range).await.map_err(status::output)?;
        let revoked = Box::pin(revoked(self.policy.clone(), job.clone()));
        let job = Arc::clone(job.subject());
        Ok(streams::output(job, reader, revoked, self.closing.clone()))
    }

    /// The outcome of a change, recorded.
    fn record<A: Action, T>(
        &self,
        job: &Authorized<A, Arc<Job>>,
        outcome: Result<T, Status>,
        detail: impl Display,
    ) -> Result<T, Status> {
        let entry = match &outcome {
            Ok(_) => job.caller().entry(Phase::Done, A::VERB),
            Err(status) => failed(job.caller(), A::VERB, status),
        };
        let entry = entry.job(job.subject().id(), job.subject().owner());
        job.caller().audit().note(&entry.message(detail));
        outcome
    }

    /// The job, if the caller may see it.
    fn message<A: Action>(&self, job: &Authorized<A, Arc<Job>>) -> Option<v1::Job> {
        let is_seen = job.caller().may(Verb::View, job.subject().owner());
        is_seen.then(|| convert::job(job.subject()))
    }

    /// The job with its JobStats, if the caller may see it.
    async fn message_with_stats<A: Action>(
        &self,
        job: &Authorized<A, Arc<Job>>,
    ) -> Option<v1::Job> {
        if !job.caller().may(Verb::View, job.subject().owner()) {
            return None;
        }
        self.supervisor.refresh(job);
        let stats = self.supervisor.stats(job).await;
        let mut message = convert::job(job.subject());
        limits::add_stats(&mut message, job.subject(), stats);
        Some(message)
    }
}

/// An entry of what was allowed and not done.
fn failed(caller: &Caller, verb: Verb, status: &Status) -> Entry {
    caller.entry(Phase::Failed, verb).error(format_args!("{:?}", status.code()), status.message())
}

#[tonic::async_trait]
impl JobService for Grpc {
    async fn start_job(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<v1::StartJobResponse>, Status> {
        self.start(request).await
    }

    type RunJobStream = streams::Output;

    async fn run_job(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<Self::RunJobStream>, Status> {
        self.run(request).await
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        let job = self.job(&caller, &request.get_ref().id).await?;
        let mut message = self.message_with_stats(&job).await;
        let whole = self.supervisor.whole_spec(&job).await;
        if let Some((message, whole)) = message.as_mut().zip(whole) {
            convert::restore_full_spec(message, whole);
        }
        Ok(Response::new(v1::GetJobResponse { job: message }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        let request = request.into_inner();
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|fault| status::field("page_token", fault))?),
        };
        let size = match request.page_size as usize {
            0 => PAGE.1,
            size if size > PAGE.0 => {
                let fault = format!("is {size}; at most {} are allowed", PAGE.0);
                return Err(status::field("page_size", fault));
            }
            size => size,
        };
        let with_usage = request.with_usage;
        let filter = convert::filter(request)?;
        let page = Page { after, size, bytes: PAGE_BYTES };
        let supervisor = self.supervisor.clone();
        let message = move |job: &Authorized<View, Arc<Job>>| {
            supervisor.refresh(job);
            let message = convert::job(job.subject());
            let length = message.encoded_len();
            (message, length)
        };
        let listed = self.supervisor.list(&caller, &filter, page, message).await;
        let Listed { jobs, next } = listed.map_err(status::find)?;
        let (jobs, mut messages): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        if with_usage {
            let usages = self.supervisor.usages(&caller, &jobs).await;
            for ((message, job), usage) in messages.iter_mut().zip(&jobs).zip(usages) {
                message.usage = Some(limits::usage(job.subject(), usage));
            }
        }
        Ok(Response::new(v1::ListJobsResponse {
            jobs: messages,
            next_page_token: next.map(|id| id.to_string()).unwrap_or_default(),
        }))
    }

    async fn wait_job(
        &self,
        request: Request<v1::WaitJobRequest>,
    ) -> Result<Response<v1::WaitJobResponse>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Waits)?;
        let request = request.get_ref();
        let job: Authorized<View, _> = self.job(&caller, &request.id).await?;
        let until = convert::until(request)?;
        let within = time::duration("timeout", request.timeout)?;
        let mut closing = self.closing.clone();
        let done = tokio::select! {
            done = self.supervisor.wait(&job, until, within) => done,
            status = revoked(self.policy.clone(), job.clone()) => return Err(status),
            _ = closing.wait_for(|closing| *closing) => return Err(status::shutting_down()),
        };
        Ok(Response::new(v1::WaitJobResponse { job: self.message_with_stats(&job).await, done }))
    }

    async fn stop_job(
        &self,
        request: Request<v1::StopJobRequest>,
    ) -> Result<Response<v1::StopJobResponse>, Status> {
        let admitted = self.admit(&request, Kind::Short)?;
        let request = request.get_ref();
        let (job, _call) = self.job_to_change(admitted, &request.id).await?;
        let grace = time::duration("grace", request.grace)?;
        if grace.is_some_and(|grace| grace > MAX_GRACE) {
            let fault = format!("is more than {} seconds", MAX_GRACE.as_secs());
            return Err(status::field("grace", fault));
        }
        let stopped = self.supervisor.stop(&job, grace).await.map_err(status::stop);
        self.record(&job, stopped, "")?;
        Ok(Response::new(v1::StopJobResponse { job: self.message(&job) }))
    }

    async fn signal_job(
        &self,
        request: Request<v1::SignalJobRequest>,
    ) -> Result<Response<v1::SignalJobResponse>, Status> {
        let admitted = self.admit(&request, Kind::Short)?;
        let request = request.get_ref();
        let (job, _call) = self.job_to_change(admitted, &request.id).await?;
        if !(1..=64).contains(&request.signal) {
            let fault = format!("is {}; signals are 1 to 64", request.signal);
            return Err(status::field("signal", fault));
        }
        let sent = self.supervisor.signal(&job, request.signal).await.map_err(status::signal);
        self.record(&job, sent, format_args!("signal {}", request.signal))?;
        Ok(Response::new(v1::SignalJobResponse { job: self.message(&job) }))
    }

    type StreamOutputStream = streams::Output;

    async fn stream_output(
        &self,
        request: Request<v1::StreamOutputRequest>,
    ) -> Result<Response<Self::StreamOutputStream>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        let request = request.into_inner();
        let job = self.job::<Logs>(&caller, &request.id).await?;
        let range = convert::range(&request)?;
        self.follow(job, range).await.map(Response::new)
    }

    type WriteInputStream = streams::Acks;

    async fn write_input(
        &self,
        request: Request<Streaming<v1::WriteInputRequest>>,
    ) -> Result<Response<Self::WriteInputStream>, Status> {
        let (caller, call) = self.admit(&request, Kind::Waits)?;
        let mut pieces = request.into_inner();
        let first = pieces.message().await.map_err(|e| status::stream_error(&e))?;
        let first = first.ok_or_else(|| status::field("id", "no message came".into()))?;
        let job: Authorized<Input, _> = self.job(&caller, &first.id).await?;
        let call = self.supervisor.admit_writer(call, &job).map_err(status::busy)?;
        let supervisor = self.supervisor.clone();
        let ends = (Box::pin(revoked(self.policy.clone(), job.clone())) as _, self.closing.clone());
        Ok(Response::new(streams::input(supervisor, (job, call), first, pieces, ends)))
    }

    async fn update_job(
        &self,
        request: Request<v1::UpdateJobRequest>,
    ) -> Result<Response<v1::UpdateJobResponse>, Status> {
        let admitted = self.admit(&request, Kind::Short)?;
        let request = request.into_inner();
        let (job, call) = self.job_to_change(admitted, &request.id).await?;
        let change = limits::change(request)?;
        let updated = self.supervisor.update(&job, change, call).await.map_err(status::update);
        self.record(&job, updated, "")?;
        Ok(Response::new(v1::UpdateJobResponse { job: self.message_with_stats(&job).await }))
    }

    async fn pause_job(
        &self,
        request: Request<v1::PauseJobRequest>,
    ) -> Result<Response<v1::PauseJobResponse>, Status> {
        let admitted = self.admit(&request, Kind::Short)?;
        let (job, call) = self.job_to_change(admitted, &request.get_ref().id).await?;
        let paused = self.supervisor.pause(&job, call).await.map_err(status::pause);
        self.record(&job, paused, "pause")?;
        Ok(Response::new(v1::PauseJobResponse { job: self.message(&job) }))
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::ResumeJobResponse>, Status> {
        let admitted = self.admit(&request, Kind::Short)?;
        let (job, call) = self.job_to_change(admitted, &request.get_ref().id).await?;
        let resumed = self.supervisor.resume(&job, call).await.map_err(status::pause);
        self.record(&job, resumed, "resume")?;
        Ok(Response::new(v1::ResumeJobResponse { job: self.message(&job) }))
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let admitted = self.admit(&request, Kind::Short)?;
        let (job, _call) = self.job_to_change(admitted, &request.get_ref().id).await?;
        let deleted = self.supervisor.delete(&job).await.map_err(status::delete);
        self.record(&job, deleted, "")?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }

    async fn get_server_info(
        &self,
        request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        let boot_id = host::boot_id().map_err(|e| status::host_error(&e))?;
        let started_at = self.started_at.into();
        let mut info = convert::server_info(&self.supervisor, boot_id, started_at);
        let images = self.supervisor.images(caller.identity(), |name| caller.may_use_image(name));
        info.images = images.await.into_iter().map(isolation::image).collect();
        info.rootfs = caller.rootfs(&self.supervisor.isolation());
        if caller.role() == Role::Admin {
            info.quarantined = convert::quarantined(&self.supervisor);
            info.certificates = Some(convert::certificates(&self.report.borrow()));
        }
        Ok(Response::new(info))
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let peer = self.peer(&request)?;
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        Ok(Response::new(v1::WhoAmIResponse {
            identity: caller.identity().to_string(),
            admin: caller.role() == Role::Admin,
            certificate_expires_at: Some(peer.expires.into()),
            roles: caller.roles().iter().map(|role| role.name.to_string()).collect(),
        }))
    }

    async fn get_quota(
        &self,
        request: Request<v1::GetQuotaRequest>,
    ) -> Result<Response<v1::GetQuotaResponse>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        let owner = match request.get_ref().owner.as_str() {
            "" => caller.identity().clone(),
            owner => Identity::new(owner).map_err(|fault| status::field("owner", fault))?,
        };
        if owner != *caller.identity() && caller.role() != Role::Admin {
            return Err(status::denied_quota());
        }
        let rows = self.supervisor.quota_rows(&owner).await.map_err(status::find)?;
        Ok(Response::new(convert::quota(&owner, rows)))
    }

    type ReadAuditStream = audit::Lines;

    async fn read_audit(
        &self,
        request: Request<v1::ReadAuditRequest>,
    ) -> Result<Response<Self::ReadAuditStream>, Status> {
        let caller = self.caller(&request)?;
        let allowed = authorize_of_broker(&caller, Verb::Admin);
        let entry = allowed.map_err(|denied| status::denied(&denied))?;
        let call = self.supervisor.admit(&caller, Kind::Audit).map_err(status::busy)?;
        let request = request.get_ref();
        let filter = audit::filter(request)?;
        let entry = entry.message(filter.in_words());
        let reader =
            caller.audit().reader((caller.identity(), &entry), filter, request.after).await;
        let reader = reader.map_err(status::unrecorded)?;
        let (reader, durable) = reader.ok_or_else(status::no_audit)?;
        let revoked = revoked_verb(self.policy.clone(), caller.clone(), Verb::Admin);
        let (supervisor, follows) = (self.supervisor.clone(), request.follow);
        let reading = audit::Reading { supervisor, caller, _call: call, durable, follows };
        Ok(Response::new(audit::lines(reading, reader, Box::pin(revoked), self.closing.clone())))
    }

    async fn can_i(
        &self,
        request: Request<v1::CanIRequest>,
    ) -> Result<Response<v1::CanIResponse>, Status> {
        let (caller, _call) = self.admit(&request, Kind::Short)?;
        let request = can_i::request(request.into_inner())?;
        let verdict = match request {
            can_i::Request::OfAJob(verb, id) => {
                let job: Authorized<View, _> = self.job(&caller, &id).await?;
                decide(&caller, &Question::Job(verb, job.subject().owner()))
            }
            can_i::Request::Job(verb, owner) => {
                let owner = owner.unwrap_or_else(|| caller.identity().clone());
                decide(&caller, &Question::Job(verb, &owner))
            }
            can_i::Request::Broker(verb) => decide(&caller, &Question::Broker(verb)),
            can_i::Request::Start(job) => {
                self.supervisor.can_start(&caller, *job).await.map_err(status::spec)?
            }
        };
        Ok(Response::new(can_i::response(verdict)))
    }
}
