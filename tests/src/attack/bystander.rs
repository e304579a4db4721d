//! The bystander's process, and its report of each phase. It must only call the broker as a well-behaved client does,
//! see `tests/src/bin/bystander.rs`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::env::Env;

/// Lower than the broker's: the measured time is the broker's, not the bystander's wait for a processor.
const NICE: i32 = -5;
/// The bystander's address, see `attacker.rs`.
const SOURCE_ADDRESS: &str = "127.77.0.1";

/// A well-behaved client, which calls continuously.
#[derive(Debug)]
pub struct Bystander {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// The bystander's report of one phase. Each time counts from when the call was due, so that a broker that stalls for
/// a second delays more than one call.
#[derive(Debug, Clone)]
pub struct Phase {
    /// The number of calls, including those that were due while an earlier call hung.
    pub calls: u64,
    /// Rejected, broken, or without an answer for ten seconds.
    pub failures: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// The maximum, in milliseconds.
    pub max_ms: f64,
    /// The slowest call, and the first error messages.
    pub said: String,
}

impl Bystander {
    /// Starts the bystander. Returns when each kind of call has been answered once.
    ///
    /// # Panics
    /// If the bystander does not get that far.
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

    /// Begins a phase. Returns the report of the previous phase, once its calls are over.
    ///
    /// # Panics
    /// If the bystander has died.
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
        let _ = self.child.kill(); // the process may have ended
        let _ = self.child.wait();
    }
}

/// The command with another priority, as nice(1) sets it: the process stays the same.
pub(super) fn niced(nice: i32, command: &Command) -> Command {
    let mut niced = Command::new("/usr/bin/nice");
    niced.arg(format!("--adjustment={nice}")).arg(command.get_program()).args(command.get_args());
    niced.env_clear();
    let set = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
    niced.envs(set);
    niced
}
