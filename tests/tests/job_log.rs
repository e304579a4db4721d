//! The log of a job tells an operator, without any other tool, what ran, how it was held and how it ended.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use job_tests::{Env, api, until};

/// The line that has all of these.
fn line(env: &Env, words: &[&str]) -> String {
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    until(&format!("a line with {words:?}"), || env.log().lines().find(has_all).map(str::to_owned))
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) =
        line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name}: {line}"));
    rest.split(' ').next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn at_its_start_the_log_names_process_cgroup_account_and_limits() {
    let env = Env::start();
    let args =
        ["start", "--time", "1h", "--ulimit", "nofile=77", "--", "sh", "-c", "sleep 1000 & wait"];
    let id = env.jobctl("user-a", &args).id();
    let started = line(&env, &[&id, " started "]);
    let job = api::job(&mut env.client("user-a").await, &id).await;
    assert_eq!(field(&started, "pid"), job.pid.unwrap().to_string());
    assert_eq!(field(&started, "shim_pid"), env.cgroup().shim(&id).unwrap().to_string());
    assert_eq!(field(&started, "owner"), "user-a");
    assert_eq!(field(&started, "cgroup"), env.cgroup().job(&id).to_str().unwrap());
    assert!(started.contains("account=nobody (65534:65534)"), "{started}");
    for limit in ["time_limit=3600s", "rlimit nofile=77 77"] {
        assert!(started.contains(limit), "{started}");
    }
}

#[test]
fn at_its_end_the_log_has_cause_status_time_and_bytes() {
    let env = Env::start();
    let script = "echo out; echo errors >&2; exit 7";
    env.jobctl("user-a", &["run", "--", "sh", "-c", script]).expect(7);
    let ended = line(&env, &["ended job="]);
    for (name, value) in [("cause", "Exited"), ("exit_code", "7"), ("stdout", "4"), ("stderr", "7")]
    {
        assert_eq!(field(&ended, name), value, "{ended}");
    }
    assert!(field(&ended, "ran_ms").parse::<u64>().unwrap() < 60_000);
    assert!(!env.log().contains("output: "), "that has to be configured");
}

#[test]
fn the_end_of_the_output_is_in_the_log_where_that_is_configured_escaped_and_bounded() {
    let env = Env::builder().sections("[log]\noutput_tail = \"1K\"\n").start();
    let script = "yes x | head -1000; printf '\\033[2J<0>last\\n'; echo wrong >&2";
    env.jobctl("user-a", &["run", "--", "sh", "-c", script]).expect(0);
    line(&env, &["output: wrong", "stream=\"stderr\""]);
    line(&env, &["output: \\u{1b}[2J<0>last", "stream=\"stdout\""]);
    let shown = env.log().lines().filter(|line| line.contains("output: x")).count();
    assert!(shown <= 64, "{shown} lines");
}

#[test]
fn as_json_each_line_is_an_object_and_names_the_call() {
    let env = Env::builder().sections("[log]\nformat = \"json\"\n").start();
    env.jobctl("user-a", &["run", "--name", "a \"name\"", "--", "true"]).expect(125);
    let id = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    env.jobctl("user-a", &["stop", &id]).expect(0);
    let stop = line(&env, &["\"stop requested\"", &id]);
    let ended = line(&env, &["\"ended\"", &id]);
    for text in [&stop, &ended] {
        let object: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(object["job"], id.as_str());
        assert_eq!(object["level"], "INFO");
    }
    let stop: serde_json::Value = serde_json::from_str(&stop).unwrap();
    assert_eq!(stop["by"], "user-a");
    assert_eq!(stop["request"].as_str().unwrap().len(), 36, "{stop}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inspect_lists_all_processes_of_a_live_job_and_none_of_one_that_has_ended() {
    let env = Env::start();
    let script = "sleep 1000 & sleep 1000 & echo ready; wait";
    let id = env.jobctl("user-a", &["start", "--", "sh", "-c", script]).id();
    until("it is ready", || env.stdout_log(&id).contains("ready").then_some(()));
    let mut listed: Vec<i64> = env.jobctl("user-a", &["inspect", &id]).json()["pids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pid| pid.as_i64().unwrap())
        .collect();
    listed.sort_unstable();
    let mut known: Vec<_> = env.cgroup().work(&id).into_iter().map(i64::from).collect();
    known.sort_unstable();
    assert_eq!((listed.len(), listed), (3, known));
    env.jobctl("user-a", &["stop", &id]).expect(0);
    let job = api::job(&mut env.client("user-a").await, &id).await;
    assert!(job.pids.is_empty());
}
