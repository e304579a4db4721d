//! Rates: what a job uses in a window of time, as the broker reports it and as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use job_api::client::Client;
use nix::fcntl::{Flock, FlockArg};

use crate::api;
use crate::env::Env;
use crate::wait::{TIMEOUT, eventually};

const IO_WINDOW: Duration = Duration::from_secs(3);

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

/// Measures in one window after another until what is measured is right, or for [`TIMEOUT`], and
/// answers with the last window, for the caller to judge. Whatever holds up job, kernel or reader for
/// a moment spoils the window in which it happens; a limit that is not enforced is missing in all.
pub async fn windows<T>(mut window: impl AsyncFnMut() -> T, is_right: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let measured = window().await;
        if is_right(&measured) || Instant::now() > deadline {
            return measured;
        }
    }
}

/// The processors that a job keeps busy over this time: as its usage says, and as the kernel does.
///
/// # Panics
/// When there is no such job, or it ends.
pub async fn cpus(client: &mut Client, env: &Env, id: &str, window: Duration) -> [f64; 2] {
    let began = Instant::now();
    // CPU time, and when it was that.
    let mut read = async || {
        let (usage, told_at) = api::usage_and_time(client, id).await;
        let told = usage.cpu_usage_usec.expect("cpu.stat is everywhere") as f64;
        let told_at = told_at.as_secs_f64() * 1e6;
        let read_at = began.elapsed().as_secs_f64() * 1e6;
        [(told, told_at), (cpu_usec(env, id) as f64, read_at)]
    };
    let before = read().await;
    tokio::time::sleep(window).await; // the window itself
    let after = read().await;
    [0, 1].map(|n| (after[n].0 - before[n].0) / (after[n].1 - before[n].1))
}

/// Asserts that a job keeps so many processors busy, within a tenth, in such a window.
///
/// # Panics
/// As [`cpus`], and when it does not.
pub async fn assert_cpus(
    (client, env): (&mut Client, &Env),
    id: &str,
    window: Duration,
    expected: f64,
) {
    let rates = windows(
        async || cpus(client, env, id, window).await,
        |rates| is_near(rates, expected, 0.1),
    );
    assert_near(&rates.await, expected, 0.1);
}

/// Whether all are within this part of what is expected.
pub fn is_near(measured: &[f64], expected: f64, part: f64) -> bool {
    measured.iter().all(|value| (value / expected - 1.0).abs() <= part)
}

/// Asserts that they are.
///
/// # Panics
/// When one is not.
#[track_caller]
pub fn assert_near(measured: &[f64], expected: f64, part: f64) {
    let off = part * 100.0;
    assert!(is_near(measured, expected, part), "{measured:?} is not {expected} +-{off} %");
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

/// Asserts that such a counter of a job grows at this rate a second, within a fifth. On a busy machine
/// a job may not come to its rate in the first window, and gets more of them; above it, it must never
/// be.
///
/// # Panics
/// As [`io`], and when it does not.
pub async fn assert_io_rate(
    (client, env): (&mut Client, &Env),
    id: &str,
    counter: (&str, &str),
    expected: f64,
) {
    let rates = windows(
        async || io_rate((client, env), id, counter).await,
        |rates| rates.iter().all(|rate| *rate >= 0.8 * expected),
    );
    assert_near(&rates.await, expected, 0.2);
}

/// From when it has moved at all: what the limit had saved up for a new cgroup is over by then.
async fn io_rate(
    (client, env): (&mut Client, &Env),
    id: &str,
    (disk, counter): (&str, &str),
) -> [f64; 2] {
    let moved = async || (io(client, env, id, disk, counter).await[1] > 0.0).then_some(());
    eventually(&format!("{counter} of job {id}"), moved).await;
    let began = Instant::now();
    let before = io(client, env, id, disk, counter).await;
    tokio::time::sleep(IO_WINDOW).await; // the window itself
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
