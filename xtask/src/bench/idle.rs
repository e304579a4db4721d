//! The cost of a thousand idle jobs: memory of the shims, memory and CPU time of the broker. The measured span must
//! contain no call.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use super::{api, usage};
use crate::interrupt;
use crate::site::{Ending, Site};

const CONNECTIONS: usize = 8;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.rounds(200, 1000);
    let span = Duration::from_secs(if bench.quick { 3 } else { 10 });
    let broker = bench.broker()?;
    let site = &broker.site;
    start(site, 1)?;
    let (pss_of_one, rss_of_one) = shims(site)?.first().copied().context("no shim")?;
    let begin = Instant::now();
    start(site, count - 1)?;
    let starting = begin.elapsed();

    let shims = shims(site)?;
    ensure!(shims.len() == count, "{} shims for {count} jobs", shims.len());
    let of = |part: fn(&(f64, f64)) -> f64| median(&shims.iter().map(part).collect::<Vec<_>>());
    let (pss, rss) = (of(|shim| shim.0), of(|shim| shim.1));
    let fresh = usage::rss(pid(site)?)?;
    // The starts are over since then; the rest is an idle broker's own work.
    let before = usage::cpu(pid(site)?, false)?;
    thread::sleep(span);
    let cpu = usage::cpu(pid(site)?, false)? - before;
    interrupt::check()?;

    site.end(Ending::Killed)?;
    let begin = Instant::now();
    site.start(&bench.programs)?;
    let adoption = begin.elapsed();
    let adopted = usage::rss(pid(site)?)?;
    let begin = Instant::now();
    end_all(site)?;
    let ending = begin.elapsed();
    broker.close()?;
    let jobs = count as f64;
    Ok(vec![
        Row::new(format!("one shim among {count}, PSS"), pss / 1e3, "kB")
            .beside("one alone", pss_of_one / 1e3)
            .at_most(40.0),
        Row::new(format!("one shim among {count}, RSS"), rss / 1e3, "kB")
            .beside("one alone", rss_of_one / 1e3)
            .at_most(400.0),
        Row::new(format!("broker with {count} idle jobs, RSS"), fresh / 1e6, "MB").at_most(20.0),
        Row::new("the same, a broker that has taken them over", adopted / 1e6, "MB").at_most(20.0),
        // One tick of the kernel's clock may belong to another process.
        Row::new(format!("the same, CPU in {span:?}"), cpu.as_secs_f64() * 1e3, "ms").at_most(10.0),
        Row::new(
            format!("starting {count} of them, 8 at a time"),
            jobs / starting.as_secs_f64(),
            "/s",
        ),
        Row::new(
            "a new broker answers over them after kill -9",
            adoption.as_secs_f64() * 1e3,
            "ms",
        ),
        Row::new("killing them all, until nothing is left", jobs / ending.as_secs_f64(), "/s"),
    ])
}

fn pid(site: &Site) -> Result<u32> {
    site.broker_pid().context("the broker has ended")
}

/// Starts sleeping jobs, 8 at a time.
pub(crate) fn start(site: &Site, count: usize) -> Result<()> {
    api::runtime()?.block_on(async {
        let share = |n: usize| count / CONNECTIONS + usize::from(n < count % CONNECTIONS);
        try_join_all((0..CONNECTIONS).map(|n| async move {
            let mut client = api::client(site).await?;
            for _ in 0..share(n) {
                api::start(&mut client, &["sleep", "1000"]).await?;
                interrupt::check()?;
            }
            anyhow::Ok(())
        }))
        .await
        .map(drop)
    })
}

/// (PSS, RSS) of every shim, found by its leaf cgroup, when they have given back what only the start needed: after a
/// second.
pub(crate) fn shims(site: &Site) -> Result<Vec<(f64, f64)>> {
    thread::sleep(Duration::from_secs(2));
    let mut shims = Vec::new();
    for job in fs::read_dir(site.cgroup()?)? {
        let leaf = job?.path().join("shim/cgroup.procs");
        if let Ok(pids) = fs::read_to_string(leaf) {
            for pid in pids.split_whitespace() {
                shims.push(usage::pss_rss(pid.parse()?)?);
            }
        }
    }
    Ok(shims)
}

/// Kills all jobs. Returns when their cgroups are gone.
pub(crate) fn end_all(site: &Site) -> Result<()> {
    let jobs: Vec<String> = fs::read_dir(site.cgroup()?)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.len() == 36)
        .collect();
    api::runtime()?.block_on(async {
        let share = jobs.len().div_ceil(CONNECTIONS).max(1);
        try_join_all(jobs.chunks(share).map(|jobs| async move {
            let mut client = api::client(site).await?;
            for id in jobs {
                api::end(&mut client, id).await?;
            }
            anyhow::Ok(())
        }))
        .await
        .map(drop)
    })
}
