//! Over a real network: jobctl and ssh through a relay with a round trip of 100 and 200 ms, and standard input on the
//! loopback interface. It must not take a time from another run: each row has its reference beside it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::keeper::Keeper;
use super::quantile::median;
use super::relay::Relay;
use super::report::Row;
use super::run_true::milliseconds;
use super::setup::Bench;
use super::writer::content;
use crate::interrupt::{self, Running};
use crate::process;
use crate::site::{IDENTITIES, Site};

const FAR: Duration = Duration::from_millis(100);
const FARTHER: Duration = Duration::from_millis(200);
/// Bytes a second of 100 Mbit/s.
const SLOW: f64 = 12.5e6;
const TRUE: &str = "/bin/true";
/// Of a time that is given in round trips: what the programs themselves may take.
const WORK: Duration = Duration::from_millis(30);

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let site = &broker.site;
    let mut rows = short(bench, site)?;
    rows.extend(input(bench, site)?);
    rows.extend(output(bench, site)?);
    rows.extend(compressed(bench, site)?);
    broker.close()?;
    Ok(rows)
}

/// Milliseconds that this many round trips may take.
fn trips(count: u32) -> f64 {
    (FAR * count + WORK).as_millis() as f64
}

/// Calls that have nothing to transfer.
fn short(bench: &Bench, site: &Site) -> Result<Vec<Row>> {
    let ours = Relay::start(site.addr(), FAR)?;
    let theirs = Relay::start(bench.sshd.addr(), FAR)?;
    let master = bench.sshd.master_through("wan", theirs.addr())?;
    let keeper = Keeper::start(|| through(site, &ours))?;
    let [mut run, mut ps, mut new, mut mux, mut kept, mut kept_ps] = [(); 6].map(|()| vec![]);
    for _ in 0..bench.rounds(3, 9) {
        run.push(milliseconds(through(site, &ours).args(["run", "--", TRUE]))?);
        ps.push(milliseconds(through(site, &ours).arg("ps"))?);
        new.push(milliseconds(&mut bench.sshd.ssh_through(theirs.addr(), &[TRUE]))?);
        mux.push(milliseconds(&mut bench.sshd.ssh_over(&master, &[TRUE]))?);
        kept.push(milliseconds(keeper.on(&mut through(site, &ours)).args(["run", "--", TRUE]))?);
        kept_ps.push(milliseconds(keeper.on(&mut through(site, &ours)).arg("ps"))?);
        interrupt::check()?;
    }
    let (run, ps) = (median(&run), median(&ps));
    Ok(vec![
        Row::new("100 ms: jobctl run -- true, new connection", run, "ms")
            .beside("ssh, new connection", median(&new))
            .at_most(trips(3)),
        Row::new("100 ms: jobctl run -- true, kept connection", median(&kept), "ms")
            .beside("ssh, ControlMaster", median(&mux))
            .at_most(trips(1)),
        Row::new("100 ms: jobctl ps, new connection", ps, "ms").at_most(trips(3)),
        Row::new("100 ms: jobctl ps, kept connection", median(&kept_ps), "ms").at_most(trips(1)),
    ])
}

/// Standard input to `wc -c`.
fn input(bench: &Bench, site: &Site) -> Result<Vec<Row>> {
    let ours = Relay::start(site.addr(), FAR)?;
    let theirs = Relay::start(bench.sshd.addr(), FAR)?;
    let file = bench.open_dir.path().join("input");
    let (far, near) = (20_000_000, if bench.quick { 100_000_000 } else { 300_000_000 });
    let [mut run, mut ssh, mut run_near, mut ssh_near] = [vec![], vec![], vec![], vec![]];
    for _ in 0..bench.rounds(2, 5) {
        write_file(&file, far)?;
        let words = ["run", "-i", "--", "wc", "-c"];
        run.push(count(through(site, &ours).args(words), &file, far)?);
        ssh.push(count(&mut bench.sshd.ssh_through(theirs.addr(), &["wc", "-c"]), &file, far)?);
        write_file(&file, near)?;
        let rate = |seconds: f64| near as f64 / 1e6 / seconds;
        run_near.push(rate(count(site.jobctl(IDENTITIES[1]).args(words), &file, near)?));
        ssh_near.push(rate(count(&mut bench.sshd.ssh(&["wc", "-c"]), &file, near)?));
        interrupt::check()?;
    }
    std::fs::remove_file(&file)?;
    Ok(vec![
        Row::new("100 ms: 20 MB into jobctl run -i -- wc -c", median(&run), "s")
            .beside("ssh, new connection", median(&ssh))
            .ratio_at_most(1.0),
        Row::new(
            format!("loopback: {} MB into jobctl run -i -- wc -c", near / 1_000_000),
            median(&run_near),
            "MB/s",
        )
        .beside("ssh, new connection", median(&ssh_near))
        .ratio_at_least(2.0),
    ])
}

/// Output of a running `cat`.
fn output(bench: &Bench, site: &Site) -> Result<Vec<Row>> {
    let ours = Relay::start(site.addr(), FAR)?;
    let theirs = Relay::start(bench.sshd.addr(), FAR)?;
    let farther = Relay::start(site.addr(), FARTHER)?;
    let file = bench.open_dir.path().join("output");
    let (some, much) = (50_000_000, if bench.quick { 250_000_000 } else { 1_000_000_000 });
    let path = file.to_str().context("the path is not UTF-8")?;
    let cat = ["run", "--", "cat", path];
    let [mut run, mut ssh, mut rate] = [vec![], vec![], vec![]];
    for _ in 0..bench.rounds(2, 5) {
        write_file(&file, some)?;
        run.push(milliseconds(through(site, &ours).args(cat))? / 1e3);
        let mut command = bench.sshd.ssh_through(theirs.addr(), &["cat", path]);
        ssh.push(milliseconds(&mut command)? / 1e3);
        write_file(&file, much)?;
        rate.push(flow(through(site, &farther).args(cat), much)?);
        interrupt::check()?;
    }
    std::fs::remove_file(&file)?;
    Ok(vec![
        Row::new("100 ms: 50 MB from jobctl run -- cat", median(&run), "s")
            .beside("ssh, new connection", median(&ssh))
            .ratio_at_most(0.5),
        Row::new(
            format!("200 ms: {} MB from jobctl run -- cat, from its first byte", much / 1_000_000),
            median(&rate),
            "MB/s",
        )
        .at_least(100.0),
    ])
}

/// Text over a slow line.
fn compressed(bench: &Bench, site: &Site) -> Result<Vec<Row>> {
    let ours = Relay::with_rate(site.addr(), FAR, SLOW)?;
    let theirs = Relay::with_rate(bench.sshd.addr(), FAR, SLOW)?;
    let file = bench.open_dir.path().join("text");
    let path = file.to_str().context("the path is not UTF-8")?;
    std::fs::write(&file, text(if bench.quick { 10_000_000 } else { 50_000_000 }))?;
    let [mut plain, mut less, mut ssh] = [vec![], vec![], vec![]];
    for _ in 0..bench.rounds(2, 3) {
        plain.push(milliseconds(through(site, &ours).args(["run", "--", "cat", path]))? / 1e3);
        less.push(milliseconds(through(site, &ours).args(["run", "-C", "--", "cat", path]))? / 1e3);
        let words = ["-C", "127.0.0.1", "cat", path];
        let mut command = bench.sshd.client(theirs.addr());
        ssh.push(milliseconds(command.args(["-o", "ControlPath=none"]).args(words))? / 1e3);
        interrupt::check()?;
    }
    let (less, size) = (median(&less), std::fs::metadata(&file)?.len() / 1_000_000);
    std::fs::remove_file(&file)?;
    let what = format!("100 ms, 100 Mbit/s: {size} MB of text from jobctl run -C -- cat");
    Ok(vec![
        Row::new(what.clone(), less, "s").beside("without -C", median(&plain)).ratio_at_most(0.5),
        Row::new(what, less, "s").beside("ssh -C, new connection", median(&ssh)),
    ])
}

/// Lines as of the log of a service.
fn text(size: usize) -> String {
    let numbers = content(size / 16);
    let mut text = String::with_capacity(size + 200);
    for bytes in numbers.chunks_exact(8) {
        let number = bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let (ms, id, item) = (text.len() / 100, number, number % 1000);
        text += &format!(
            "2026-11-29T10:{:02}:{:02}.{:03}Z INFO http: request id={id:016x} path=/api/v1/items/{item} \
             status=200 took={}us\n",
            ms / 60_000 % 60,
            ms / 1000 % 60,
            ms % 1000,
            number % 9973,
        );
        if text.len() >= size {
            break;
        }
    }
    text
}

/// jobctl at the relay's address.
fn through(site: &Site, relay: &Relay) -> Command {
    let mut command = site.jobctl(IDENTITIES[1]);
    command.env("JOBCTL_ADDR", relay.addr().to_string());
    command
}

/// Seconds until a command that counts its input has said the right number.
fn count(command: &mut Command, input: &Path, size: usize) -> Result<f64> {
    command.stdin(File::open(input)?).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut running = Running::spawn(command)?;
    let mut said = String::new();
    running.child.stdout.take().context("no stdout")?.read_to_string(&mut said)?;
    let status = running.wait()?;
    let time = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{} ended with {status}", process::shown(command));
    ensure!(said.trim() == size.to_string(), "{} of {size} bytes have come", said.trim());
    Ok(time)
}

/// MB/s of a command's output, from the first byte to the end.
fn flow(command: &mut Command, size: usize) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::spawn(command)?;
    let mut out = running.child.stdout.take().context("no stdout")?;
    let mut buffer = vec![0; 1 << 20];
    let mut came = out.read(&mut buffer)?;
    let begin = Instant::now();
    while let length @ 1.. = out.read(&mut buffer)? {
        came += length;
    }
    let time = begin.elapsed().as_secs_f64();
    ensure!(running.wait()?.success() && came == size, "{came} of {size} bytes have come");
    Ok(size as f64 / 1e6 / time)
}

/// Bytes that do not compress, in the page cache.
fn write_file(path: &Path, size: usize) -> Result<()> {
    let block = content(1 << 20);
    let mut file = File::create(path)?;
    let mut left = size;
    while left > 0 {
        let length = left.min(block.len());
        file.write_all(&block[..length])?;
        left -= length;
    }
    Ok(())
}
