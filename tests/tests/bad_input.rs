//! Every bad request has its status, and details that say what is wrong.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use job_api::client::Client;
use job_api::v1::{
    Cause, DeleteJobRequest, GetJobRequest, IoMax, JobSpec, Limits, ListJobsRequest,
    PauseJobRequest, ResumeJobRequest, Rlimit, SignalJobRequest, StartJobRequest, StopJobRequest,
    StreamOutputRequest, UpdateJobRequest, WaitJobRequest, WriteInputRequest,
};
use job_tests::refusal::violation;
use job_tests::{Env, api};
use tokio_stream::iter;
use tonic::{Code, Status};
use tonic_types::StatusExt;

async fn refused(client: &mut Client, change: impl FnOnce(&mut JobSpec)) -> Status {
    let mut spec = api::spec(&["true"]);
    change(&mut spec);
    api::try_start(client, spec).await.expect_err("it must be refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_malformed_id_is_invalid_in_every_call() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for id in ["", "x", "../../etc", "01900000-0000-7000-8000-00000000000", "a\0b"] {
        let id = || id.to_owned();
        let answers = [
            client.get_job(GetJobRequest { id: id() }).await.map(drop),
            client.wait_job(WaitJobRequest { id: id(), ..Default::default() }).await.map(drop),
            client.stop_job(StopJobRequest { id: id(), ..Default::default() }).await.map(drop),
            client.signal_job(SignalJobRequest { id: id(), signal: 1 }).await.map(drop),
            client
                .stream_output(StreamOutputRequest { id: id(), ..Default::default() })
                .await
                .map(drop),
            client
                .write_input(iter(vec![WriteInputRequest { id: id(), ..Default::default() }]))
                .await
                .map(drop),
        ];
        for answer in answers {
            assert_eq!(violation(&answer.unwrap_err()).0, "id");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_empty_argv_nul_bytes_and_ld_preload_are_invalid() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let status = refused(&mut client, |spec| spec.argv.clear()).await;
    assert_eq!(violation(&status).0, "spec.argv");
    let status = refused(&mut client, |spec| spec.argv[0].clear()).await;
    assert_eq!(violation(&status).0, "spec.argv");
    let status = refused(&mut client, |spec| spec.argv.push("a\0b".into())).await;
    assert_eq!(violation(&status), ("spec.argv".into(), "argument 1 has a NUL byte".into()));
    for (name, value) in
        [("A", "x\0y"), ("A\0", "x"), ("A=B", "x"), ("", "x"), ("LD_PRELOAD", "/tmp/x.so")]
    {
        let env = [(name.to_owned(), value.to_owned())].into();
        let status = refused(&mut client, |spec| spec.env = env).await;
        assert_eq!(violation(&status).0, "spec.env", "{name:?}");
    }
    let none = client.start_job(StartJobRequest::default()).await.unwrap_err();
    assert_eq!(violation(&none).0, "spec.argv");
    let all = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert!(all.is_empty(), "what is refused is no job");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn durations_signals_names_and_accounts_out_of_range_are_invalid_and_name_the_field() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let time = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    for limit in [time(0, 0), time(-1, 0), time(0, -5), time(i64::MAX, 0), time(i64::MIN, 0)] {
        let status = refused(&mut client, |spec| spec.time_limit = limit).await;
        assert!(violation(&status).0.ends_with("time_limit"), "{limit:?}: {status}");
    }
    let status = refused(&mut client, |spec| spec.time_limit = time(i64::MAX, 0)).await;
    assert!(violation(&status).1.contains("days"), "it names the range: {status}");
    let status = refused(&mut client, |spec| spec.stop_timeout = time(-1, 0)).await;
    assert!(violation(&status).0.ends_with("stop_timeout"));
    for signal in [-1, 65, i32::MAX] {
        let status = refused(&mut client, |spec| spec.stop_signal = signal).await;
        assert_eq!(violation(&status).0, "spec.stop_signal");
    }
    for name in ["a b", "../x", "-x", "ä", &"x".repeat(64)] {
        let status = refused(&mut client, |spec| spec.name = name.into()).await;
        assert_eq!(violation(&status).0, "spec.name", "{name}");
    }
    let status = refused(&mut client, |spec| spec.working_directory = "tmp".into()).await;
    assert_eq!(violation(&status).0, "spec.working_directory");
    for account in ["root", "0", "no-such-account", "job-shim"] {
        let status = refused(&mut client, |spec| spec.run_as = account.into()).await;
        assert_eq!(violation(&status).0, "spec.run_as", "{account}");
    }
    let labels = (0..33).map(|n| (format!("key{n}"), String::new())).collect();
    let status = refused(&mut client, |spec| spec.labels = labels).await;
    assert_eq!(violation(&status).0, "spec.labels");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_program_that_is_missing_or_not_executable_fails_with_step_and_errno() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let (enoent, eacces) = ("2", "13");
    let cases = [
        (api::spec(&["/no/such"]), "exec", enoent),
        (api::spec(&["no-such-program"]), "exec", enoent),
        (api::spec(&["/etc/passwd"]), "exec", eacces),
        (api::spec(&["/tmp"]), "exec", eacces),
        (JobSpec { working_directory: "/no/such".into(), ..api::spec(&["true"]) }, "chdir", enoent),
        (
            JobSpec {
                working_directory: env.path("state").display().to_string(),
                ..api::spec(&["true"])
            },
            "chdir",
            eacces,
        ),
    ];
    for (spec, step, errno) in cases {
        let status = api::try_start(&mut client, spec.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{spec:?}: {status}");
        let info = status.get_details_error_info().expect("details");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("START_FAILED", "job-broker"));
        assert_eq!(
            (info.metadata["step"].as_str(), info.metadata["errno"].as_str()),
            (step, errno)
        );
        // It is on record as a job, which tells the same.
        let job = api::ended(&mut client, &info.metadata["job"]).await;
        let failure = job.failure.clone().unwrap();
        assert_eq!((job.cause(), failure.step.as_str()), (Cause::StartFailed, step));
        assert_eq!(failure.error_number.to_string(), errno);
        assert_eq!((job.pid, job.started_at), (None, None));
    }
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn arguments_larger_than_the_limit_are_out_of_range() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    // execve(2): 128 KiB each with the NUL; ours: 1 MiB together; then tonic's: 2 MiB a message.
    let longest = (128 << 10) - 1;
    let mut fits = api::spec(&["true"]);
    fits.argv.push("x".repeat(longest));
    api::start(&mut client, fits).await;
    let status = refused(&mut client, |spec| spec.argv.push("x".repeat(longest + 1))).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let variable = [("A".to_owned(), "x".repeat(longest))].into();
    let status = refused(&mut client, |spec| spec.env = variable).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    for count in [11, 30] {
        let many = (0..count).map(|_| "x".repeat(100_000)).collect::<Vec<_>>();
        let status = refused(&mut client, |spec| spec.argv.extend(many)).await;
        assert_eq!(status.code(), Code::OutOfRange, "{count}: {status}");
    }
    let ran = env.jobctl("user-a", &["run", "--", "true", &"x".repeat(100_000)]);
    ran.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_offset_past_the_end_of_a_finished_log_is_out_of_range() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("echo out; echo err >&2")).await.id;
    api::ended(&mut client, &id).await;
    let at = |out, err| StreamOutputRequest {
        id: id.clone(),
        stdout_offset: out,
        stderr_offset: err,
        ..Default::default()
    };
    for (out, err) in [(5, 0), (0, 5), (u64::MAX, 0)] {
        let status = api::try_read(&mut client, at(out, err)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        assert!(status.message().contains("past the end"), "{status}");
    }
    let rest = api::try_read(&mut client, at(4, 4)).await.unwrap();
    assert_eq!((rest.stdout.len(), rest.stderr.len()), (0, 0), "the end itself is no fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_id_reused_with_another_request_already_exists() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let request =
        |spec| StartJobRequest { spec: Some(spec), request_id: "one".into(), ..Default::default() };
    let first = client.start_job(request(api::spec(&["true"]))).await.unwrap();
    let first = first.into_inner().job.unwrap();
    let other_env = JobSpec { env: [("A".into(), "1".into())].into(), ..api::spec(&["true"]) };
    for other in [api::spec(&["false"]), other_env] {
        let status = client.start_job(request(other)).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "REQUEST_ID_REUSED");
        assert_eq!(info.metadata["job"], first.id);
    }
    let long = StartJobRequest { request_id: "x".repeat(129), ..request(api::spec(&["true"])) };
    assert_eq!(violation(&client.start_job(long).await.unwrap_err()).0, "request_id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_name_is_taken_while_its_job_lives() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let named = |argv: &[&str]| JobSpec { name: "web".into(), ..api::spec(argv) };
    let id = api::start(&mut client, named(&["sleep", "1000"])).await.id;
    let status = api::try_start(&mut client, named(&["true"])).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    api::start(&mut env.client("user-b").await, named(&["true"])).await;
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    api::start(&mut client, named(&["true"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stop_of_a_finished_job_is_ok_and_changes_nothing() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("exit 3")).await.id;
    let ended = api::ended(&mut client, &id).await;
    api::stop(&mut client, &id, Duration::ZERO).await;
    assert_eq!(api::job(&mut client, &id).await, ended);
    env.jobctl("user-a", &["stop", &id]).expect(0);
    assert_eq!((ended.cause(), ended.exit_code), (Cause::Exited, Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn input_with_a_gap_is_out_of_range_and_without_stdin_a_failed_precondition() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    async fn write(client: &mut Client, id: &str, offset: u64) -> Status {
        let data = "x".into();
        let piece = WriteInputRequest { id: id.into(), offset, data, end: false };
        match client.write_input(iter(vec![piece])).await {
            Ok(answer) => answer.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        }
    }
    let stdin = JobSpec { stdin: true, ..api::spec(&["cat"]) };
    let id = api::start(&mut client, stdin).await.id;
    assert_eq!(write(&mut client, &id, 7).await.code(), Code::OutOfRange);
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    assert_eq!(write(&mut client, &id, 0).await.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_value_of_an_enum_that_the_broker_does_not_know_is_invalid() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["true"])).await.id;
    for unknown in [77, -1, i32::MAX] {
        let status = refused(&mut client, |spec| spec.output_policy = unknown).await;
        assert_eq!(violation(&status).0, "spec.output_policy");
        for states in [vec![unknown], vec![1, unknown]] {
            let list = ListJobsRequest { states, ..Default::default() };
            assert_eq!(violation(&client.list_jobs(list).await.unwrap_err()).0, "states");
        }
        let wait = WaitJobRequest { id: id.clone(), until: unknown, ..Default::default() };
        assert_eq!(violation(&client.wait_job(wait).await.unwrap_err()).0, "until");
        let read = StreamOutputRequest { id: id.clone(), stream: unknown, ..Default::default() };
        assert_eq!(violation(&api::try_read(&mut client, read).await.unwrap_err()).0, "stream");
        let read =
            StreamOutputRequest { id: id.clone(), compression: unknown, ..Default::default() };
        let status = api::try_read(&mut client, read).await.unwrap_err();
        assert_eq!(violation(&status).0, "compression");
        let spec = Some(api::spec(&["true"]));
        let start = StartJobRequest { spec, compression: unknown, ..Default::default() };
        let status = client.run_job(start.clone()).await.unwrap_err();
        assert_eq!(violation(&status).0, "compression");
        assert_eq!(violation(&client.start_job(start).await.unwrap_err()).0, "compression");
    }
    let all = (1..=6).collect();
    let list = ListJobsRequest { states: all, ..Default::default() };
    assert_eq!(client.list_jobs(list).await.unwrap().into_inner().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pages_and_signals_out_of_range_are_invalid() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let list = ListJobsRequest { page_size: 1001, ..Default::default() };
    assert_eq!(violation(&client.list_jobs(list).await.unwrap_err()).0, "page_size");
    let list = ListJobsRequest { page_token: "x".into(), ..Default::default() };
    assert_eq!(violation(&client.list_jobs(list).await.unwrap_err()).0, "page_token");
    let long = "x".repeat(64);
    let lists = [
        ("owner", ListJobsRequest { owner: long.clone(), ..Default::default() }),
        ("selector", ListJobsRequest { selector: long.clone(), ..Default::default() }),
        ("labels", ListJobsRequest { labels: [(long, "".into())].into(), ..Default::default() }),
        ("states", ListJobsRequest { states: vec![2; 500_000], ..Default::default() }),
    ];
    for (field, list) in lists {
        assert_eq!(violation(&client.list_jobs(list).await.unwrap_err()).0, field);
    }
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    for signal in [0, -1, 65] {
        let request = SignalJobRequest { id: id.clone(), signal };
        assert_eq!(violation(&client.signal_job(request).await.unwrap_err()).0, "signal");
    }
}

/// Bytes of a status on the wire, its names included.
fn wire(status: &Status) -> usize {
    let headers = status.clone().into_http::<()>().into_parts().0.headers;
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// Every text that a start takes, with this in its place.
fn specs_with(text: &str) -> Vec<(&'static str, JobSpec)> {
    let own = || text.to_owned();
    let with = |change: &dyn Fn(&mut JobSpec)| {
        let mut spec = api::spec(&["true"]);
        change(&mut spec);
        spec
    };
    let io = |rule: IoMax| Some(Limits { io_max: vec![rule], ..Limits::default() });
    let rate = || IoMax { rbps: Some(1 << 20), ..IoMax::default() };
    let rlimit = || Rlimit { name: own(), soft: 1, hard: 1 };
    vec![
        ("spec.env", with(&|s| s.env = [(format!("{text}="), "x".into())].into())),
        ("spec.working_directory", with(&|s| s.working_directory = own())),
        ("spec.run_as", with(&|s| s.run_as = own())),
        ("spec.name", with(&|s| s.name = own())),
        ("spec.labels", with(&|s| s.labels = [(own(), "x".into())].into())),
        ("spec.limits.io_max", with(&|s| s.limits = io(IoMax { path: own(), ..rate() }))),
        ("spec.limits.io_max", with(&|s| s.limits = io(IoMax { device: own(), ..rate() }))),
        (
            "spec.limits.rlimits",
            with(&|s| s.limits = Some(Limits { rlimits: vec![rlimit()], ..Limits::default() })),
        ),
    ]
}

async fn ids_refused(client: &mut Client, id: &str) -> Vec<Status> {
    let id = || id.to_owned();
    let answers = [
        client.get_job(GetJobRequest { id: id() }).await.map(drop),
        client.wait_job(WaitJobRequest { id: id(), ..Default::default() }).await.map(drop),
        client.stop_job(StopJobRequest { id: id(), ..Default::default() }).await.map(drop),
        client.signal_job(SignalJobRequest { id: id(), signal: 1 }).await.map(drop),
        client.update_job(UpdateJobRequest { id: id(), ..Default::default() }).await.map(drop),
        client.pause_job(PauseJobRequest { id: id() }).await.map(drop),
        client.resume_job(ResumeJobRequest { id: id() }).await.map(drop),
        client.delete_job(DeleteJobRequest { id: id() }).await.map(drop),
        client
            .stream_output(StreamOutputRequest { id: id(), ..Default::default() })
            .await
            .map(drop),
        client
            .write_input(iter(vec![WriteInputRequest { id: id(), ..Default::default() }]))
            .await
            .map(drop),
    ];
    answers.into_iter().map(Result::unwrap_err).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refusal_repeats_no_more_than_a_line_of_its_input_in_any_field_of_any_call() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for text in ["\x1b", "ä", "x "].map(|piece| piece.repeat(60_000)) {
        let mut refused: Vec<(&str, Status)> = Vec::new();
        for (field, spec) in specs_with(&text) {
            refused.push((field, api::try_start(&mut client, spec).await.unwrap_err()));
        }
        let ids = ids_refused(&mut client, &text).await;
        refused.extend(ids.into_iter().map(|status| ("id", status)));
        let request = StartJobRequest { request_id: text.clone(), ..Default::default() };
        refused.push(("request_id", client.start_job(request).await.unwrap_err()));
        let list = ListJobsRequest { page_token: text.clone(), ..Default::default() };
        refused.push(("page_token", client.list_jobs(list).await.unwrap_err()));
        for (field, status) in refused {
            assert_eq!(violation(&status).0, field);
            assert!(wire(&status) < 4096, "{field}: {} bytes", wire(&status));
            assert!(status.message().len() < 600, "{field}: {}", status.message());
        }
        // What is no fault of form is repeated by the step that fails.
        let spec = api::spec(&[&text]);
        let status = api::try_start(&mut client, spec).await.unwrap_err();
        assert!(wire(&status) < 4096, "{} bytes: {status}", wire(&status));
    }
    let labels = (0..32).map(|n| (format!("a key {n}"), String::new())).collect();
    let status = refused(&mut client, |spec| spec.labels = labels).await;
    let told = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(told.len() <= 17, "{told:?}");
    assert!(told.last().unwrap().description.contains("more faults"), "{told:?}");
}
