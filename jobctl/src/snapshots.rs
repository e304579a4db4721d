//! What people see, as files that a review shows: tables and descriptions of fixed data.
//!
//! The help texts are in `docs/CLI.md`. `INSTA_UPDATE=always cargo test -p jobctl` writes them anew.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use job_api::v1::job::State;
use job_api::v1::{
    Cause, Failure, Feature, GetServerInfoResponse, Image, Job, JobSpec, Limit, LimitTable, Limits,
    Quarantined, Source, Usage,
};
use prost_types::Timestamp;

use crate::commands::query::{info, inspect, ps, stats};

/// 2026-01-31 08:00:00 UTC.
const NOW: i64 = 1_769_846_400;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64)
}

fn ago(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: NOW - seconds, nanos: 0 })
}

fn job(number: u8, name: &str, argv: &[&str]) -> Job {
    Job {
        id: format!("019c0f2e-4a00-7c31-9b55-6d1f2a3b4c{number:02x}"),
        name: name.into(),
        owner: "ann".into(),
        uid: 65_534,
        gid: 65_534,
        created_at: ago(100),
        spec: Some(JobSpec {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            working_directory: "/".into(),
            run_as: "nobody".into(),
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn running() -> Job {
    let limit = |name: &str, value: &str| Limit {
        name: name.into(),
        requested: value.into(),
        applied: Some(value.into()),
        effective: Some(value.into()),
        ..Limit::default()
    };
    let bound = Limit {
        applied: Some("max".into()),
        effective: Some("1000".into()),
        bound_by: "jobs".into(),
        ..limit("pids.max", "")
    };
    Job {
        state: State::Running.into(),
        pid: Some(4711),
        started_at: ago(99),
        stdout_bytes: 3 << 20,
        stderr_bytes: 120,
        warnings: vec!["the disk is full: the job waits until there is room".into()],
        limits: vec![
            limit("cpu.max", "50000 100000"),
            limit("memory.max", "67108864"),
            bound,
            Limit { is_default: true, ..limit("time_limit", "3600s") },
        ],
        usage: Some(Usage {
            cpu_usage_usec: Some(45_500_000),
            cpu_user_usec: Some(40_000_000),
            cpu_system_usec: Some(5_500_000),
            cpu_nr_periods: Some(990),
            cpu_nr_throttled: Some(40),
            cpu_throttled_usec: Some(3_200_000),
            memory_current_bytes: Some(12 << 20),
            memory_peak_bytes: Some(48 << 20),
            stdout_bytes: 3 << 20,
            stderr_bytes: 120,
            wall_time: Some(prost_types::Duration { seconds: 99, nanos: 0 }),
            pids_current: Some(3),
            pids_peak: Some(10),
            ..Usage::default()
        }),
        ..job(1, "build", &["make", "-j4", "all"])
    }
}

/// One job for each way to end.
fn ended() -> Vec<Job> {
    let end = |number, name: &str, cause: Cause| Job {
        state: State::Finished.into(),
        cause: cause.into(),
        started_at: ago(99),
        ended_at: ago(40),
        ..job(number, name, &["sh", "-c", "exit 7"])
    };
    vec![
        Job { exit_code: Some(7), ..end(2, "exited", Cause::Exited) },
        Job {
            signal: Some(11),
            source: Source::System.into(),
            ..end(3, "segfault", Cause::Signaled)
        },
        Job {
            signal: Some(15),
            source: Source::Admin.into(),
            ended_by: "root-admin".into(),
            ..end(4, "stopped", Cause::Stopped)
        },
        Job {
            signal: Some(9),
            ended_by_limit: "memory.max".into(),
            ..end(5, "oom", Cause::OutOfMemory)
        },
        Job { ended_by_limit: "time_limit".into(), ..end(6, "late", Cause::TimedOut) },
        Job {
            dropped_bytes: 5 << 20,
            incomplete: true,
            ended_by_limit: "output_limit".into(),
            ..end(7, "chatty", Cause::OutputLimit)
        },
        Job {
            started_at: None,
            failure: Some(Failure {
                step: "exec".into(),
                error_number: 2,
                message: "No such file or directory".into(),
            }),
            ..end(8, "typo", Cause::StartFailed)
        },
        Job {
            state: State::Lost.into(),
            failure: Some(Failure {
                step: "host".into(),
                message: "the host went down while it ran".into(),
                ..Failure::default()
            }),
            ..end(9, "lost", Cause::Lost)
        },
    ]
}

fn all() -> Vec<Job> {
    std::iter::once(running()).chain(ended()).collect()
}

/// A file for each command, of sections under headings.
fn check(command: &str, sections: &[(&str, String)]) {
    let section = |(heading, text): &(&str, String)| format!("== {heading}\n{text}");
    let text = sections.iter().map(section).collect::<Vec<_>>().join("\n");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(command, text));
}

#[test]
fn ps_lists_jobs() {
    check(
        "ps",
        &[("jobctl ps -a", ps::narrow(&all(), now())), ("jobctl ps -a -o wide", ps::wide(&all()))],
    );
}

#[test]
fn status_describes_a_job() {
    let mut sections = vec![
        ("jobctl status", inspect::job_lines(&running(), now()).shown()),
        ("jobctl status --limits", inspect::limits(&running())),
    ];
    let ended = ended();
    sections.extend(
        ended.iter().map(|job| (job.name.as_str(), inspect::job_lines(job, now()).shown())),
    );
    check("status", &sections);
}

#[test]
fn stats_show_what_jobs_use() {
    let a_second_ago = Usage {
        cpu_usage_usec: Some(45_000_000),
        wall_time: Some(prost_types::Duration { seconds: 98, nanos: 0 }),
        ..running().usage.unwrap_or_default()
    };
    let before = HashMap::from([(running().id, a_second_ago)]);
    let table = |wide, width| stats::columns::table(&all(), &before, wide, width, None);
    let sections = [
        ("jobctl stats --no-stream", table(false, Some(100))),
        ("jobctl stats --no-stream -o wide", table(true, None)),
    ];
    check("stats", &sections);
}

#[test]
fn info_describes_the_broker() {
    let feature = |name: &str, reason: &str| Feature {
        name: name.into(),
        available: reason.is_empty(),
        reason: reason.into(),
    };
    let limits = |memory, time| {
        Some(LimitTable {
            limits: Some(Limits { memory_max_bytes: Some(memory), ..Limits::default() }),
            time_limit: Some(prost_types::Duration { seconds: time, nanos: 0 }),
            ..LimitTable::default()
        })
    };
    let broker = GetServerInfoResponse {
        certificates: None,
        version: "0.1.0".into(),
        hostname: "host-1".into(),
        kernel: "6.12.43".into(),
        boot_id: "6f2a1c9e-0b7d-4a53-8f1e-2d3c4b5a6978".into(),
        started_at: ago(7_300),
        default_isolation: 2,
        minimum_isolation: 1,
        epoch: 3,
        running_jobs: 12,
        stored_jobs: 3_456,
        cgroup: "/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope".into(),
        controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
        missing_controllers: HashMap::from([("io".into(), "held by cgroup v1".into())]),
        features: vec![feature("cgroup.kill", ""), feature("psi", "the kernel has no PSI")],
        run_as: vec!["nobody".into(), "pool".into()],
        rootfs: vec!["/srv/roots/*".into()],
        images: vec![Image {
            name: "debian:12".into(),
            digest: format!("sha256:{}", "5d".repeat(32)),
            argv: vec!["bash".into()],
        }],
        quarantined: vec![Quarantined {
            id: "019c0f2e-4a00-7c31-9b55-6d1f2a3b4cff".into(),
            reason: "spec.json does not match its checksum".into(),
        }],
        default_limits: limits(256 << 20, 3_600),
        max_limits: limits(4 << 30, 86_400),
    };
    let text = info::lines(&broker, "host-1:8443", now()).shown() + &info::limits(&broker);
    check("info", &[("jobctl info", text)]);
}
