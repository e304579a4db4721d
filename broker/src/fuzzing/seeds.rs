//! The part of the corpus that has an encoder in this crate. Texts of the kernel, of operators and of openssl are files.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use job_api::v1;
use job_corpus::write;
use job_shim::frame;
use job_shim::index::{Entry, Stream};
use job_shim::wire::{Exited, FromShim, InputAck, Progress, Started};
use prost::Message;

use crate::model::account::Account;
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::model::limits::LimitTables;
use crate::model::spec::{Defaults, JobRequest, JobSpec};
use crate::model::state::{Failure, State, Totals};
use crate::model::usage::{IoUsage, Usage};
use crate::store::index::{INDEX, Index, Stamp, Summary};
use crate::store::records::{
    ChangeRecord, ExitRecord, FORMAT, FinalRecord, RequestRecord, SPEC, SpawnRecord, SpecRecord,
    StartedRecord, StopRecord, save,
};

fn spec_message() -> v1::JobSpec {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into_iter();
    v1::JobSpec {
        argv: words(&["make", "-C", "/srv", ""]),
        env: pair("LANG", "C").chain(pair("A", "b=c")).collect(),
        working_directory: "/srv/build".into(),
        run_as: "pool".into(),
        name: "build-7".into(),
        labels: pair("team", "a").collect(),
        time_limit: Some(prost_types::Duration { seconds: 60, nanos: 5 }),
        stop_signal: 2,
        stop_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        output_limit_bytes: 1 << 20,
        output_policy: v1::OutputPolicy::Kill.into(),
        stdin: true,
        limits: Some(v1::Limits {
            cpu_max_quota_usec: Some(50_000),
            cpu_max_period_usec: Some(100_000),
            memory_max_bytes: Some(1 << 28),
            pids_max: Some(u64::MAX),
            io_max: vec![v1::IoMax {
                device: "8:0".into(),
                rbps: Some(1 << 20),
                ..Default::default()
            }],
            rlimits: vec![v1::Rlimit { name: "nofile".into(), soft: 10, hard: 1024 }],
            ..Default::default()
        }),
        cpu_time_limit: Some(prost_types::Duration { seconds: i64::MAX, nanos: -1 }),
        isolation: Some(v1::Isolation {
            profile: v1::isolation::Profile::Strict.into(),
            hostname: "h-1".into(),
            mounts: vec![v1::Mount { source: "/srv".into(), ..Default::default() }],
            ..Default::default()
        }),
    }
}

fn spec_record() -> SpecRecord {
    let request = JobRequest {
        argv: vec!["make".into(), "\"request_id\":\"no\"".into()],
        env: BTreeMap::from([("LANG".into(), "C".into())]),
        ..JobRequest::default()
    };
    let defaults = Defaults {
        run_as: vec!["nobody".into()],
        stop_timeout: Duration::from_secs(10),
        limits: LimitTables::default(),
        labels: BTreeMap::new(),
        isolation: Default::default(),
    };
    SpecRecord {
        format: FORMAT,
        id: "0197a3b4-0000-7000-8000-000000000001".parse().unwrap(),
        owner: Identity::new("ann").unwrap(),
        request_id: "a\"b".into(),
        request_digest: format!("2:{}", "0".repeat(64)),
        created_ns: 1_785_000_000_000_000_000,
        boot_id: Default::default(),
        spec: JobSpec::check(request, &defaults).unwrap(),
        account: Account {
            name: "nobody".into(),
            uid: 65_534,
            gid: 65_534,
            groups: vec![],
            home: "/nonexistent".into(),
        },
        disks: Default::default(),
        changes: vec![ChangeRecord {
            name: "memory.max".into(),
            to: "4096".into(),
            ..Default::default()
        }],
        is_changing: true,
        allowed_by: Default::default(),
        certificate: None,
    }
}

fn final_record() -> FinalRecord {
    let usage = Usage {
        cpu_usage_usec: Some(5),
        io: vec![IoUsage { device: "8:0".into(), rbytes: 1, ..Default::default() }],
        has_io: true,
        ..Usage::default()
    };
    FinalRecord {
        format: FORMAT,
        state: State::Finished,
        started: Some(StartedRecord { pid: 42, time_ns: 1 }),
        exit: Some(ExitRecord {
            wait_status: 7 << 8,
            cause: 1,
            source: 9,
            by: String::new(),
            time_ns: 2,
        }),
        failure: None,
        ended_ns: 3,
        ran_ns: Some(4),
        totals: Totals::default(),
        incomplete: false,
        usage,
        limits: vec![],
    }
}

#[test]
#[ignore = "writes the corpus anew: after a change of the format, to be added to what is there"]
fn write_the_corpus() {
    records();
    finished();
    requests();
    shims();
}

fn records() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = |file: fs::File| {
        drop(file);
        fs::read(dir.path().join("x")).unwrap()
    };
    let spec = sealed(save(dir.path(), "x", &spec_record()).unwrap());
    write("records", "spec", &spec);
    write("damage", "spec", &spec);
    write("damage", "half-a-spec", &spec[..spec.len() / 2]);
    write("damage", "spec-and-zeros", &[&spec[..100], &[0; 50]].concat());
    write("records", "final", &sealed(save(dir.path(), "x", &final_record()).unwrap()));
    let failure = Failure { step: "exec".into(), errno: 2, message: "no such file".into() };
    let failed = FinalRecord { exit: None, failure: Some(failure), ..final_record() };
    write("records", "final-failed", &sealed(save(dir.path(), "x", &failed).unwrap()));
    let request = RequestRecord { owner: Identity::new("ann").unwrap(), id: "1".into() };
    let spawn = SpawnRecord {
        format: FORMAT,
        boot_id: Default::default(),
        shim_pid: 7,
        shim_start_time: 9,
        nonce: Default::default(),
        request: Some(request.clone()),
    };
    write("records", "spawn", &sealed(save(dir.path(), "x", &spawn).unwrap()));
    write("records", "request", &sealed(save(dir.path(), "x", &request).unwrap()));
    let stop = StopRecord { format: FORMAT, source: 1, by: "ann".into(), kill_at_ms: u64::MAX };
    write("records", "stop", &sealed(save(dir.path(), "x", &stop).unwrap()));
    write("records", "of-another-format", b"{\"format\":2,\"x\":1}");
    write(
        "records",
        "without-checksum",
        b"{\"format\":1,\"source\":1,\"by\":\"\",\"kill_at_ms\":1}",
    );
    write(
        "records",
        "two-checksums",
        b"{\"format\":1,\"source\":1,\"by\":\"\",\"kill_at_ms\":1,\"crc32\":\"0\",\"crc32\":\"1\"}",
    );
    assert_eq!(SPEC, "spec.json");
}

fn finished() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(dir.path(), drop).unwrap();
    let one = Summary::new(&spec_record(), &final_record(), true, Stamp::default());
    let id: JobId = "0197a3b4-0000-7000-8000-000000000002".parse().unwrap();
    index.append(&one).unwrap();
    index.append(&Summary { id, request: None, kept: u64::MAX, ..one }).unwrap();
    let bytes = fs::read(dir.path().join(INDEX)).unwrap();
    write("finished", "two", &bytes);
    write("finished", "torn", &bytes[..bytes.len() - 40]);
    write("finished", "sign-in-the-checksum", b"+0000000 {}\n");
}

fn requests() {
    let spec = spec_message();
    write("start", "every-field", &spec.encode_to_vec());
    let least = v1::JobSpec { argv: vec!["true".into()], ..Default::default() };
    write("start", "least", &least.encode_to_vec());
    let nul = v1::JobSpec { argv: vec!["a\0b".into()], ..least.clone() };
    write("start", "nul", &nul.encode_to_vec());
    let env = [("LD_PRELOAD".to_owned(), "x".to_owned())].into();
    write("start", "linker", &v1::JobSpec { env, ..least.clone() }.encode_to_vec());
    let unknown = v1::JobSpec { output_policy: 99, stop_signal: -1, ..least };
    write("start", "unknown-policy", &unknown.encode_to_vec());
    let request = |choice: u8, name: &str, bytes: Vec<u8>| {
        write("requests", name, &[&[choice], &bytes[..]].concat());
    };
    let earliest = Some(prost_types::Timestamp { seconds: i64::MIN, nanos: i32::MIN });
    let list = v1::ListJobsRequest {
        states: vec![1, 2, 99],
        owner: "ann".into(),
        ended_before: earliest,
        ..Default::default()
    };
    request(0, "list", list.encode_to_vec());
    request(1, "wait", v1::WaitJobRequest { until: 2, ..Default::default() }.encode_to_vec());
    let output = v1::StreamOutputRequest {
        stream: 1,
        stdout_offset: u64::MAX,
        tail_lines: Some(3),
        since: Some(prost_types::Timestamp { seconds: 1, nanos: 5 }),
        ..Default::default()
    };
    request(2, "output", output.encode_to_vec());
    let update = v1::UpdateJobRequest {
        limits: spec.limits.clone(),
        time_limit_extension: Some(prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN }),
        ..Default::default()
    };
    request(3, "update", update.encode_to_vec());
    let can_i = v1::CanIRequest { verb: "start".into(), spec: Some(spec), ..Default::default() };
    request(4, "can-i", can_i.encode_to_vec());
    let verb = v1::CanIRequest { verb: "stop".into(), owner: "bob".into(), ..Default::default() };
    request(4, "can-i-stop", verb.encode_to_vec());
    let audit = v1::ReadAuditRequest {
        owner: "ann".into(),
        job: "0197".into(),
        verb: "stop".into(),
        since: earliest,
        ..Default::default()
    };
    request(5, "audit", audit.encode_to_vec());
    let most = prost_types::Duration { seconds: i64::MAX, nanos: i32::MAX };
    request(6, "duration", most.encode_to_vec());
    request(7, "deadline", b"99999999H".to_vec());
}

fn shims() {
    let progress =
        Progress { stdout: 1 << 60, stderr: 2, entries: 3, dropped: 1 << 59, blocked: None };
    let mut bytes = Vec::new();
    let by = String::from("ann");
    let (cause, source) = (job_shim::wire::Cause::Stopped, job_shim::wire::Source::User);
    for message in [
        FromShim::Started(Started { pid: 1, time_ns: 2 }),
        FromShim::Progress(progress),
        FromShim::InputAck(InputAck { accepted: u64::MAX, closed: false }),
        FromShim::Exited(Exited { wait_status: 9, cause, source, by, time_ns: u64::MAX }),
        FromShim::Stopping,
    ] {
        frame::write(&message, &mut bytes);
    }
    write("shim_message", "some", &bytes);
    let hello =
        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/files/frame/from-shim"));
    write("shim_message", "all", &hello.unwrap()[1..]);
    let entry = |time_ns, ends, stream| Entry { time_ns, ends, stream }.to_bytes();
    let entries = [
        entry(1, [4, 0], Stream::Stdout),
        entry(2, [4, 8], Stream::Stderr),
        entry(3, [14, 8], Stream::Stdout),
        entry(4, [14, 14], Stream::Stderr),
    ];
    for (name, choice) in [("both", 0u8), ("stdout", 1), ("stderr-by-entry", 6), ("since", 0x28)] {
        write("output", name, &[&[choice], &entries.concat()[..]].concat());
    }
    let disordered = [entry(9, [14, 8], Stream::Stdout), entry(1, [4, u64::MAX], Stream::Stderr)];
    write("output", "disordered", &[&[0], &disordered.concat()[..]].concat());
    write(
        "output",
        "claims-everything",
        &[&[0x10], &entry(0, [u64::MAX; 2], Stream::Stdout)[..]].concat(),
    );
}
