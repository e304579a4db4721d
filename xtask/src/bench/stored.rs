//! A gigabyte to a client: from a finished job, and from a running `cat`, against ssh. Every way must read the file
//! from the page cache.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use super::usage;
use super::writer::content;
use crate::interrupt;
use crate::process;
use crate::site::{IDENTITIES, Site};

/// One way to transfer the bytes: rate and cost of each round.
#[derive(Default)]
struct Way {
    gb_per_second: Vec<f64>,
    cpu_per_gb: Vec<f64>,
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let size = if bench.quick { 256 << 20 } else { 1 << 30 };
    let file = bench.open_dir.path().join("stored");
    write_file(&file, size)?;
    let file = file.to_str().context("the path is not UTF-8")?;
    let broker = bench.broker_for_much()?;
    let site = &broker.site;
    let mut start = site.jobctl(IDENTITIES[1]);
    let id = process::output(start.args(["start", "--", "cat", file]))?;
    process::check(site.jobctl(IDENTITIES[1]).args(["-q", "wait", "--until", "end", id.trim()]))?;

    let [mut logs, mut run, mut ssh] = [Way::default(), Way::default(), Way::default()];
    for _ in 0..bench.rounds(6, 7) {
        let mut command = site.jobctl(IDENTITIES[1]);
        logs.round(command.args(["logs", id.trim()]), size, || ours(site))?;
        let mut command = site.jobctl(IDENTITIES[1]);
        run.round(command.args(["run", "--", "cat", file]), size, || ours(site))?;
        let mut command = bench.sshd.ssh(&["-c", "aes128-gcm@openssh.com", "cat", file]);
        ssh.round(&mut command, size, || usage::cpu(bench.sshd.pid(), true))?;
    }
    broker.close()?;
    std::fs::remove_file(file).context("cannot remove the file")?;
    let reference = "ssh -c aes128-gcm cat";
    let (rate, cost) = (median(&ssh.gb_per_second), median(&ssh.cpu_per_gb));
    let row = |name, samples: &[f64], unit, value| {
        Row::new(name, median(samples), unit).beside(reference, value)
    };
    Ok(vec![
        row("jobctl logs, 1 GiB stored", &logs.gb_per_second, "GB/s", rate).ratio_at_least(2.0),
        row("jobctl logs, CPU of client and broker", &logs.cpu_per_gb, "s/GB", cost)
            .ratio_at_most(0.45),
        row("jobctl run -- cat, 1 GiB", &run.gb_per_second, "GB/s", rate),
        row("jobctl run -- cat, CPU of all processes", &run.cpu_per_gb, "s/GB", cost),
    ])
}

/// CPU time of the broker and of all processes below its jobs' cgroup.
fn ours(site: &Site) -> Result<Duration> {
    let broker = site.broker_pid().context("the broker has ended")?;
    Ok(usage::cpu(broker, false)? + usage::cgroup_cpu(&site.cgroup()?)?)
}

impl Way {
    /// `server` returns the CPU time of the server's processes so far.
    fn round(
        &mut self,
        client: &mut Command,
        size: usize,
        server: impl Fn() -> Result<Duration>,
    ) -> Result<()> {
        let own = std::process::id();
        let before = server()? + usage::cpu(own, true)? - usage::cpu(own, false)?;
        let begin = Instant::now();
        let status = process::status(client.stdout(Stdio::null()))?;
        let time = begin.elapsed().as_secs_f64();
        ensure!(status.success(), "{} ended with {status}", process::shown(client));
        // A process's time counts in its parent once it is reaped, and no event reports that.
        thread::sleep(Duration::from_millis(100));
        let after = server()? + usage::cpu(own, true)? - usage::cpu(own, false)?;
        let gigabytes = size as f64 / 1e9;
        self.gb_per_second.push(gigabytes / time);
        self.cpu_per_gb.push(after.saturating_sub(before).as_secs_f64() / gigabytes);
        interrupt::check()
    }
}

/// Leaves the file in the page cache, for all ways alike.
fn write_file(path: &std::path::Path, size: usize) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let block = content(1 << 20);
        for _ in 0..size >> 20 {
            file.write_all(&block)?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
