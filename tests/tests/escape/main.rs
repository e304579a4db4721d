//! What a hostile job tries to get out, and to reach of others: each attempt is made by a real workload, and what is
//! asserted is its effect. docs/ISOLATION.md has the table that these hold.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod calls;
mod files;
mod kernel;
mod mounts;
mod neighbours;
mod races;
mod rules;
mod tools;

use std::fs;
use std::process::Command;

use job_tests::{Env, host, until};

/// The profiles that keep jobs apart.
const PROFILES: [&str; 2] = ["private", "strict"];
/// In the environment, the files and the queues of the victim.
const SECRET: &str = "correct-horse-battery";

fn env() -> Env {
    Env::builder().sections("[isolation]\nminimum = \"host\"\n").start()
}

/// What an attack of user-b prints, as `nobody` like its victim. It may fail.
fn attack(env: &Env, profile: &str, script: &str) -> String {
    let profile = format!("--isolation={profile}");
    let argv = ["run", &profile, "--user=nobody", "--time=60s", "--", "sh", "-c", script];
    let ran = env.jobctl("user-b", &argv);
    ran.out() + &ran.err()
}

/// Whether this host can run the attacks that need Python.
fn has_python() -> bool {
    let has = host::has_program("/usr/bin/python3", "--version");
    if !has {
        host::skip("there is no /usr/bin/python3");
    }
    has
}

fn python(env: &Env, profile: &str, script: &str) -> String {
    let profile = format!("--isolation={profile}");
    let argv = ["run", &profile, "--user=nobody", "--time=60s", "--", "/usr/bin/python3", "-c"];
    let ran = env.jobctl("user-b", &[&argv[..], &[script]].concat());
    ran.out() + &ran.err()
}

/// A job of user-a with secrets wherever a job has them. Its pid on the host.
struct Victim {
    pid: i64,
    shim: i64,
}

impl Victim {
    fn start(env: &Env, profile: &str) -> Victim {
        // Those of the host would stay.
        let queues = "ipcmk -Q; ipcmk -M 4096; ipcmk -S 1; (: >/dev/mqueue/victim)";
        let queues = if profile == "host" { "true" } else { queues };
        let profile = format!("--isolation={profile}");
        let secret = format!("--env=SECRET={SECRET}");
        let script = format!(
            "for d in /tmp /dev/shm /var/tmp $JOB_DIR; do echo $SECRET >$d/victim; done; \
             {{ {queues}; }} >/dev/null 2>&1; echo ready; exec sleep 600"
        );
        let argv = ["start", &profile, &secret, "--user=nobody", "--", "sh", "-c", &script];
        let id = env.jobctl("user-a", &argv).id();
        until("the victim is ready", || env.stdout_log(&id).contains("ready").then_some(()));
        let pid = env.jobctl("user-a", &["inspect", &id]).json()["pid"].as_i64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Victim { pid, shim: shim.trim().parse().unwrap() }
    }

    fn lives(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|name| name == "sleep\n")
    }
}

/// What others may change of a process: how it is scheduled, and its limits.
fn settings(pid: i64) -> [String; 4] {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let (stat, status) = (read("stat"), read("status"));
    // Priority, nice value; then policy, and priority in it.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let scheduling = [15, 16, 37, 38].map(|n| fields[n]).join(" ");
    let cpus = status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap();
    let io = Command::new("ionice").args(["-p", &pid.to_string()]).output().unwrap().stdout;
    [scheduling, cpus.into(), read("limits"), String::from_utf8(io).unwrap()]
}
