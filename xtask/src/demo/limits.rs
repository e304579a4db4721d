//! The scenes about limits, by their effect. They need all controllers and a disk: see
//! [`crate::site::MissingFeature`].

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::stage::Stage;
use super::user::json;
use crate::interrupt;
use crate::site::Site;

const MEMORY: u64 = 64 << 20;
/// It looks for the last lines of what has no lines and no end, and keeps all of it.
const HOG: [&str; 2] = ["tail", "/dev/zero"];

const BURN: &str = "while :; do :; done";
/// The burner is watched for so long; quotas are given out every 100 ms.
const WINDOW: Duration = Duration::from_secs(3);

const PIDS: u64 = 10;
/// Whoever cannot fork stays, as a sleep. At most 127 processes, if nothing should hold it.
const BOMB: &str = "bomb() { trap \"exec sleep 600\" EXIT; [ $1 -gt 0 ] || exit; \
                    bomb $(($1-1)) & bomb $(($1-1)) & wait; }; bomb 6 2>/dev/null";
/// A fork bomb is at its limit, or gone, in a moment, also on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(10);

const MIB: f64 = (1 << 20) as f64;
/// MiB, and MiB per second.
const WRITTEN: f64 = 10.0;
const RATE: f64 = 5.0;

/// Measured rates must be as near as this part of what was asked.
const NEAR: f64 = 0.15;

/// `directory` is on a disk that can be limited.
pub(crate) fn play(stage: &mut Stage, site: &Site, directory: &Path) -> Result<()> {
    memory(stage, site)?;
    cpu(stage, site)?;
    processes(stage, site)?;
    disk(stage, site, directory)
}

fn memory(stage: &mut Stage, site: &Site) -> Result<()> {
    stage.heading("Memory: a hog is killed, its neighbour is not");
    stage.live(site, &["start", "--name", "neighbour", "-m", "64M", "--", "sleep", "600"])?;
    let run = ["run", "--name", "hog", "-m", "64M", "--"];
    let shown = stage.live(site, &[&run[..], &HOG[..]].concat())?;
    let hog = job(site, "hog")?;
    let peak = hog["usage"]["memory_peak_bytes"].as_u64().unwrap_or(MEMORY);
    let killed = shown.status.code() == Some(137) && hog["cause"] == "out_of_memory";
    stage.holds("the hog was killed, and out_of_memory is on record as the cause", killed);
    let most = format!("it never had more than its 64 MiB: {:.1} MiB at its peak", mib(peak));
    stage.holds(&most, peak <= MEMORY);
    let lives = job(site, "neighbour")?["state"] == "running";
    stage.holds("its neighbour lives", lives);
    Ok(())
}

fn cpu(stage: &mut Stage, site: &Site) -> Result<()> {
    stage.heading("CPU: a burner is throttled, and given more while it runs");
    stage.live(site, &["start", "--name", "burner", "--cpus", "0.2", "--", "sh", "-c", BURN])?;
    burns(stage, site, 0.2)?;
    let pid = job(site, "burner")?["pid"].clone();
    stage.live(site, &["update", "burner", "--cpus", "0.6"])?;
    burns(stage, site, 0.6)?;
    let burner = job(site, "burner")?;
    stage.holds("it is still the same process", pid.is_u64() && burner["pid"] == pid);
    stage.live(site, &["status", "--limits", "burner"])?;
    let limits = burner["limits"].as_array().context("jobctl inspect: no limits")?;
    let limit = limits.iter().find(|limit| limit["name"] == "cpu.max").unwrap_or(&Value::Null);
    let same = ["requested", "applied", "effective"].iter().all(|key| limit[key] == "60000 100000");
    stage.holds("what was asked, what the kernel took and what is in force are the same", same);
    Ok(())
}

fn burns(stage: &mut Stage, site: &Site, asked: f64) -> Result<()> {
    // (CPU time, wall time) in seconds.
    let read = || -> Result<(f64, f64)> {
        let usage = &job(site, "burner")?["usage"];
        let cpu = usage["cpu_usage_usec"].as_f64().context("jobctl inspect: no CPU time")?;
        Ok((cpu / 1e6, wall_time(usage)?))
    };
    let before = read()?;
    thread::sleep(WINDOW); // the window itself
    interrupt::check()?;
    let after = read()?;
    let rate = (after.0 - before.0) / (after.1 - before.1);
    let claim = format!("{asked} CPUs asked, {rate:.2} used, measured over {WINDOW:?}");
    stage.holds(&claim, is_near(rate, asked));
    Ok(())
}

fn processes(stage: &mut Stage, site: &Site) -> Result<()> {
    stage.heading("Processes: a fork bomb is held at its limit");
    let start = ["start", "--name", "bomb", "--pids-limit", "10", "--", "sh", "-c", BOMB];
    stage.live(site, &start)?;
    let until = Instant::now() + TIMEOUT;
    let refused = |usage: &Value| usage["pids_max_events"].as_u64().unwrap_or(0);
    while refused(&job(site, "bomb")?["usage"]) == 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(100)); // between two looks
        interrupt::check()?;
    }
    stage.live(site, &["stats", "--no-stream"])?;
    let bomb = job(site, "bomb")?;
    let usage = &bomb["usage"];
    // Before Linux 6.5 most kernels know no peak.
    let most = usage["pids_peak"].as_u64().or(usage["pids_current"].as_u64()).unwrap_or(u64::MAX);
    let claim = format!("{most} processes at most; forks refused so far: {}", refused(usage));
    stage.holds(&claim, most <= PIDS && refused(usage) > 0);
    stage.live(site, &["stop", "-t", "0s", "bomb", "burner"])?;
    let id = bomb["id"].as_str().context("jobctl inspect: no id")?;
    let is_gone = goes(&site.cgroup()?.join(id));
    stage.holds("one stop, and nothing of it is left", is_gone);
    Ok(())
}

/// `stop` is back when all processes are gone; their cgroup goes in the moment after.
fn goes(cgroup: &Path) -> bool {
    let until = Instant::now() + TIMEOUT;
    while cgroup.exists() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10)); // between two looks
    }
    !cgroup.exists()
}

fn disk(stage: &mut Stage, site: &Site, directory: &Path) -> Result<()> {
    stage.heading("Disk: a writer is held at 5 MiB/s");
    let room = tempfile::Builder::new().prefix("job-demo-").tempdir_in(directory);
    let room = room.with_context(|| format!("cannot write in {}", directory.display()))?;
    // Jobs run as nobody.
    std::fs::set_permissions(room.path(), Permissions::from_mode(0o1777))?;
    let place = room.path().to_str().context("a path is not UTF-8")?;
    let dd = ["dd", "if=/dev/zero", "of=data", "bs=64k", "count=160", "oflag=direct"];
    let run = ["run", "--name", "writer", "--allow", place, "-w", place];
    let run = [&run[..], &["--device-write-bps", "5M", "--"]].concat();
    let shown = stage.live(site, &[&run[..], &dd[..]].concat())?;
    let writer = job(site, "writer")?;
    let written = written(&writer).context("jobctl inspect: no bytes written")?;
    let took = wall_time(&writer["usage"])?;
    let rate = mib(written) / took;
    let claim = format!("{:.0} MiB in {took:.2} s: {rate:.1} MiB/s", mib(written));
    let whole = shown.status.success() && mib(written) >= WRITTEN;
    stage.holds(&claim, whole && is_near(rate, RATE));
    Ok(())
}

fn job(site: &Site, name: &str) -> Result<Value> {
    json(site, &["inspect", name, "-o", "json"])
}

/// To the disk that the job has a limit on; the shim's log may be on another.
fn written(job: &Value) -> Option<u64> {
    let limits = job["limits"].as_array()?.iter();
    let disk = limits.filter_map(|limit| limit["name"].as_str()?.strip_prefix("io.max ")).next()?;
    let mut io = job["usage"]["io"].as_array()?.iter();
    io.find(|io| io["device"] == disk)?["wbytes"].as_u64()
}

/// Seconds.
fn wall_time(usage: &Value) -> Result<f64> {
    let text = usage["wall_time"].as_str().context("jobctl inspect: no wall time")?;
    text.trim_end_matches('s').parse().with_context(|| format!("\"{text}\" is no time"))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

fn is_near(measured: f64, asked: f64) -> bool {
    (measured / asked - 1.0).abs() <= NEAR
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rate_that_is_off_is_not_near() {
        assert!(is_near(0.21, 0.2) && is_near(0.18, 0.2));
        assert!(!is_near(0.3, 0.2) && !is_near(0.1, 0.2) && !is_near(f64::NAN, 0.2));
    }

    #[test]
    fn bytes_are_those_of_the_limited_disk() {
        let io = |device: &str, wbytes: u64| json!({"device": device, "wbytes": wbytes});
        let job = json!({"limits": [{"name": "pids.max"}, {"name": "io.max 98:16"}],
                         "usage": {"io": [io("98:0", 1), io("98:16", 2)]}});
        assert_eq!(written(&job), Some(2));
        assert_eq!(written(&json!({"limits": [], "usage": {"io": [io("98:0", 1)]}})), None);
    }

    #[test]
    fn wall_time_is_read_as_json_writes_durations() {
        assert_eq!(wall_time(&json!({"wall_time": "1.5s"})).expect("a time"), 1.5);
        assert!(wall_time(&json!({"wall_time": null})).is_err());
    }
}
