//! `jobctl run -- true`, the whole process with a new connection, against ssh. It must not reuse a connection on
//! either side, except where a row says so.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

use super::keeper::Keeper;
use super::quantile::{median, quantile};
use super::report::Row;
use super::setup::Bench;
use crate::interrupt;
use crate::process;
use crate::site::{Ending, IDENTITIES, Site};

const TRUE: &str = "/bin/true";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let site = &broker.site;
    let master = bench.sshd.master("run")?;
    let keeper = Keeper::start(|| site.jobctl(IDENTITIES[1]))?;
    let [mut jobctl, mut new, mut mux, mut plain, mut kept] = [(); 5].map(|()| vec![]);
    milliseconds(&mut run(site))?; // the cold start is a row of its own
    for round in 0..bench.rounds(40, 200) {
        jobctl.push(milliseconds(&mut run(site))?);
        kept.push(milliseconds(keeper.on(&mut run(site)))?);
        mux.push(milliseconds(&mut bench.sshd.ssh_over(&master, &[TRUE]))?);
        plain.push(milliseconds(&mut Command::new(TRUE))?);
        if round % 5 == 0 {
            new.push(milliseconds(&mut bench.sshd.ssh(&[TRUE]))?);
        }
        interrupt::check()?;
    }
    let mut cold = vec![];
    for _ in 0..bench.rounds(3, 9) {
        site.end(Ending::Asked)?;
        site.start_unasked(&bench.programs)?;
        cold.push(milliseconds(&mut run(site))?);
    }
    drop(keeper);
    broker.close()?;
    let value = median(&jobctl);
    let name = "jobctl run -- true, whole process, p50";
    Ok(vec![
        Row::new(name, value, "ms")
            .beside("ssh, new connection", median(&new))
            .at_most(5.0)
            .ratio_at_most(0.04),
        Row::new(name, value, "ms").beside("ssh, ControlMaster", median(&mux)).ratio_at_most(0.5),
        Row::new(name, value, "ms").beside("fork+exec+wait", median(&plain)),
        Row::new("the same over a kept connection", median(&kept), "ms")
            .beside("ssh, ControlMaster", median(&mux)),
        Row::new("the same, p99", quantile(&jobctl, 0.99), "ms")
            .beside("ssh, ControlMaster", quantile(&mux, 0.99)),
        Row::new("the same, first call of a new broker", median(&cold), "ms"),
    ])
}

fn run(site: &Site) -> Command {
    let mut command = site.jobctl(IDENTITIES[1]);
    command.args(["run", "--", TRUE]);
    command
}

/// Milliseconds from before a command's start to after its end.
pub(crate) fn milliseconds(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let status = process::status(command)?;
    let time = begin.elapsed();
    if !status.success() {
        bail!("{} ended with {status}", process::shown(command));
    }
    Ok(time.as_secs_f64() * 1e3)
}
