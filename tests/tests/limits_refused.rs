//! Limits that cannot be had: said, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{
    GetServerInfoRequest, IoMax, JobSpec, Limits, ListJobsRequest, Rlimit, UpdateJobRequest,
};
use job_tests::host::{self, Need};
use job_tests::refusal::{assert_precondition, violation};
use job_tests::{Env, api};
use tonic::{Code, Status};

/// No limit, as the contract writes the kernel's "max".
const MAX: u64 = u64::MAX;

fn io_max(path: &str, device: &str, wbps: Option<u64>) -> Limits {
    let io_max = IoMax { path: path.into(), device: device.into(), wbps, ..Default::default() };
    Limits { io_max: vec![io_max], ..Default::default() }
}

fn rlimit(name: &str, soft: u64, hard: u64) -> Limits {
    Limits { rlimits: vec![Rlimit { name: name.into(), soft, hard }], ..Default::default() }
}

async fn try_start(client: &mut Client, limits: Limits) -> Result<String, Status> {
    let spec = JobSpec { limits: Some(limits), ..api::spec(&["true"]) };
    Ok(api::try_start(client, spec).await?.id)
}

async fn refused(client: &mut Client, limits: Limits) -> Status {
    let shown = format!("{limits:?}");
    try_start(client, limits).await.map(|_| shown).expect_err("it must be refused")
}

async fn assert_nothing_runs(env: &Env, client: &mut Client) {
    let states = [State::Starting, State::Running, State::Stopping, State::Paused];
    let states = states.into_iter().map(Into::into).collect();
    let request = ListJobsRequest { states, ..Default::default() };
    let jobs = client.list_jobs(request).await.unwrap().into_inner().jobs;
    assert!(jobs.is_empty(), "{jobs:?}");
    env.assert_clean();
}

/// A limit that is one number: its field, how it is set, the ends of its range, and whether "max"
/// takes it away.
type Number = (&'static str, fn(u64) -> Limits, (u64, u64), bool);

const NUMBERS: [Number; 8] = [
    (
        "cpu_max_quota_usec",
        |n| Limits { cpu_max_quota_usec: Some(n), ..Default::default() },
        (1000, 1_000_000_000),
        true,
    ),
    (
        "cpu_max_period_usec",
        |n| Limits {
            cpu_max_quota_usec: Some(5000),
            cpu_max_period_usec: Some(n),
            ..Default::default()
        },
        (1000, 1_000_000),
        false,
    ),
    ("cpu_weight", |n| Limits { cpu_weight: Some(n), ..Default::default() }, (1, 10_000), false),
    (
        "memory_max_bytes",
        |n| Limits { memory_max_bytes: Some(n), ..Default::default() },
        (1 << 20, 1 << 60),
        true,
    ),
    (
        "memory_high_bytes",
        |n| Limits { memory_high_bytes: Some(n), ..Default::default() },
        (1 << 20, 1 << 60),
        true,
    ),
    (
        "memory_swap_max_bytes",
        |n| Limits { memory_swap_max_bytes: Some(n), ..Default::default() },
        (0, 1 << 60),
        true,
    ),
    ("pids_max", |n| Limits { pids_max: Some(n), ..Default::default() }, (1, 4_194_304), true),
    ("io_weight", |n| Limits { io_weight: Some(n), ..Default::default() }, (1, 10_000), false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn numbers_beyond_either_end_of_their_range_are_invalid_and_name_field_and_range() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for (name, limits, (least, most), can_be_max) in NUMBERS {
        let below = [0, least.saturating_sub(1)].into_iter().filter(|n| *n < least);
        let above = [most + 1, MAX - 1].into_iter().chain((!can_be_max).then_some(MAX));
        for number in below.chain(above) {
            let (field, said) = violation(&refused(&mut client, limits(number)).await);
            assert_eq!(field, format!("spec.limits.{name}"));
            for word in [number, least, most] {
                assert!(said.contains(&word.to_string()), "{name} {number}: {said}");
            }
        }
    }
    let all = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert!(all.is_empty(), "what is refused is no job");
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn both_ends_of_each_range_are_in_it() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for (name, limits, (least, most), can_be_max) in NUMBERS {
        for number in [least, most].into_iter().chain(can_be_max.then_some(MAX)) {
            // What the host cannot do is another matter, and so is a job that cannot live on 1 MiB.
            if let Err(status) = try_start(&mut client, limits(number)).await {
                assert_eq!(status.code(), Code::FailedPrecondition, "{name} {number}: {status}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rates_and_disks_that_make_no_sense_are_invalid() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut many = io_max("/", "", Some(5000));
    many.io_max = vec![many.io_max[0].clone(); 17];
    let rate = |rbps, wbps, riops, wiops| {
        let path = "/tmp".into();
        let io_max = IoMax { path, device: String::new(), rbps, wbps, riops, wiops };
        Limits { io_max: vec![io_max], ..Default::default() }
    };
    let cases = [
        rate(Some(0), None, None, None),
        rate(None, Some(0), None, None),
        rate(None, None, Some(0), None),
        rate(None, None, None, Some(0)),
        rate(None, None, None, None),
        // The kernel keeps operations in 32 bits.
        rate(None, None, Some(1 << 32), None),
        rate(None, None, None, Some(MAX - 1)),
        io_max("tmp", "", Some(5000)),
        io_max("/t\0mp", "", Some(5000)),
        io_max("/tmp", "8:0", Some(5000)),
        io_max("", "8", Some(5000)),
        io_max("", "8:x", Some(5000)),
        io_max("", "-8:0", Some(5000)),
        io_max("", "8:99999999999", Some(5000)),
        many,
    ];
    for limits in cases {
        let shown = format!("{:?}", limits.io_max[0]);
        let status = refused(&mut client, limits).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}: {status}");
        let (field, _) = violation(&status);
        assert!(field.starts_with("spec.limits.io_max"), "{shown}: {field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rlimits_that_make_no_sense_are_invalid() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut twice = rlimit("nofile", 16, 16);
    twice.rlimits.extend(rlimit("nofile", 17, 17).rlimits);
    for limits in [
        rlimit("files", 16, 16),
        rlimit("", 16, 16),
        rlimit("NOFILE", 16, 16),
        rlimit("nofile", 17, 16),
        // Above fs.nr_open no setrlimit(2) succeeds.
        rlimit("nofile", 16, MAX),
        twice,
    ] {
        let shown = format!("{:?}", limits.rlimits);
        let status = refused(&mut client, limits).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}: {status}");
        let (field, said) = violation(&status);
        assert!(field.starts_with("spec.limits.rlimits"), "{shown}: {field}");
        assert!(said.contains("nofile"), "{shown}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cpu_time_that_is_not_positive_is_invalid() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for (seconds, nanos) in [(0, 0), (-1, 0), (0, -5), (i64::MAX, 0), (i64::MIN, 0)] {
        let mut spec = api::spec(&["true"]);
        spec.cpu_time_limit = Some(prost_types::Duration { seconds, nanos });
        let status = api::try_start(&mut client, spec).await.unwrap_err();
        let (field, _) = violation(&status);
        assert!(field.ends_with("cpu_time_limit"), "{seconds} s {nanos} ns: {field}");
    }
}

#[test]
fn limits_that_are_no_numbers_negative_or_too_large_are_bad_usage_of_jobctl() {
    let env = Env::start();
    for (option, value) in [
        ("--cpus", "abc"),
        ("--cpus", "-1"),
        ("--cpus", "0"),
        ("--cpus", "nan"),
        ("--memory", "-64M"),
        ("--memory", "99999999999999999999"),
        ("--memory", "0x10"),
        ("--memory-swap", "-1"),
        ("--pids-limit", "0"),
        ("--pids-limit", "4194305"),
        ("--io", "fastest"),
        ("--device-write-bps", "fast"),
        ("--device-read-iops", "0"),
        ("--ulimit", "files=3"),
        ("--ulimit", "nofile=20:10"),
        ("--time", "0"),
        ("--cpu-time", "soon"),
        ("--output-limit", "lots"),
    ] {
        let ran = env.jobctl("user-a", &["run", &format!("{option}={value}"), "--", "true"]);
        assert_eq!((ran.code(), ran.out()), (125, String::new()), "{option}={value}");
        let said = ran.err();
        let names = said.contains(option.trim_start_matches('-')) || said.contains("spec.");
        assert!(names, "{option}={value}: {said}");
    }
    assert_eq!(env.jobctl("user-a", &["ps", "-a", "-q"]).out(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_has_no_disk_can_have_no_limit_of_one() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let tmpfs = Env::builder().state_disk("1M").start();
    let tmpfs_path = tmpfs.path("state").display().to_string();
    let mut paths = vec![tmpfs_path.as_str(), "/proc", "/sys"];
    if job_tests::is_testbed() {
        // The host's own tree, by hostfs.
        paths.push(env!("CARGO_MANIFEST_DIR"));
    }
    // Where there is no controller, that is what is said.
    let words = |path| if Need::Io.is_met() { vec![path] } else { vec!["io"] };
    for path in paths {
        let status = refused(&mut client, io_max(path, "", Some(5_000_000))).await;
        assert_precondition(&status, &words(path));
    }
    let by_default = JobSpec {
        working_directory: "/proc".into(),
        limits: Some(io_max("", "", Some(5_000_000))),
        ..api::spec(&["true"])
    };
    let status = api::try_start(&mut client, by_default).await.unwrap_err();
    assert_precondition(&status, &words("/proc"));
    let status = refused(&mut client, io_max("/no/such", "", Some(5_000_000))).await;
    assert_precondition(&status, &words("/no/such"));
    assert_nothing_runs(&env, &mut client).await;
}

/// Else the answers would tell what is in root's directories.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_path_that_the_jobs_user_may_not_look_at_is_refused_alike_whether_it_is_there_or_not() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let hidden = env.path("hidden");
    DirBuilder::new().mode(0o700).create(&hidden).unwrap();
    fs::create_dir(hidden.join("there")).unwrap();
    // Of a path, and of the disk of the working directory in both ways there are.
    let asked: [fn(&str) -> JobSpec; 3] = [
        |path| JobSpec { limits: Some(io_max(path, "", Some(5_000_000))), ..api::spec(&["true"]) },
        |path| JobSpec {
            working_directory: path.into(),
            limits: Some(io_max("", "", Some(5_000_000))),
            ..api::spec(&["true"])
        },
        |path| JobSpec {
            working_directory: path.into(),
            limits: Some(NUMBERS[7].1(50)),
            ..api::spec(&["true"])
        },
    ];
    for ask in asked {
        let mut said = Vec::new();
        for name in ["there", "absent"] {
            let path = hidden.join(name).display().to_string();
            let status = api::try_start(&mut client, ask(&path)).await.unwrap_err();
            assert_precondition(&status, &[&path, "Permission denied"]);
            said.push(status.message().replace(&path, "PATH"));
        }
        assert_eq!(said[0], said[1]);
    }
    assert_nothing_runs(&env, &mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_device_that_is_no_disk_can_have_no_limit() {
    if !host::has(&[Need::Io]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    // /dev/null as a character device is 1:3, but 1:3 is no block device here; 0:1 is anonymous.
    for device in ["1:3", "0:1", "4095:1048575"] {
        let status = refused(&mut client, io_max("", device, Some(5_000_000))).await;
        assert_precondition(&status, &[device]);
    }
    assert_nothing_runs(&env, &mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_on_a_controller_that_is_missing_is_refused_and_leaves_nothing_behind() {
    // A broker has the host hand down what it can: before there was one, more may have been missing.
    let env = Env::start();
    let all = [Need::Cpu, Need::Memory, Need::Pids, Need::Io];
    let missing: Vec<_> = all.into_iter().filter(|need| host::lacks(*need)).collect();
    let mut client = env.client("user-a").await;
    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    for (need, limits) in [
        (Need::Cpu, NUMBERS[0].1(20_000)),
        (Need::Cpu, NUMBERS[2].1(200)),
        (Need::Memory, NUMBERS[3].1(64 << 20)),
        (Need::Memory, NUMBERS[4].1(64 << 20)),
        (Need::Memory, NUMBERS[5].1(1 << 20)),
        (Need::Pids, NUMBERS[6].1(10)),
        (Need::Io, NUMBERS[7].1(50)),
        (Need::Io, io_max("/usr", "", Some(5_000_000))),
    ] {
        if !missing.contains(&need) {
            continue;
        }
        let reason = &info.missing_controllers[&need.to_string()];
        assert!(!reason.is_empty());
        let status = refused(&mut client, limits).await;
        assert_precondition(&status, &[&need.to_string(), reason]);
    }
    assert_nothing_runs(&env, &mut client).await;
    // Nor does a running job get one.
    if missing.contains(&Need::Pids) {
        let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
        let limits = Some(NUMBERS[6].1(10));
        let request = UpdateJobRequest { id, limits, ..Default::default() };
        let status = api::update(&mut client, request).await.unwrap_err();
        assert_precondition(&status, &["pids", &info.missing_controllers["pids"]]);
    }
    if missing.contains(&Need::Memory) {
        let ran = env.jobctl("user-a", &["run", "-m", "64M", "--", "true"]);
        ran.expect(125);
        assert!(ran.err().contains("memory"), "{}", ran.err());
    }
}

/// The testbed's kernel has the controller, and neither io.cost nor BFQ.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_weight_that_the_kernel_does_not_know_is_refused() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    let feature = info.features.iter().find(|feature| feature.name == "io.weight").unwrap();
    assert!(!(job_tests::is_testbed() && feature.available));
    if feature.available {
        return host::skip("this kernel knows it");
    }
    assert!(!feature.reason.is_empty());
    let status = refused(&mut client, NUMBERS[7].1(50)).await;
    assert_precondition(&status, &["io"]);
    let ran = env.jobctl("user-a", &["run", "--io", "low", "--", "true"]);
    ran.expect(125);
    assert_nothing_runs(&env, &mut client).await;
}

/// A kernel that takes a value and makes another of it is not believed: memory is in pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bytes_that_are_no_whole_pages_are_rounded_down_and_shown_so() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let limits = NUMBERS[3].1((64 << 20) + 4095);
    let spec = JobSpec { limits: Some(limits), ..api::spec(&["sleep", "1000"]) };
    let id = api::start(&mut client, spec).await.id;
    let job = api::job(&mut client, &id).await;
    assert_eq!(api::limit(&job, "memory.max").applied(), (64 << 20).to_string());
}

/// On a host that lacks a controller: whose wish it is that cannot be met.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limit_that_the_configuration_asks_for_is_not_taken_for_the_callers() {
    for section in ["[limits.default]", "[limits.max]"] {
        let env = Env::builder().sections(&format!("{section}\nmemory = \"64M\"\n")).start();
        if !host::lacks(Need::Memory) {
            return;
        }
        let mut client = env.client("user-a").await;
        let status = api::try_start(&mut client, api::spec(&["true"])).await.unwrap_err();
        assert_precondition(&status, &["memory.max", section, "the request does not set"]);
        let status = refused(&mut client, NUMBERS[3].1(32 << 20)).await;
        assert_precondition(&status, &["memory.max"]);
        assert!(!status.message().contains("[limits"), "{status:?}");
        let status = refused(&mut client, NUMBERS[6].1(10)).await;
        assert_precondition(&status, &["memory.max", section]);
        assert_nothing_runs(&env, &mut client).await;
    }
}
