//! Rates: what a job takes in a window of time, as the broker tells it and as the kernel does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::Usage;
use nix::fcntl::{Flock, FlockArg};

use crate::api;
use crate::env::Env;

/// Held while a rate of CPU time is measured: burners of several tests at once, on few processors,
/// would hold up one another, and a share is a share of what is left. One lock for all processes.
pub fn alone() -> impl Drop {
    let path = std::env::temp_dir().join("job-tests-measure.lock");
    let file = fs::File::create(&path).expect("the temporary directory is writable");
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("a lock")
}

/// A job's CPU time so far, in microseconds, from the kernel.
///
/// # Panics
/// When it has no cgroup.
pub fn cpu_usec(env: &Env, id: &str) -> u64 {
    let path = env.cgroup().workload(id).join("cpu.stat");
    let text = fs::read_to_string(&path).expect("the job runs");
    word_after(&text, "usage_usec ").expect("cpu.stat has it")
}

/// The processors that a job keeps busy over this time: as its usage says, and as the kernel does.
///
/// # Panics
/// When there is no such job, or it ends.
pub async fn cpus(client: &mut Client, env: &Env, id: &str, window: Duration) -> [f64; 2] {
    let told = |usage: Usage| usage.cpu_usage_usec.expect("cpu.stat is everywhere") as f64;
    let (began, told_before) = (Instant::now(), told(api::usage(client, id).await));
    let (read_at, read_before) = (Instant::now(), cpu_usec(env, id) as f64);
    tokio::time::sleep(window).await; // the window itself
    let told_after = told(api::usage(client, id).await);
    let told_rate = (told_after - told_before) / micros(began);
    let read_rate = (cpu_usec(env, id) as f64 - read_before) / micros(read_at);
    [told_rate, read_rate]
}

/// Asserts that all are within this part of what is expected.
///
/// # Panics
/// When one is not.
#[track_caller]
pub fn assert_near(measured: &[f64], expected: f64, part: f64) {
    for value in measured {
        let off = (value / expected - 1.0).abs();
        assert!(off <= part, "{measured:?} is not {expected} +-{} %", part * 100.0);
    }
}

/// A counter of a job on its only disk, e.g. `wbytes`: as its usage says, and as the kernel does.
///
/// # Panics
/// When there is no such job, or the two do not know of io.
pub async fn io(client: &mut Client, env: &Env, id: &str, disk: &str, counter: &str) -> [f64; 2] {
    let usage = api::usage(client, id).await;
    assert!(usage.has_io, "the kernel accounts for io here");
    let io = usage.io.iter().find(|io| io.device == disk).cloned().unwrap_or_default();
    let told = match counter {
        "rbytes" => io.rbytes,
        "wbytes" => io.wbytes,
        "rios" => io.rios,
        "wios" => io.wios,
        _ => panic!("there is no counter {counter}"),
    };
    [told as f64, io_stat(&env.cgroup().job(id), disk, counter).unwrap_or(0) as f64]
}

/// How much it grows in a second, over this time; from when it has moved at all: what the limit had
/// saved up for a new cgroup is over by then.
///
/// # Panics
/// As [`io`].
pub async fn io_rate(
    (client, env): (&mut Client, &Env),
    id: &str,
    (disk, counter): (&str, &str),
    window: Duration,
) -> [f64; 2] {
    while io(client, env, id, disk, counter).await[1] == 0.0 {
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
    }
    let began = Instant::now();
    let before = io(client, env, id, disk, counter).await;
    tokio::time::sleep(window).await; // the window itself
    let after = io(client, env, id, disk, counter).await;
    let seconds = began.elapsed().as_secs_f64();
    [0, 1].map(|n| (after[n] - before[n]) / seconds)
}

fn io_stat(cgroup: &Path, disk: &str, counter: &str) -> Option<u64> {
    let text = fs::read_to_string(cgroup.join("io.stat")).ok()?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(disk))?;
    word_after(line, &format!("{counter}="))
}

fn word_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
