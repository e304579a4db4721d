//! Converts between gRPC messages and the supervisor's types. It must reject values that this broker does not know,
//! and must not check what `model` checks.

use job_api::names::MAX_NAME;
use job_api::v1;
use job_shim::index::Stream;
use job_shim::wire::{Blocked, Cause, Exited, Source};
use prost::Message as _;
use prost_types::Timestamp;
use tonic::Status;

use crate::grpc::enumeration::known;
use crate::grpc::isolation;
use crate::grpc::limits;
use crate::grpc::limits::TopLevelLimits;
use crate::grpc::status;
use crate::grpc::time::{duration, nanoseconds, timestamp};
use crate::jobs::commands::wait::Until;
use crate::jobs::job::Job;
use crate::jobs::output::Range;
use crate::jobs::registry::filter::{Filter, States};
use crate::jobs::supervisor::Supervisor;
use crate::model::certificates::{AuthorityReport, TlsReport};
use crate::model::identity::Identity;
use crate::model::limits::{LimitKind, Limits};
use crate::model::request::Request;
use crate::model::spec::{JobRequest, JobSpec, MAX_LABELS, OutputPolicy};
use crate::model::state::{Contact, Snapshot, State};
use crate::quota::kind::{QuotaKind, Unit};
use crate::quota::quotas::Row;
use job_launch::cgroup::features::CONTROLLERS;
use job_launch::host;
use job_launch::host::BootId;

/// Maximum bytes of a request id.
const MAX_REQUEST_ID: usize = 128;
/// Maximum entries of `states`, duplicates included.
const MAX_STATES: usize = 64;

/// The canonical request, which identifies a retry. prost drops fields of newer clients and encodes the others in the
/// order of field numbers and map keys.
pub(super) fn request(id: String, spec: &v1::JobSpec) -> Result<Request, Status> {
    check_length("request_id", &id, MAX_REQUEST_ID)?;
    Ok(Request::new(id, || spec.encode_to_vec()))
}

/// Checks the length before any code parses, compares or repeats the text.
fn check_length(field: &str, text: &str, max: usize) -> Result<(), Status> {
    if text.len() <= max {
        return Ok(());
    }
    let fault = format!("has {} bytes; at most {max} are allowed", text.len());
    Err(status::field(field, fault))
}

fn check_labels(field: &str, count: usize) -> Result<(), Status> {
    let (max, _) = MAX_LABELS;
    if count <= max {
        return Ok(());
    }
    Err(status::field(field, format!("are {count}; at most {max} are allowed")))
}

pub(super) fn job_request(spec: v1::JobSpec) -> Result<JobRequest, Status> {
    check_labels("spec.labels", spec.labels.len())?;
    let output_policy = match known("spec.output_policy", spec.output_policy)? {
        v1::OutputPolicy::Unspecified | v1::OutputPolicy::Discard => OutputPolicy::Discard,
        v1::OutputPolicy::Block => OutputPolicy::Block,
        v1::OutputPolicy::Kill => OutputPolicy::Kill,
    };
    let top_level = TopLevelLimits {
        time: spec.time_limit,
        cpu_time: spec.cpu_time_limit,
        output: spec.output_limit_bytes,
    };
    Ok(JobRequest {
        limits: limits::limits("spec.", spec.limits.unwrap_or_default(), top_level)?,
        argv: spec.argv,
        env: spec.env,
        working_directory: spec.working_directory,
        run_as: spec.run_as,
        name: spec.name,
        labels: spec.labels,
        stop_signal: spec.stop_signal,
        stop_timeout: duration("spec.stop_timeout", spec.stop_timeout)?,
        output_policy,
        stdin: spec.stdin,
        isolation: isolation::request(spec.isolation)?,
    })
}

pub(super) fn filter(request: v1::ListJobsRequest) -> Result<Filter, Status> {
    check_length("owner", &request.owner, MAX_NAME)?;
    check_length("selector", &request.selector, MAX_NAME)?;
    check_labels("labels", request.labels.len())?;
    for (key, value) in &request.labels {
        check_length("labels", key, MAX_NAME)?;
        check_length("labels", value, MAX_LABELS.1)?;
    }
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(Filter {
        states: states(&request.states)?,
        ended_before_ns: nanoseconds("ended_before", request.ended_before)?,
        owner: some(request.owner),
        labels: request.labels.into_iter().collect(),
        selector: some(request.selector),
    })
}

/// Takes raw numbers: prost's iterator skips unknown values, which could leave an empty filter.
fn states(numbers: &[i32]) -> Result<States, Status> {
    if numbers.len() > MAX_STATES {
        let fault = format!("has {} entries; at most {MAX_STATES} are allowed", numbers.len());
        return Err(status::field("states", fault));
    }
    numbers.iter().map(|number| state_from(*number)).collect()
}

fn state_from(number: i32) -> Result<State, Status> {
    Ok(match known("states", number)? {
        v1::job::State::Starting => State::Starting,
        v1::job::State::Running => State::Running,
        v1::job::State::Paused => State::Paused,
        v1::job::State::Stopping => State::Stopping,
        v1::job::State::Finished => State::Finished,
        v1::job::State::Lost => State::Lost,
        v1::job::State::Unspecified => {
            return Err(status::field("states", "holds a state that there is not".into()));
        }
    })
}

pub(super) fn until(request: &v1::WaitJobRequest) -> Result<Until, Status> {
    Ok(match known("until", request.until)? {
        v1::wait_job_request::Until::End => Until::End,
        v1::wait_job_request::Until::Exit | v1::wait_job_request::Until::Unspecified => Until::Exit,
    })
}

pub(super) fn range(request: &v1::StreamOutputRequest) -> Result<Range, Status> {
    Ok(Range {
        stream: match known("stream", request.stream)? {
            v1::OutputStream::Unspecified => None,
            v1::OutputStream::Out => Some(Stream::Stdout),
            v1::OutputStream::Err => Some(Stream::Stderr),
        },
        offsets: [request.stdout_offset, request.stderr_offset],
        tail_lines: request.tail_lines,
        since_ns: nanoseconds("since", request.since)?,
        follow: request.follow,
        by_entry: request.timestamps,
        deflate: deflate(request.compression)?,
    })
}

/// Whether output is to be compressed.
pub(super) fn deflate(compression: i32) -> Result<bool, Status> {
    Ok(known::<v1::Compression>("compression", compression)? == v1::Compression::Deflate)
}

pub(super) fn stream(stream: Stream) -> v1::OutputStream {
    match stream {
        Stream::Stdout => v1::OutputStream::Out,
        Stream::Stderr => v1::OutputStream::Err,
    }
}

/// A job as the API shows it.
pub(super) fn job(job: &Job) -> v1::Job {
    let (record, snapshot, progress) = (job.record(), job.snapshot(), job.progress());
    let effective = job.effective_limits();
    let mut message = v1::Job {
        id: record.id.to_string(),
        name: record.spec.name.clone(),
        owner: record.owner.to_string(),
        state: state(snapshot.state).into(),
        pid: snapshot.started.map(|s| s.pid).filter(|pid| *pid != 0 && snapshot.exited.is_none()),
        created_at: Some(timestamp(record.created_ns)),
        started_at: snapshot.started.map(|started| timestamp(started.time_ns)),
        ended_at: snapshot.exited.as_ref().map(|e| e.time_ns).or(snapshot.ended_ns).map(timestamp),
        spec: Some(spec(&record.spec, &effective.limits)),
        limits: effective.statuses(None).into_iter().map(limits::limit_status).collect(),
        changes: limits::changes(&effective.changes),
        uid: record.account.uid,
        gid: record.account.gid,
        stdout_bytes: progress.stdout,
        stderr_bytes: progress.stderr,
        dropped_bytes: progress.dropped,
        incomplete: snapshot.incomplete,
        request_id: record.request_id.clone(),
        recovering: snapshot.contact == Contact::Recovering && !snapshot.state.is_over(),
        warnings: warnings(&snapshot, progress.blocked),
        allowed_by_role: record.allowed_by.role.clone(),
        allowed_by_rule: record.allowed_by.rule.clone(),
        ..v1::Job::default()
    };
    if let Some(whole) = record.spec.whole {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        message.argv_count = count(whole.arguments);
        message.argv_bytes = whole.argument_bytes as u64;
        message.env_count = count(whole.variables);
    }
    end(&snapshot, &mut message);
    message
}

/// Replaces the truncated arguments and variables by the complete ones.
pub(super) fn restore_full_spec(message: &mut v1::Job, whole: JobSpec) {
    if let Some(spec) = &mut message.spec {
        (spec.argv, spec.env) = (whole.argv, whole.env);
        (message.argv_count, message.argv_bytes, message.env_count) = (0, 0, 0);
    }
}

/// Cause, exit status, and origin of the end.
fn end(snapshot: &Snapshot, message: &mut v1::Job) {
    if let Some(exited) = &snapshot.exited {
        message.set_cause(cause(exited.cause));
        message.set_source(source(exited.source));
        message.ended_by = exited.by.clone();
        message.ended_by_limit = limit(exited).into();
        message.exit_code =
            libc::WIFEXITED(exited.wait_status).then(|| libc::WEXITSTATUS(exited.wait_status));
        message.signal =
            libc::WIFSIGNALED(exited.wait_status).then(|| libc::WTERMSIG(exited.wait_status));
    } else if snapshot.state.is_over() {
        let lost = snapshot.state == State::Lost;
        message.set_cause(if lost { v1::Cause::Lost } else { v1::Cause::StartFailed });
        message.set_source(v1::Source::System);
    }
    message.failure = snapshot.failure.clone().map(|failure| v1::Failure {
        step: failure.step,
        error_number: failure.errno,
        message: failure.message,
    });
}

/// The name of the limit that ended the job.
fn limit(exited: &Exited) -> &'static str {
    match (exited.cause, exited.source) {
        (Cause::TimedOut, Source::CpuTime) => "cpu_time_limit",
        (Cause::TimedOut, _) => "time_limit",
        (Cause::OutOfMemory, _) => "memory.max",
        (Cause::OutputLimit, _) => "output_limit",
        _ => "",
    }
}

fn warnings(snapshot: &Snapshot, blocked: Option<Blocked>) -> Vec<String> {
    let mut warnings = Vec::new();
    if snapshot.state.is_over() {
        return warnings;
    }
    match blocked {
        Some(Blocked::Disk(errno)) => warnings.push(format!(
            "its output cannot be written ({}); the job blocks until it can",
            std::io::Error::from_raw_os_error(errno)
        )),
        Some(Blocked::Limit) => {
            warnings.push("its output limit is reached; the job blocks until it is stopped".into());
        }
        None => {}
    }
    if snapshot.contact == Contact::Silent {
        warnings.push("its shim does not answer; the job goes on and can be stopped".into());
    }
    warnings
}

fn state(state: State) -> v1::job::State {
    match state {
        State::Starting => v1::job::State::Starting,
        State::Running => v1::job::State::Running,
        State::Paused => v1::job::State::Paused,
        State::Stopping => v1::job::State::Stopping,
        State::Finished => v1::job::State::Finished,
        State::Lost => v1::job::State::Lost,
    }
}

fn cause(cause: Cause) -> v1::Cause {
    match cause {
        Cause::Exited => v1::Cause::Exited,
        Cause::Stopped => v1::Cause::Stopped,
        Cause::Signaled => v1::Cause::Signaled,
        Cause::TimedOut => v1::Cause::TimedOut,
        Cause::OutputLimit => v1::Cause::OutputLimit,
        Cause::StartFailed => v1::Cause::StartFailed,
        Cause::OutOfMemory => v1::Cause::OutOfMemory,
    }
}

fn source(source: Source) -> v1::Source {
    match source {
        Source::None => v1::Source::Unspecified,
        Source::User => v1::Source::User,
        Source::Admin => v1::Source::Admin,
        Source::System => v1::Source::System,
        Source::Timeout | Source::CpuTime => v1::Source::Timeout,
        Source::Oom => v1::Source::Oom,
    }
}

fn spec(spec: &JobSpec, limits: &Limits) -> v1::JobSpec {
    v1::JobSpec {
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        working_directory: spec.working_directory.clone(),
        run_as: spec.run_as.clone(),
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        time_limit: limits::duration_of(limits, LimitKind::Time),
        cpu_time_limit: limits::duration_of(limits, LimitKind::CpuTime),
        limits: Some(limits::limits_message(limits)),
        stop_signal: spec.stop_signal,
        stop_timeout: spec.stop_timeout.try_into().ok(),
        output_limit_bytes: limits.get(LimitKind::Output).unwrap_or(0),
        output_policy: match spec.output_policy {
            OutputPolicy::Discard => v1::OutputPolicy::Discard,
            OutputPolicy::Block => v1::OutputPolicy::Block,
            OutputPolicy::Kill => v1::OutputPolicy::Kill,
        }
        .into(),
        stdin: spec.stdin,
        isolation: Some(isolation::message(&spec.isolation)),
    }
}

pub(super) fn server_info(
    supervisor: &Supervisor,
    boot_id: BootId,
    started_at: Timestamp,
) -> v1::GetServerInfoResponse {
    let ((hostname, kernel), (live, all)) = (host::uname(), supervisor.count());
    let (tree, rules) = (supervisor.cgroup(), supervisor.isolation());
    let missing =
        CONTROLLERS.iter().filter_map(|name| Some((*name, tree.features().missing(name)?)));
    v1::GetServerInfoResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        hostname,
        kernel,
        boot_id: uuid::Uuid::from_bytes(boot_id).to_string(),
        started_at: Some(started_at),
        running_jobs: live as u64,
        stored_jobs: all as u64,
        cgroup: tree.path().display().to_string(),
        missing_controllers: missing.map(|(name, why)| (name.into(), why.into())).collect(),
        controllers: tree.features().controllers(),
        features: [limits::features(tree.features()), isolation::features(supervisor.launcher())]
            .concat(),
        default_isolation: isolation::profile(rules.default).into(),
        minimum_isolation: isolation::profile(rules.minimum).into(),
        default_limits: Some(limits::limit_table(&supervisor.limits().default)),
        max_limits: Some(limits::limit_table(&supervisor.limits().max)),
        quarantined: Vec::new(),
        certificates: None,
        images: Vec::new(),
        rootfs: Vec::new(),
        run_as: supervisor.config().run_as.clone(),
        epoch: supervisor.epoch(),
    }
}

pub(super) fn quarantined(supervisor: &Supervisor) -> Vec<v1::Quarantined> {
    let show =
        |q: crate::jobs::supervisor::Quarantined| v1::Quarantined { id: q.id, reason: q.reason };
    supervisor.quarantined().into_iter().map(show).collect()
}

/// The certificates in force.
pub(super) fn certificates(report: &TlsReport) -> v1::Certificates {
    let authority = |one: &AuthorityReport| v1::Authority {
        subject: one.subject.clone(),
        trust_domain: one.trust_domain.clone(),
        prefix: one.prefix.clone(),
        expires_at: one.expires.map(Into::into),
        crl_next_update: one.list_until.map(Into::into),
        revoked: one.revoked as u64,
    };
    v1::Certificates {
        expires_at: report.expires.map(Into::into),
        loaded_at: report.loaded.map(Into::into),
        reload_fault: report.fault.clone().unwrap_or_default(),
        authorities: report.authorities.iter().map(authority).collect(),
    }
}

pub(super) fn quota(identity: &Identity, rows: Vec<Row>) -> v1::GetQuotaResponse {
    let shown = |Row { kind, used, limit }: Row| {
        let unit = match kind.unit() {
            Unit::Count => v1::quota::Unit::Count,
            Unit::Bytes => v1::quota::Unit::Bytes,
            Unit::MilliCpus => v1::quota::Unit::Millicpus,
        };
        let is_rate = kind == QuotaKind::StartsPerMinute;
        v1::Quota {
            name: kind.name().into(),
            unit: unit.into(),
            used,
            limit: limit.as_ref().map(|limit| limit.value),
            burst: limit.as_ref().filter(|_| is_rate).map(|limit| limit.burst),
            from: limit.map(|limit| limit.origin.to_string()).unwrap_or_default(),
        }
    };
    let quotas = rows.into_iter().map(shown).collect();
    v1::GetQuotaResponse { identity: identity.to_string(), quotas }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_has_one_digest_in_whatever_order_its_maps_came() {
        let [one, two] = [("A", "1"), ("B", "2")].map(|(k, v)| {
            let env = [(k.to_owned(), v.to_owned())].into();
            v1::JobSpec { env, ..v1::JobSpec::default() }.encode_to_vec()
        });
        let unknown = [0xfa, 0x3f, 0x01, b'x']; // field 1023, of a newer client
        let digest =
            |bytes: &[u8]| request("r".into(), &v1::JobSpec::decode(bytes).unwrap()).unwrap();
        let first = digest(&[&one[..], &two].concat());
        assert_eq!(first, digest(&[&two[..], &one].concat()));
        assert_eq!(first, digest(&[&two[..], &unknown, &one].concat()));
        assert_ne!(first, digest(&one));
    }
}
