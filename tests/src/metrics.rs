//! Reads the broker's metrics as a scraper does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::env::Env;
use crate::wait::{TIMEOUT, until};

/// A section of the broker's configuration: the metrics on a Unix socket in the environment's directory.
pub const ON_A_SOCKET: &str = "[metrics]\nlisten = \"{dir}/metrics.sock\"\n";

/// The phases of a start, in their order: labels of metrics, and names of spans.
pub const PHASES: [&str; 11] = [
    "admission",
    "account",
    "queue",
    "register",
    "spec",
    "cgroup",
    "limits",
    "shim",
    "sync",
    "go",
    "started",
];

/// The samples of one scrape, as `name{label="value"}`.
#[derive(Debug)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// The value of a sample; 0 where there is none, as of a refusal that never happened.
    pub fn value(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }

    /// The names, without labels.
    pub fn names(&self) -> Vec<String> {
        let name = |sample: &String| sample.split('{').next().unwrap_or_default().to_owned();
        let mut names: Vec<_> = self.0.keys().map(name).collect();
        names.dedup();
        names
    }
}

/// Scrapes the socket of [`ON_A_SOCKET`].
///
/// # Panics
/// When the answer is none of the metrics.
pub fn scrape(env: &Env) -> Samples {
    let answer = request(&env.path("metrics.sock"), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    samples(&answer)
}

/// Waits until a sample has a value.
///
/// # Panics
/// When it never has.
pub fn until_value(env: &Env, sample: &str, is_right: impl Fn(f64) -> bool) -> f64 {
    until(sample, || Some(scrape(env).value(sample)).filter(|value| is_right(*value)))
}

/// The samples of an answer.
///
/// # Panics
/// When it is not 200, or a line is not a sample.
pub fn samples(answer: &str) -> Samples {
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
        (sample.to_owned(), value.parse().expect("a number"))
    };
    Samples(lines.map(sample).collect())
}

/// Sends a request to a Unix socket, and reads until the broker closes the connection.
///
/// # Panics
/// When nobody listens.
pub fn request(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("the broker listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    read(stream)
}

/// The same over TCP.
///
/// # Panics
/// As [`request`].
pub fn request_tcp(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    read(stream)
}

fn read(mut stream: impl Read) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8(answer).expect("text")
}
