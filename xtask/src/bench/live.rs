//! A job that writes as fast as it can, with one live follower, against a pipe into a file. The follower must get
//! every byte.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use job_api::v1::wait_job_request::Until;

use super::api;
use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use crate::interrupt::{self, Running};
use crate::site::{IDENTITIES, Site};

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let size: u64 = if bench.quick { 512 << 20 } else { 4 << 30 };
    let broker = bench.broker_for_much()?;
    let site = &broker.site;
    let mut rates = [vec![], vec![], vec![]];
    for round in 0..bench.rounds(8, 4) {
        // There and back: each comes after each of the others, which leave something else in memory.
        let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
        for way in order {
            settle(site)?;
            rates[way].push(match way {
                0 => job(site, size, true)?,
                1 => pipe_to_file(site, size)?,
                _ => job(site, size, false)?,
            });
        }
        interrupt::check()?;
    }
    broker.close()?;
    let [ours, pipe, alone] = rates.map(|rates| median(&rates));
    let reference = "pipe into a file, with a reader";
    Ok(vec![
        Row::new("output of a running job to disk, one live follower", ours, "GB/s")
            .beside(reference, pipe)
            .ratio_at_least(1.0),
        Row::new("the same without a follower", alone, "GB/s").beside(reference, pipe),
    ])
}

/// The time from the job's start to its end; the follower may take longer, and must get the whole output.
fn job(site: &Site, size: u64, followed: bool) -> Result<f64> {
    let bytes = size.to_string();
    api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        let begin = Instant::now();
        let job = api::start(&mut client, &["head", "-c", &bytes, "/dev/zero"]).await?;
        let follower = followed.then(|| {
            let mut command = site.jobctl(IDENTITIES[0]);
            Running::spawn(command.args(["logs", "-f", &job.id]).stdout(Stdio::null()))
        });
        let ended = api::wait(&mut client, &job.id, Until::Exit).await?;
        let time = begin.elapsed().as_secs_f64();
        if let Some(follower) = follower {
            ensure!(follower?.wait()?.success(), "jobctl logs -f failed");
        }
        let ended = api::wait(&mut client, &ended.id, Until::End).await?;
        ensure!(ended.stdout_bytes == size, "{} of {size} bytes kept", ended.stdout_bytes);
        let id = ended.id;
        client.delete_job(job_api::v1::DeleteJobRequest { id }).await?;
        Ok(size as f64 / 1e9 / time)
    })
}

/// The minimum work of shim and follower: read a pipe, write a file, and read the file behind the writer.
fn pipe_to_file(site: &Site, size: u64) -> Result<f64> {
    let path = site.dir().join("piped");
    let mut file = File::create(&path)?;
    let mut behind = File::open(&path)?;
    let begin = Instant::now();
    let mut command = Command::new("head");
    command.args(["-c", &size.to_string(), "/dev/zero"]).stdout(Stdio::piped());
    let mut head = Running::spawn(&mut command)?;
    let mut out = head.child.stdout.take().context("no stdout")?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 256 << 10];
            // Reads to the current end of the file, until the writer has ended.
            while behind.read(&mut buffer).unwrap_or(0) > 0 || !is_over.load(Ordering::Relaxed) {}
        });
        let copied = copy(&mut out, &mut file);
        is_over.store(true, Ordering::Relaxed);
        copied
    })?;
    let time = begin.elapsed().as_secs_f64();
    head.wait()?;
    std::fs::remove_file(&path)?;
    Ok(size as f64 / 1e9 / time)
}

/// Nothing that was written before is still on its way to the disk.
fn settle(site: &Site) -> Result<()> {
    let directory = File::open(site.dir())?;
    Ok(nix::unistd::syncfs(directory)?)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length])?,
        }
    }
}
