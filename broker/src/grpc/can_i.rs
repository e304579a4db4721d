//! CanI: decodes the question, encodes the verdict. Must not decide.

use job_api::v1;
use tonic::Status;

use crate::auth::{Verb, Verdict};
use crate::grpc::{convert, status};
use crate::model::identity::Identity;
use crate::model::spec::JobRequest;

/// What was asked.
pub(super) enum Request {
    /// About a job, by its id.
    OfAJob(Verb, String),
    /// About the jobs of an owner; `None`: the caller's.
    Job(Verb, Option<Identity>),
    /// About no job.
    Broker(Verb),
    /// About a start.
    Start(Box<JobRequest>),
}

pub(super) fn request(asked: v1::CanIRequest) -> Result<Request, Status> {
    let verb: Verb = asked.verb.parse().map_err(|fault| status::field("verb", fault))?;
    if !asked.owner.is_empty() && !asked.job.is_empty() {
        return Err(status::field("owner", "and job cannot be given together".into()));
    }
    if verb == Verb::Start {
        let spec = asked.spec.unwrap_or_default();
        if spec.argv.first().is_none_or(String::is_empty) {
            return Err(status::field("spec.argv", "must name a program".into()));
        }
        return Ok(Request::Start(Box::new(convert::job_request(spec)?)));
    }
    if !verb.is_of_a_job() {
        return Ok(Request::Broker(verb));
    }
    if !asked.job.is_empty() {
        return Ok(Request::OfAJob(verb, asked.job));
    }
    if asked.owner.is_empty() {
        return Ok(Request::Job(verb, None));
    }
    let owner = Identity::new(&asked.owner).map_err(|fault| status::field("owner", fault))?;
    Ok(Request::Job(verb, Some(owner)))
}

pub(super) fn response(verdict: Verdict) -> v1::CanIResponse {
    let (role, rule) = verdict.rule.map(|rule| (rule.role, rule.text)).unzip();
    v1::CanIResponse {
        allowed: verdict.is_allowed,
        role: role.unwrap_or_default().to_string(),
        rule: rule.unwrap_or_default().to_string(),
        reason: verdict.reason,
    }
}
