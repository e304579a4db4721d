//! What the operator gives to jobs that do not say, the most that they may have, and how each limit
//! of a job is shown: asked, applied, and what binds.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::time::Duration;

use job_api::v1::{Cause, GetServerInfoRequest, IoMax, JobSpec, Limits, Rlimit, UpdateJobRequest};
use job_tests::host::{self, Need};
use job_tests::measure;
use job_tests::refusal::violation;
use job_tests::{Env, api, until};

const MIB: u64 = 1 << 20;

fn seconds(seconds: u64) -> Option<prost_types::Duration> {
    Some(api::duration(Duration::from_secs(seconds)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_asks_nothing_has_the_defaults_and_they_are_shown_as_such() {
    let defaults = "[limits.default]\ntime = \"1s\"\ncpu_time = \"1h\"\noutput = \"1K\"\n\
                    ulimit = { nofile = 16, fsize = [4096, 8192] }\n";
    let env = Env::builder().sections(defaults).start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    api::ended(&mut client, &id).await;
    let job = api::job(&mut client, &id).await;
    assert_eq!((job.cause(), job.ended_by_limit.as_str()), (Cause::TimedOut, "time_limit"));
    for (name, applied) in
        [("time_limit", "1s"), ("cpu_time_limit", "3600s"), ("output_limit", "1024")]
    {
        let limit = api::limit(&job, name);
        assert_eq!((limit.applied(), limit.is_default), (applied, true), "{limit:?}");
        assert_eq!(limit.requested, applied);
    }
    for name in ["rlimit nofile", "rlimit fsize"] {
        assert!(api::limit(&job, name).is_default);
    }
    // One's own wish goes before, and leaves the others: there is time for all of this.
    let mut spec = api::script(&format!("{} open 32; yes | head -c 2000", env.load()));
    spec.time_limit = seconds(60);
    let id = api::start(&mut client, spec).await.id;
    let output = api::output(&mut client, &id).await;
    assert!(output.stdout.starts_with(b"made 13 refused 19 errno 24\n"));
    assert_eq!(output.stdout.len(), 1024);
    let job = api::job(&mut client, &id).await;
    let limit = api::limit(&job, "time_limit");
    assert_eq!((limit.applied(), limit.is_default), ("60s", false));

    let info = client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    let table = info.default_limits.unwrap();
    assert_eq!((table.time_limit, table.output_limit_bytes), (seconds(1), 1024));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_that_asks_nothing_is_kept_to_the_defaults_of_the_kernels_limits() {
    if !host::has(&[Need::Cpu, Need::Memory, Need::Pids]) {
        return;
    }
    let defaults = "[limits.default]\ncpus = 0.2\nmemory = \"32M\"\npids = 10\n\
                    [limits.max]\nmemory = \"64M\"\npids = 100\n";
    let env = Env::builder().sections(defaults).start();
    let mut client = env.client("user-a").await;
    // With a fifth of a processor these would take their time.
    let run = |options: &[&str], command: &[&str]| {
        let (first, load) = (["run", "--cpus", "1"], ["--", &env.load()]);
        env.jobctl("user-a", &[&first[..], options, &load, command].concat())
    };
    assert_eq!(run(&[], &["spawn", "20"]).out(), "made 9 refused 11 errno 11\n");
    run(&[], &["fill", "48"]).expect(137);
    run(&["-m", "64M"], &["fill", "48"]).expect(0);
    let _alone = measure::alone();
    let id = api::start(&mut client, api::script("while :; do :; done")).await.id;
    let window = Duration::from_secs(2);
    measure::assert_cpus((&mut client, &env), &id, window, 0.2).await;
    let job = api::job(&mut client, &id).await;
    for (name, applied) in [("memory.max", "33554432"), ("pids.max", "10")] {
        let limit = api::limit(&job, name);
        assert_eq!((limit.applied(), limit.is_default), (applied, true), "{limit:?}");
    }
    // Swap would be memory by another name.
    assert_eq!(api::limit(&job, "memory.swap.max").applied(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_above_a_ceiling_is_refused_and_the_ceiling_named() {
    let ceilings = "[limits.max]\ncpus = 0.5\nmemory = \"64M\"\npids = 100\ntime = \"10m\"\n\
                    cpu_time = \"1m\"\noutput = \"1M\"\nulimit = { nofile = 64 }\n";
    // A host that lacks the controllers cannot give every job these ceilings: there, the others.
    let kernel = [Need::Cpu, Need::Memory, Need::Pids].into_iter().all(Need::is_met);
    let own = "[limits.max]\ntime = \"10m\"\ncpu_time = \"1m\"\noutput = \"1M\"\n\
               ulimit = { nofile = 64 }\n";
    let env = Env::builder().sections(if kernel { ceilings } else { own }).start();
    let mut client = env.client("user-a").await;
    let limits = |limits| JobSpec { limits: Some(limits), ..Default::default() };
    let nofile = Rlimit { name: "nofile".into(), soft: 1, hard: 65 };
    let mut cases = vec![
        (JobSpec { time_limit: seconds(601), ..Default::default() }, "time_limit", "600"),
        (JobSpec { cpu_time_limit: seconds(61), ..Default::default() }, "cpu_time_limit", "60"),
        (
            JobSpec { output_limit_bytes: MIB + 1, ..Default::default() },
            "output_limit_bytes",
            "1048576",
        ),
        (limits(Limits { rlimits: vec![nofile], ..Default::default() }), "limits.rlimits", "64"),
    ];
    if kernel {
        let cpu = |quota, period| Limits {
            cpu_max_quota_usec: Some(quota),
            cpu_max_period_usec: Some(period),
            ..Default::default()
        };
        let memory = |bytes| Limits { memory_max_bytes: Some(bytes), ..Default::default() };
        let pids = |count| Limits { pids_max: Some(count), ..Default::default() };
        cases.extend([
            (limits(cpu(50_001, 100_000)), "limits.cpu_max_quota_usec", "0.5"),
            (limits(cpu(1000, 1000)), "limits.cpu_max_quota_usec", "0.5"),
            (limits(cpu(u64::MAX, 100_000)), "limits.cpu_max_quota_usec", "0.5"),
            (limits(memory(64 * MIB + 1)), "limits.memory_max_bytes", "67108864"),
            (limits(memory(u64::MAX)), "limits.memory_max_bytes", "67108864"),
            (limits(pids(101)), "limits.pids_max", "100"),
        ]);
    }
    for (spec, name, ceiling) in cases {
        let spec = JobSpec { argv: vec!["true".into()], ..spec };
        let status = api::try_start(&mut client, spec).await.unwrap_err();
        let (field, said) = violation(&status);
        assert_eq!(field, format!("spec.{name}"));
        assert!(said.contains(ceiling) && said.contains("limits.max"), "{name}: {said}");
    }
    // What asks nothing gets the ceiling, and no update leads above it.
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    let job = api::job(&mut client, &id).await;
    assert_eq!(api::limit(&job, "time_limit").applied(), "600s");
    for request in [
        UpdateJobRequest { time_limit: seconds(601), ..Default::default() },
        UpdateJobRequest { time_limit_extension: seconds(1), ..Default::default() },
        UpdateJobRequest { cpu_time_limit: seconds(61), ..Default::default() },
        UpdateJobRequest { output_limit_bytes: MIB + 1, ..Default::default() },
    ] {
        let request = UpdateJobRequest { id: id.clone(), ..request };
        let (_, said) = violation(&api::update(&mut client, request).await.unwrap_err());
        assert!(said.contains("limits.max"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_wish_of_a_job_takes_the_ceiling_of_its_disk_away() {
    if !host::has(&[Need::Io, Need::Disk]) {
        return;
    }
    let env = Env::builder().sections("[limits.max]\nwrite_bps = \"5000000\"\n").start();
    let disk = host::disk();
    let path = disk.path().display().to_string();
    let mut client = env.client("user-a").await;
    let text = "while :; do dd if=/dev/zero of=x bs=64k count=160 oflag=direct conv=notrunc; done";
    // Another rate of the same disk, under another name of it.
    let io_max = IoMax { path: path.clone(), rbps: Some(90_000_000), ..Default::default() };
    let limits = Limits { io_max: vec![io_max.clone()], ..Default::default() };
    let spec = JobSpec { working_directory: path.clone(), ..api::limited(text, limits) };
    let id = api::start(&mut client, spec).await.id;
    let job = api::job(&mut client, &id).await;
    let name = job.limits.iter().find_map(|limit| limit.name.strip_prefix("io.max ")).unwrap();
    assert!(api::limit(&job, &format!("io.max {name}")).applied().contains("wbps=5000000"));
    measure::assert_io_rate((&mut client, &env), &id, (name, "wbytes"), 5e6).await;
    // And no update, whatever it calls the disk.
    for path in [path.clone(), String::new()] {
        let io_max = IoMax { path, riops: Some(100), ..Default::default() };
        let limits = Some(Limits { io_max: vec![io_max], ..Default::default() });
        let request = UpdateJobRequest { id: id.clone(), limits, ..Default::default() };
        let job = api::update(&mut client, request).await.unwrap();
        let applied = api::limit(&job, &format!("io.max {name}")).applied();
        assert!(applied.contains("wbps=5000000"), "{applied}");
    }
    let above = IoMax { wbps: Some(5_000_001), ..io_max };
    let limits = Limits { io_max: vec![above], ..Default::default() };
    let status = api::try_start(&mut client, api::limited("true", limits)).await.unwrap_err();
    let (field, said) = violation(&status);
    assert!(field.starts_with("spec.limits.io_max") && said.contains("5000000"), "{field} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_an_operator_sets_above_all_jobs_is_shown_as_what_binds() {
    if !host::has(&[Need::Cpu, Need::Memory, Need::Pids]) {
        return;
    }
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let limits = Limits {
        memory_max_bytes: Some(256 * MIB),
        pids_max: Some(1000),
        cpu_max_quota_usec: Some(50_000),
        ..Default::default()
    };
    let id = api::start(&mut client, api::limited("sleep 1000", limits)).await.id;
    let tree = env.cgroup().path();
    fs::write(tree.join("memory.max"), "128M").unwrap();
    fs::write(tree.join("pids.max"), "1000").unwrap();
    fs::write(tree.join("cpu.max"), "20000 50000").unwrap();
    let job = api::job(&mut client, &id).await;
    let shown = |name: &str| {
        let limit = api::limit(&job, name).clone();
        [limit.requested, limit.applied.unwrap(), limit.effective.unwrap(), limit.bound_by]
    };
    let [requested, applied, effective, bound_by] = shown("memory.max");
    assert_eq!((requested.as_str(), applied.as_str()), ("268435456", "268435456"));
    assert_eq!(effective, "134217728");
    let tree_name = tree.file_name().unwrap().to_str().unwrap();
    assert!(bound_by.contains(tree_name) && !bound_by.contains(&id), "{bound_by}");
    let [_, applied, effective, bound_by] = shown("cpu.max");
    assert_eq!((applied.as_str(), effective.as_str()), ("50000 100000", "20000 50000"));
    assert!(bound_by.contains(tree_name), "{bound_by}");
    // What is not tighter does not bind.
    let [_, applied, effective, bound_by] = shown("pids.max");
    assert_eq!((applied.as_str(), effective.as_str(), bound_by.as_str()), ("1000", "1000", ""));

    let shown = env.jobctl("user-a", &["status", &id, "--limits"]).out();
    assert!(shown.contains("memory.max") && shown.contains(tree_name), "{shown}");
    // A job that asked nothing is bound all the same.
    let free = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    let job = api::job(&mut client, &free).await;
    let limit = api::limit(&job, "memory.max");
    assert_eq!((limit.applied(), limit.effective()), ("max", "134217728"));
    assert_eq!(limit.requested, "");
}

#[test]
fn a_default_above_its_ceiling_keeps_the_broker_from_starting() {
    let sections = "[limits.default]\ntime = \"2h\"\n[limits.max]\ntime = \"1h\"\n";
    let started = std::panic::catch_unwind(|| Env::builder().sections(sections).start());
    let said = started.err().and_then(|panic| panic.downcast::<String>().ok());
    let said = said.expect("it does not start, and says why");
    assert!(said.contains("limits.default") && said.contains("time"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn limits_of_each_process_are_what_was_asked() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let rlimit = |name: &str, soft, hard| Rlimit { name: name.into(), soft, hard };
    let rlimits = vec![
        rlimit("core", 0, u64::MAX),
        rlimit("cpu", 100, 200),
        rlimit("fsize", 512 << 10, 1024 << 10),
        rlimit("memlock", 4096, 8192),
        rlimit("nofile", 100, 200),
        rlimit("nproc", 300, 400),
        rlimit("stack", 4 * MIB, 8 * MIB),
    ];
    // Each process has them: a child of the shell is asked.
    let spec = api::limited(
        "cat /proc/self/limits",
        Limits { rlimits: rlimits.clone(), ..Default::default() },
    );
    let id = api::start(&mut client, spec).await.id;
    let text = String::from_utf8(api::output(&mut client, &id).await.stdout).unwrap();
    let job = api::job(&mut client, &id).await;
    let words = |n: u64| if n == u64::MAX { "unlimited".into() } else { n.to_string() };
    for (limit, title) in rlimits.iter().zip([
        "Max core file size",
        "Max cpu time",
        "Max file size",
        "Max locked memory",
        "Max open files",
        "Max processes",
        "Max stack size",
    ]) {
        let line = text.lines().find(|line| line.starts_with(title)).unwrap();
        let values: Vec<_> = line[title.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [words(limit.soft), words(limit.hard)], "{line}");
        let shown = api::limit(&job, &format!("rlimit {}", limit.name));
        let word = |n: u64| if n == u64::MAX { "max".into() } else { n.to_string() };
        assert_eq!(shown.applied(), format!("{} {}", word(limit.soft), word(limit.hard)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn limits_of_each_process_bind() {
    let env = Env::start();
    let shared = env.shared().display().to_string();
    let load = env.load();
    let run = |limit: &str, command: &[&str]| {
        let args = ["run", "-w", shared.as_str(), "--ulimit", limit, "--"];
        env.jobctl("user-a", &[&args[..], command].concat())
    };
    // 16 with the three of standard input and output.
    let ran = run("nofile=16", &[&load, "open", "32"]);
    assert_eq!((ran.code(), ran.out()), (0, "made 13 refused 19 errno 24\n".into()));

    let sigxfsz = 128 + 25;
    run("fsize=16384", &["dd", "if=/dev/zero", "of=written", "bs=1k", "count=100"]).expect(sigxfsz);
    assert_eq!(fs::metadata(env.shared().join("written")).unwrap().len(), 16384);

    let sigxcpu = 128 + 24;
    // At the hard limit it would be SIGKILL.
    run("cpu=1:60", &["sh", "-c", "while :; do :; done"]).expect(sigxcpu);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_leaves_a_core_only_where_it_asked_for_one() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['/', '|']) {
        return host::skip("cores of this host go to a place of its own");
    }
    let env = Env::start();
    let shared = env.shared().display().to_string();
    let cores = || fs::read_dir(env.shared()).unwrap().count();
    let crash = ["--", "sh", "-c", "kill -SEGV $$"];
    let sigsegv = 128 + 11;
    env.jobctl("user-a", &[&["run", "-w", &shared][..], &crash].concat()).expect(sigsegv);
    assert_eq!(cores(), 0);
    let args = ["run", "-w", &shared, "--ulimit", "core=100000000"];
    env.jobctl("user-a", &[&args[..], &crash].concat()).expect(sigsegv);
    until("the core is there", || (cores() == 1).then_some(()));
}
