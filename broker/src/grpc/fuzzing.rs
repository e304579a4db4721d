//! Fuzz targets: the messages of callers, and the refusals that they draw.

use std::collections::BTreeMap;
use std::time::Duration;

use job_api::v1;
use prost::Message;
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::audit::{Entry, Phase};
use crate::config::AuditArguments;
use crate::grpc::{audit, can_i, convert, limits, status, time};
use crate::model::limits::LimitTables;
use crate::model::spec::{Defaults, JobSpec, MAX_STRINGS, SpecError};

/// What a status may have: clients take 8 KiB of headers.
const MOST_OF_A_REFUSAL: usize = 4096;

fn bounded(refusal: &Status) {
    let bytes = refusal.message().len() + refusal.details().len();
    assert!(bytes < MOST_OF_A_REFUSAL, "a refusal of {bytes} bytes: {}", refusal.message());
}

/// StartJob: what is taken holds every rule, and is taken again; its audit entry is a line.
pub fn start(data: &[u8]) {
    let Ok(spec) = v1::JobSpec::decode(data) else { return };
    if let Err(refusal) = convert::request("request".into(), &spec) {
        bounded(&refusal);
    }
    let request = match convert::job_request(spec) {
        Ok(request) => request,
        Err(refusal) => return bounded(&refusal),
    };
    let defaults = Defaults {
        run_as: ["nobody", "pool"].map(str::to_owned).to_vec(),
        stop_timeout: Duration::from_secs(10),
        limits: LimitTables::default(),
        labels: BTreeMap::new(),
        isolation: Default::default(),
    };
    match JobSpec::check(request, &defaults) {
        Err(fault) => {
            let is_too_large = matches!(fault, SpecError::TooLarge(_));
            bounded(&status::spec(fault));
            assert!(!is_too_large || data.len() > 100_000);
        }
        Ok(spec) => accepted(&spec),
    }
}

fn accepted(spec: &JobSpec) {
    let strings = spec.argv.iter().chain(spec.env.keys()).chain(spec.env.values());
    assert!(strings.clone().all(|text| !text.contains('\0')), "a NUL byte reaches execve(2)");
    assert!(strings.map(String::len).sum::<usize>() <= MAX_STRINGS);
    assert!(!spec.argv[0].is_empty());
    let directory = &spec.working_directory;
    assert!(directory.is_empty() || directory.starts_with('/'));
    assert!(!spec.isolation.hostname.contains('\0') && spec.isolation.mounts.len() <= 16);
    assert!(spec.env.keys().all(|name| !name.is_empty() && !name.contains('=')));
    assert!(spec.env.keys().all(|name| !name.starts_with("LD_")));
    assert!((1..=64).contains(&spec.stop_signal));
    let message = limits::limits_message(&spec.limits);
    assert!(message.encoded_len() < 1 << 20);
    // As it is on disk: names of variables, never values.
    let stored = serde_json::to_vec(spec).expect("text and numbers");
    let read: JobSpec = serde_json::from_slice(&stored).expect("what was written");
    assert_eq!((&read.argv, &read.limits), (&spec.argv, &spec.limits));
    assert!(read.isolation == spec.isolation || spec.isolation.is_none());
    for arguments in [AuditArguments::Full, AuditArguments::Program, AuditArguments::Hash] {
        let entry = Entry::new(Phase::Allowed, "start").spec(spec, "nobody", arguments);
        let line = entry.to_json(std::time::UNIX_EPOCH);
        assert!(!line.contains('\n'), "a second line");
        assert!(line.len() < 256 << 10, "{} bytes", line.len());
    }
}

/// All other messages, the first byte choosing which; and the headers that a call is read by.
pub fn requests(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let refused = match choice % 8 {
        0 => with(data, convert::filter),
        1 => with(data, |request: v1::WaitJobRequest| convert::until(&request)),
        2 => with(data, |request: v1::StreamOutputRequest| convert::range(&request)),
        3 => with(data, limits::change),
        4 => with(data, can_i::request),
        5 => with(data, |request: v1::ReadAuditRequest| audit::filter(&request)),
        6 => with(data, |grace: prost_types::Duration| time::duration("grace", Some(grace))),
        _ => return headers(data),
    };
    if let Some(refusal) = refused {
        bounded(&refusal);
    }
}

fn with<M: Message + Default, T>(
    data: &[u8],
    convert: impl FnOnce(M) -> Result<T, Status>,
) -> Option<Status> {
    convert(M::decode(data).ok()?).err()
}

fn headers(data: &[u8]) {
    let Ok(value) = AsciiMetadataValue::try_from(data) else { return };
    let mut headers = MetadataMap::new();
    headers.insert("grpc-timeout", value);
    assert!(time::deadline(&headers) > Duration::ZERO || data.first() == Some(&b'0'));
}
