//! The latency of one line, from the job's write(2) to the client's stdout, against ssh. It must not count the first
//! lines.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::quantile::quantile;
use super::report::Row;
use super::setup::Bench;
use super::writer::now;
use crate::interrupt::Running;
use crate::site::IDENTITIES;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let count = if bench.quick { "200" } else { "500" };
    let writer = bench.writer();
    let words = [writer.as_str(), "bench-writer", "lines", count, "4"];
    let broker = bench.broker()?;
    let (mut ours, mut ssh) = (vec![], vec![]);
    for _ in 0..bench.rounds(8, 10) {
        let mut command = broker.site.jobctl(IDENTITIES[1]);
        ours.extend(delays(command.args(["run", "--"]).args(words))?);
        ssh.extend(delays(&mut bench.sshd.ssh(&words))?);
    }
    broker.close()?;
    let row = |name, fraction, most| {
        Row::new(name, quantile(&ours, fraction), "ms")
            .beside("ssh", quantile(&ssh, fraction))
            .ratio_at_most(most)
    };
    Ok(vec![
        row("one line, from write() to the client, p50", 0.5, 1.1),
        row("one line, from write() to the client, p99", 0.99, 1.0),
    ])
}

/// Milliseconds of each line, without the first few, which the connection's setup delays.
fn delays(command: &mut Command) -> Result<Vec<f64>> {
    let mut running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let out = running.child.stdout.take().context("no stdout")?;
    let mut delays = Vec::new();
    for line in BufReader::new(out).lines() {
        let written = Duration::from_nanos(line?.parse().context("not a time")?);
        delays.push(now().saturating_sub(written).as_secs_f64() * 1e3);
    }
    ensure!(running.wait()?.success(), "the writer failed");
    Ok(delays.split_off(delays.len().min(10)))
}
