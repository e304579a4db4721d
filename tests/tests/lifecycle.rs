//! How jobs start, run and end.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{
    Cause, DeleteJobRequest, GetJobRequest, ListJobsRequest, SignalJobRequest, Source,
};
use job_tests::{Env, api, is_running, until};
use tonic::Code;

#[test]
fn a_job_prints_each_stream_on_its_own_and_exits_as_it_did() {
    let env = Env::start();
    let ran = env.jobctl("user-a", &["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code(), ran.out(), ran.err()), (7, "out\n".into(), "err\n".into()));
    env.assert_clean();
}

#[test]
fn a_deadline_ends_the_whole_tree_in_time() {
    let env = Env::start();
    let ran = env.jobctl("user-a", &["run", "--time", "1s", "--", "sleep", "60"]);
    assert_eq!(ran.code(), 124, "{}", ran.err());
    let id = env.jobctl("user-a", &["ps", "-a", "-q"]).id();
    let job = env.jobctl("user-a", &["inspect", &id]).json();
    assert_eq!(job["signal"], 15, "its SIGTERM was enough: {job}");
    env.assert_clean();

    let tree = "sleep 61 & setsid sleep 62 & echo $$ $!; wait";
    let argv = ["run", "--isolation=host", "--", "sh", "-c", tree]; // it prints its pids
    let running = env.spawn_jobctl("user-a", &argv);
    running.wait_for_stdout("\n");
    let id = env.jobctl("user-a", &["ps", "-q"]).id();
    env.jobctl("user-a", &["update", &id, "--time", "1s"]).expect(0);
    let ran = running.finish();
    assert_eq!(ran.code(), 124, "{}", ran.err());
    env.assert_clean();
    let pids: Vec<i32> = ran.out().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && !pids.iter().any(|pid| is_running(*pid)), "{pids:?}");
}

#[test]
fn a_program_that_is_not_there_exits_127_and_names_the_step() {
    let env = Env::start();
    let ran = env.jobctl("user-a", &["run", "--", "/no/such"]);
    assert_eq!((ran.code(), ran.out()), (127, String::new()));
    assert!(ran.err().contains("step exec") && ran.err().contains("/no/such"), "{}", ran.err());
    let ran = env.jobctl("user-a", &["run", "--", "/etc/passwd"]);
    assert_eq!(ran.code(), 126, "{}", ran.err());
    assert!(ran.err().contains("step exec"), "{}", ran.err());
    env.assert_clean();
}

#[test]
fn a_signal_that_ends_a_job_is_its_end() {
    let env = Env::start();
    let ran = env.jobctl("user-a", &["run", "--", "sh", "-c", "kill -USR1 $$"]);
    assert_eq!(ran.code(), 128 + 10, "{}", ran.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_asks_first_and_a_job_that_obeys_exits_by_itself() {
    let env = Env::builder().admin("admin").start();
    let mut client = env.client("user-a").await;
    let obeys = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let job = api::start(&mut client, api::script(obeys)).await;
    let up = || env.stdout_log(&job.id).contains("up").then_some(());
    until("the trap is set", up);
    let mut admin = env.client("admin").await;
    api::stop(&mut admin, &job.id, Duration::from_secs(60)).await;
    let job = api::ended(&mut client, &job.id).await;
    assert_eq!((job.state(), job.cause()), (State::Finished, Cause::Stopped));
    assert_eq!((job.source(), job.ended_by.as_str()), (Source::Admin, "admin"));
    assert_eq!(job.exit_code, Some(3));
    assert_eq!(api::output(&mut client, &job.id).await.stdout, b"up\nbye\n");
}

#[test]
fn a_job_that_does_not_obey_is_killed_after_its_grace() {
    let env = Env::start();
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let running = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", stubborn]);
    running.wait_for_stdout("up");
    let ids = env.jobctl("user-a", &["ps", "-q"]).id();
    env.jobctl("user-a", &["stop", "-t", "200ms", &ids]).expect(0);
    assert_eq!(running.finish().code(), 137);
    env.assert_clean();
}

/// FAULTS 28
#[test]
fn a_grandchild_in_its_own_session_is_killed_by_stop() {
    let env = Env::start();
    // The grandchild has its own session and group, ignores signals, and outlives its parent.
    let escape = "setsid sh -c 'trap \"\" TERM HUP INT; echo $$; exec sleep 1000' & wait";
    let argv = ["start", "--isolation=host", "--", "sh", "-c", escape]; // it tells its pid
    let id = env.jobctl("user-a", &argv).id();
    let told = || env.stdout_log(&id).strip_suffix('\n')?.parse().ok();
    let pid = until("the grandchild tells its pid", told);
    assert!(is_running(pid));
    env.jobctl("user-a", &["stop", "-t", "100ms", &id]).expect(0);
    assert!(!is_running(pid), "{pid} lives");
    env.assert_clean();
}

/// FAULTS 27
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_grandchild_that_holds_stdout_does_not_hold_the_exit_status() {
    let env = Env::builder().config("leftover_grace_seconds = 3600.0").start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("({}; echo late) & echo early; exit 5", gate.wait());
    let job = api::start(&mut client, api::script(&text)).await;
    let job = api::exited(&mut client, &job.id).await;
    assert_eq!((job.exit_code, job.state()), (Some(5), State::Stopping));
    assert!(!env.cgroup().work(&job.id).is_empty(), "the grandchild lives");
    gate.open();
    let output = api::output(&mut client, &job.id).await;
    assert_eq!(output.stdout, b"early\nlate\n");
    assert_eq!((output.job.state(), output.job.cause()), (State::Finished, Cause::Exited));
    assert!(!output.job.incomplete);
    env.assert_clean();
}

/// FAULTS 27
#[test]
fn a_grandchild_that_does_not_end_is_killed_after_its_grace_and_nothing_is_cut() {
    let env = Env::builder().config("leftover_grace_seconds = 0.2").start();
    let gate = env.gate();
    let oracle = env.oracle();
    let text = format!("(trap '' TERM; {oracle} lines 500; sleep 1000) & {}; exit 5", gate.wait());
    let running = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", &text]);
    running.wait_for_stdout("\n");
    running.wait_for_stderr("\n");
    gate.open();
    let ran = running.finish();
    assert_eq!(ran.code(), 5);
    assert!(ran.took < Duration::from_secs(60), "{:?}", ran.took);
    // How far it comes is the machine's business; what it wrote is whole.
    let whole = |stream, bytes: &[u8]| {
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        job_tests::oracle::verify(stream, &bytes[..end]).unwrap()
    };
    assert!(whole('o', &ran.stdout) > 0 && whole('e', &ran.stderr) > 0);
    env.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_reaches_the_job_and_one_that_has_ended_takes_none() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let text = "trap 'exit 9' USR2; echo up; while :; do sleep 0.05; done";
    let id = api::start(&mut client, api::script(text)).await.id;
    until("the trap is set", || env.stdout_log(&id).contains("up").then_some(()));
    let signal = SignalJobRequest { id: id.clone(), signal: 12 };
    client.signal_job(signal.clone()).await.unwrap();
    assert_eq!(api::ended(&mut client, &id).await.exit_code, Some(9));
    let refused = client.signal_job(signal).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_ended_job_is_kept_until_it_is_removed() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
    let refused = client.delete_job(DeleteJobRequest { id: id.clone() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    client.delete_job(DeleteJobRequest { id: id.clone() }).await.unwrap();
    assert!(!env.job_dir(&id).exists());
    let gone = client.get_job(GetJobRequest { id }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_list_has_pages_filters_and_the_newest_first() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut spec = api::spec(&["true"]);
        spec.labels.insert("turn".into(), if n % 2 == 0 { "even" } else { "odd" }.into());
        ids.push(api::start(&mut client, spec).await.id);
    }
    for id in &ids {
        api::ended(&mut client, id).await;
    }
    ids.reverse();
    let mut request = ListJobsRequest { page_size: 2, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = client.list_jobs(request.clone()).await.unwrap().into_inner();
        assert!(page.jobs.len() <= 2);
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);
    let labels = [("turn".to_owned(), "odd".to_owned())].into();
    let odd = ListJobsRequest { labels, ..Default::default() };
    assert_eq!(client.list_jobs(odd).await.unwrap().into_inner().jobs.len(), 2);
    let states = vec![State::Running.into()];
    let running = ListJobsRequest { states, ..Default::default() };
    assert!(client.list_jobs(running).await.unwrap().into_inner().jobs.is_empty());
}

/// Each has arguments of almost 1 MiB, the most that there may be; together they are more than any client takes
/// in one message.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jobs_with_long_arguments_are_listed_in_messages_that_every_client_takes() {
    let env = Env::builder().admin("admin").start();
    // What clients of gRPC take unless they are told to take more.
    let mut client = env.client("user-a").await.max_decoding_message_size(4 << 20);
    let long = "x".repeat(125_000); // execve(2) takes 128 KiB each
    let mut spec = api::spec(&["true"]);
    spec.argv.extend(std::iter::repeat_n(long, 8));
    spec.labels.insert("size".into(), "large".into());
    let mut ids = Vec::new();
    for _ in 0..10 {
        let id = api::start(&mut client, spec.clone()).await.id;
        api::ended(&mut client, &id).await;
        ids.push(id);
    }
    ids.reverse();
    let mut listed = Vec::new();
    let mut request = ListJobsRequest { page_size: 1000, ..Default::default() };
    loop {
        let page = client.list_jobs(request.clone()).await.unwrap().into_inner();
        assert!(!page.jobs.is_empty());
        request.page_token = page.next_page_token.clone();
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);

    let shown = |user: &str, args: &[&str]| -> Vec<String> {
        let out = env.jobctl(user, &[&["ps", "-a", "-q"], args].concat()).expect(0).out();
        out.lines().map(str::to_owned).collect()
    };
    assert_eq!(shown("user-a", &[]), ids);
    assert_eq!(shown("admin", &["-l", "size=large"]), ids);
    assert_eq!(shown("user-a", &["--limit", "7"]), ids[..7]);
    let rm: Vec<&str> = ["rm", "-f"].into_iter().chain(ids[..5].iter().map(|id| &**id)).collect();
    env.jobctl("user-a", &rm).expect(0);
    env.jobctl("user-a", &["prune", "--older-than", "0s"]).expect(0);
    assert_eq!(shown("admin", &[]), [""; 0]);
}

#[test]
fn the_environment_is_built_from_nothing() {
    let env = Env::start();
    let ran =
        env.jobctl("user-a", &["run", "-e", "GREETING=hello world", "-w", "/tmp", "--", "env"]);
    let out = ran.out();
    let mut names: Vec<_> = out.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    names.retain(|name| *name != "PWD");
    assert_eq!(
        names,
        ["GREETING", "HOME", "JOB_DIR", "JOB_ID", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]
    );
    assert!(out.contains("GREETING=hello world\n"), "{out}");
    let ran = env.jobctl("user-a", &["run", "-w", "/tmp", "--", "pwd"]);
    assert_eq!(ran.out(), "/tmp\n");
    let ran = env.jobctl("user-a", &["run", "-w", "/no/such", "--", "pwd"]);
    assert_eq!(ran.code(), 125);
    assert!(ran.err().contains("step chdir"), "{}", ran.err());
}
