//! The attacker's process: started, bounded, and gone with whoever started it.

use std::collections::HashMap;
use std::io::Read;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::Value;

use super::bystander::niced;
use crate::env::Env;

/// Longer than any attack takes; it ends itself then.
const AT_MOST: Duration = Duration::from_secs(300);
/// The attacker and its victims are on other hosts in truth, and do not share processors.
const NICE: i32 = 5;
/// Where attackers come from: not the bystander's /24, which has a share of its own.
const SOURCE_ADDRESS: &str = "127.66.0.1";

/// An attack that runs.
#[derive(Debug)]
pub struct Attacker {
    child: Child,
    stdout: ChildStdout,
    name: String,
}

impl Attacker {
    /// Starts the attack of this name, see `tests/src/bin/attacker`, with `KEY=VALUE` words.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn start(env: &Env, user: &str, name: &str, words: &[&str]) -> Attacker {
        Attacker::from(env, user, SOURCE_ADDRESS, name, words)
    }

    /// The same from another loopback address.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn from(env: &Env, user: &str, from: &str, name: &str, words: &[&str]) -> Attacker {
        let mut command = niced(NICE, &env.client_command(user, &env.programs().attacker));
        command.env("JOB_TESTS_FROM", from).arg(name).args(words);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the attacker can be executed");
        let stdout = child.stdout.take().expect("it is piped");
        Attacker { child, stdout, name: name.into() }
    }

    /// Waits for its end, and answers with what it saw.
    ///
    /// # Panics
    /// When it fails: what an attacker cannot do is no attack.
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
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// In a process of an attack: ends it when the test that started it is gone, or after five minutes.
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

/// An attack's `KEY=VALUE` words.
#[derive(Debug, Default)]
pub struct Args(HashMap<String, String>);

impl Args {
    /// Of a command line.
    ///
    /// # Panics
    /// When a word is not of that form.
    pub fn parse(words: impl Iterator<Item = String>) -> Args {
        let pair = |word: String| {
            let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("{word}: KEY=VALUE"));
            (key.to_owned(), value.to_owned())
        };
        Args(words.map(pair).collect())
    }

    /// A word that has to be there.
    ///
    /// # Panics
    /// When it is not.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("{key}=... is missing"))
    }

    /// The same as a number.
    ///
    /// # Panics
    /// When it is missing, or none.
    pub fn number(&self, key: &str) -> usize {
        self.text(key).parse().unwrap_or_else(|_| panic!("{key} is not a number"))
    }
}
