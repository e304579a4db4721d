//! What people look at: `jobctl stats`, and `jobctl admin selfcheck` on the host itself.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use job_tests::host::{self, Need};
use job_tests::{Env, Finished, measure};

#[test]
fn stats_has_a_line_for_each_live_job_and_its_messages_say_null_where_nothing_is_known() {
    let env = Env::start();
    env.jobctl("user-a", &["start", "--name", "idle", "--", "sleep", "1000"]).expect(0);
    let ended = env.jobctl("user-a", &["start", "--name", "ended", "--", "true"]).id();
    env.jobctl("user-a", &["wait", "--until", "end", &ended]).expect(0);
    let table = env.jobctl("user-a", &["stats", "--no-stream"]).out();
    assert!(table.starts_with("JOB") && table.contains("CPU %"), "{table}");
    assert_eq!((table.lines().count(), table.contains("idle")), (2, true), "{table}");
    let named = env.jobctl("user-a", &["stats", "--no-stream", "ended"]).out();
    assert!(named.contains("ended"), "{named}");
    let jobs = env.jobctl("user-a", &["stats", "-o", "json"]).json();
    let usage = jobs["jobs"][0]["usage"].as_object().unwrap();
    assert!(usage["cpu_usage_usec"].as_u64().is_some(), "{usage:?}");
    let known = usage["memory_current_bytes"].as_u64().is_some();
    assert_eq!(known, Need::Memory.is_met(), "{usage:?}");
    assert!(usage.contains_key("memory_current_bytes"), "null is said, not left out: {usage:?}");
    let foreign = env.jobctl("user-b", &["stats", "--no-stream"]).out();
    assert_eq!(foreign.lines().count(), 1, "{foreign}");
}

/// What a busy host spoils is measured again, which takes its time.
fn selfcheck(env: &Env, options: &[&str]) -> Finished {
    let args = [&["admin", "selfcheck"], options].concat();
    env.spawn_jobctl("admin", &args).finish_within(Duration::from_secs(600))
}

#[test]
fn selfcheck_measures_what_is_enforced_and_says_what_is_not() {
    let _alone = measure::alone();
    let rules = "[isolation]\nread_write = [\"/**\"]\n";
    let env = Env::builder().admin("admin").sections(rules).start();
    env.jobctl("user-a", &["admin", "selfcheck"]).expect(125);
    let all = [Need::Cpu, Need::Memory, Need::Pids, Need::Io, Need::Disk];
    if all.into_iter().all(Need::is_met) {
        let disk = host::disk();
        let directory = disk.path().display().to_string();
        selfcheck(&env, &["--directory", &directory]).expect(0);
    } else {
        let checked = selfcheck(&env, &[]);
        checked.expect(1);
        let table = checked.out();
        assert!(table.contains("refused: memory.max cannot be enforced here"), "{table}");
        for check in
            ["cpu time", "deadline", "output", "ulimit", "pause", "stop", "isolation", "end"]
        {
            let line = table.lines().find(|line| line.starts_with(check)).unwrap();
            assert!(line.contains(" enforced"), "{line}");
        }
    }
    assert_eq!(env.jobctl("admin", &["ps", "-a", "-q"]).out(), "", "no canary is left");
    env.assert_clean();
}
