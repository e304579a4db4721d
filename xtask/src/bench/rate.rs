//! Starts per second by eight clients. Each client waits for its job before it starts the next, and must not start
//! two at once.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use job_api::client::Client;
use job_api::v1::wait_job_request::Until;

use super::api;
use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use crate::interrupt;
use crate::process;
use crate::site::{IDENTITIES, Site};

const CLIENTS: usize = 8;
const TRUE: &str = "/bin/true";

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let site = &broker.site;
    let masters: Vec<_> =
        (0..CLIENTS).map(|n| bench.sshd.master(&format!("rate{n}"))).collect::<Result<_>>()?;
    let span = Duration::from_secs(if bench.quick { 1 } else { 3 });
    let (mut open, mut new, mut mux) = (vec![], vec![], vec![]);
    for _ in 0..bench.rounds(1, 3) {
        open.push(over_connections(site, span)?);
        mux.push(by_processes(span, |n| bench.sshd.ssh_over(&masters[n], &[TRUE]))?);
        new.push(by_processes(span, |_| {
            let mut command = site.jobctl(IDENTITIES[1]);
            command.args(["run", "--", TRUE]);
            command
        })?);
    }
    broker.close()?;
    let (open, new, mux) = (median(&open), median(&new), median(&mux));
    Ok(vec![
        Row::new(
            "starts per second, 8 clients on open connections, each job waited for",
            open,
            "/s",
        )
        .beside("8 x ssh, a ControlMaster each", mux)
        .at_least(300.0)
        .ratio_at_least(3.0),
        Row::new("jobctl run -- true per second, 8 at a time, new connections", new, "/s")
            .beside("8 x ssh, a ControlMaster each", mux),
    ])
}

fn over_connections(site: &Site, span: Duration) -> Result<f64> {
    api::runtime()?.block_on(async {
        let clients = try_join_all((0..CLIENTS).map(|_| api::client(site))).await?;
        let begin = Instant::now();
        let until = begin + span;
        let done =
            try_join_all(clients.into_iter().map(|client| one_client(client, until))).await?;
        Ok(done.iter().sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
    })
}

async fn one_client(mut client: Client, until: Instant) -> Result<usize> {
    let mut done = 0;
    while Instant::now() < until {
        let job = api::start(&mut client, &[TRUE]).await?;
        let job = api::wait(&mut client, &job.id, Until::Exit).await?;
        ensure!(job.exit_code == Some(0), "true has not exited 0: {job:?}");
        done += 1;
    }
    interrupt::check()?;
    Ok(done)
}

fn by_processes(span: Duration, command: impl Fn(usize) -> Command + Sync) -> Result<f64> {
    let begin = Instant::now();
    let one = |n| -> Result<usize> {
        let mut done = 0;
        while begin.elapsed() < span {
            process::check(command(n).stdout(Stdio::null()))?;
            done += 1;
        }
        Ok(done)
    };
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || one(n))).collect();
        let results = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        });
        results.sum::<Result<usize>>()
    })?;
    interrupt::check()?;
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}
