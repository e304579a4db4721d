//! The attacker's process: started, bounded in time, and ended with its parent. It must never outlive the test.

use std::collections::HashMap;
use std::io::Read;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::Value;

use super::bystander::niced;
use crate::env::Env;

/// Longer than any attack; the attacker then exits by itself.
const AT_MOST: Duration = Duration::from_secs(300);
/// Real attackers run on other hosts, and share no processor with their victims.
const NICE: i32 = 5;
/// The attackers' address: not in the bystander's /24, which has its own share.
const SOURCE_ADDRESS: &str = "127.66.0.1";

/// A running attack.
#[derive(Debug)]
pub struct Attacker {
    child: Child,
    stdout: ChildStdout,
    name: String,
}

impl Attacker {
    /// Starts the attack of this name, see `tests/src/bin/attacker`, with `KEY=VALUE` arguments.
    ///
    /// # Panics
    /// If the program cannot be executed.
    pub fn start(env: &Env, user: &str, name: &str, words: &[&str]) -> Attacker {
        Attacker::from(env, user, SOURCE_ADDRESS, name, words)
    }

    /// The same, from another loopback address.
    ///
    /// # Panics
    /// If the program cannot be executed.
    pub fn from(env: &Env, user: &str, from: &str, name: &str, words: &[&str]) -> Attacker {
        let mut command = niced(NICE, &env.client_command(user, &env.programs().attacker));
        command.env("JOB_TESTS_FROM", from).arg(name).args(words);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the attacker can be executed");
        let stdout = child.stdout.take().expect("it is piped");
        Attacker { child, stdout, name: name.into() }
    }

    /// Waits for the attack's end. Returns what the attacker saw.
    ///
    /// # Panics
    /// If the attack fails: an attack that cannot be made proves nothing.
    pub fn finish(mut self) -> Value {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("it writes text");
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "the attacker {} ended with {status}", self.name);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{}: {e}: {text}", self.name))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill(); // the process may have ended
        let _ = self.child.wait();
    }
}

/// Called in an attack's process: ends it when its parent ends, or after five minutes.
pub fn end_with_parent() {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(3);
    });
    thread::spawn(|| {
        sleep(AT_MOST);
        eprintln!("attacker: not done after {AT_MOST:?}");
        std::process::exit(4);
    });
}

/// The `KEY=VALUE` arguments of an attack.
#[derive(Debug, Default)]
pub struct Args(HashMap<String, String>);

impl Args {
    /// Parses a command line.
    ///
    /// # Panics
    /// If an argument has another form.
    pub fn parse(words: impl Iterator<Item = String>) -> Args {
        let pair = |word: String| {
            let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word}: KEY=VALUE"));
            (key.to_owned(), value.to_owned())
        };
        Args(words.map(pair).collect())
    }

    /// A required argument.
    ///
    /// # Panics
    /// If it is missing.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("{key}=... is missing"))
    }

    /// A required argument that is a number.
    ///
    /// # Panics
    /// If it is missing, or not a number.
    pub fn number(&self, key: &str) -> usize {
        self.text(key).parse().unwrap_or_else(|_| panic!("{key} is not a number"))
    }
}
