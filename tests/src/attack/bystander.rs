//! The bystander's process, and what it tells of each phase. What it does is in
//! `tests/src/bin/bystander.rs`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::env::Env;

/// Less than the broker's: what is measured is the broker's answer, not the measuring's turn.
const NICE: i32 = -5;
/// Where it comes from, see `attacker.rs`.
const SOURCE_ADDRESS: &str = "127.77.0.1";

/// A well-behaved client, which calls all the time.
#[derive(Debug)]
pub struct Bystander {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// What it has noticed in one phase. Times are from when a call was due, so that a broker that
/// stands still for a second is not let off with one slow call.
#[derive(Debug, Clone)]
pub struct Phase {
    /// How many, those included that were due while an earlier one hung.
    pub calls: u64,
    /// Refused, broken or without an answer for ten seconds.
    pub failures: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// In milliseconds.
    pub p99_ms: f64,
    /// In milliseconds.
    pub max_ms: f64,
    /// Which call that was, and what the first failures said.
    pub said: String,
}

impl Bystander {
    /// Starts it, and answers when each of its calls has been answered once.
    ///
    /// # Panics
    /// When it does not come so far.
    pub fn start(env: &Env) -> Bystander {
        let mut command = niced(NICE, &env.client_command("bystander", &env.programs().bystander));
        command.env("JOB_TESTS_FROM", SOURCE_ADDRESS).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the bystander can be executed");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut bystander = Bystander { child, stdin, stdout };
        let ready = bystander.line();
        assert_eq!(ready, "ready", "the bystander is served");
        bystander
    }

    /// Begins a phase, and answers with what the one before was like, once its calls are over.
    ///
    /// # Panics
    /// When it has died.
    pub fn enter(&mut self, phase: &str) -> Phase {
        writeln!(self.stdin, "{phase}").expect("the bystander lives");
        let line = self.line();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let count = |key: &str| told[key].as_u64().expect("a number");
        let time = |key: &str| told[key].as_f64().expect("a number");
        Phase {
            calls: count("calls"),
            failures: count("failures"),
            p50_ms: time("p50_ms"),
            p99_ms: time("p99_ms"),
            max_ms: time("max_ms"),
            said: told["said"].as_str().expect("text").to_owned(),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it writes text");
        assert!(line.ends_with('\n'), "the bystander has died");
        line.trim_end().to_owned()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have died
        let _ = self.child.wait();
    }
}

/// A command with another priority, as nice(1) gives it: the process stays the same.
pub(super) fn niced(nice: i32, command: &Command) -> Command {
    let mut niced = Command::new("/usr/bin/nice");
    niced.arg(format!("--adjustment={nice}")).arg(command.get_program()).args(command.get_args());
    niced.env_clear();
    let set = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
    niced.envs(set);
    niced
}
