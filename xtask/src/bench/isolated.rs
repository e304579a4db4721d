//! What isolated jobs cost while they are idle, and what many of them leave behind. The host's own processes must not count: only
//! what was not there before does.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use job_api::v1::isolation::Profile;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{Isolation, JobSpec};

use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use super::{api, idle};
use crate::interrupt;
use crate::site::Site;

/// How long the kernel may take to tear down what the last job had.
const TEARDOWN: Duration = Duration::from_secs(10);
/// Jobs that run at a time.
const BATCH: usize = 20;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for profile in [Profile::Private, Profile::Strict] {
        let broker = bench.broker()?;
        let count = bench.rounds(50, 200);
        start(&broker.site, profile, count, &["sleep", "1000"], None)?;
        let shims = idle::shims(&broker.site)?;
        ensure!(shims.len() == count, "{} shims for {count} jobs", shims.len());
        let pss = median(&shims.iter().map(|shim| shim.0).collect::<Vec<_>>());
        idle::end_all(&broker.site)?;
        broker.close()?;
        let name = profile.as_str_name().to_lowercase();
        rows.push(
            Row::new(format!("one shim among {count} of {name}, PSS"), pss / 1e3, "kB")
                .at_most(40.0),
        );
    }
    let count = bench.rounds(100, 1000);
    let broker = bench.broker()?;
    let before = namespaces();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for _ in 0..count / BATCH {
        start(&broker.site, Profile::Strict, BATCH, &["true"], Some(Until::End))?;
    }
    let left = left_of(&before);
    broker.close()?;
    ensure!(fs::read_to_string("/proc/self/mountinfo")? == mounts, "a mount is left on the host");
    rows.push(
        Row::new(format!("namespaces that {count} strict jobs leave"), left as f64, "")
            .at_most(0.0),
    );
    Ok(rows)
}

fn start(
    site: &Site,
    profile: Profile,
    count: usize,
    argv: &[&str],
    until: Option<Until>,
) -> Result<()> {
    api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        let mut ids = Vec::new();
        for _ in 0..count {
            let isolation = Isolation { profile: profile.into(), ..Isolation::default() };
            let spec = JobSpec {
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                isolation: Some(isolation),
                ..JobSpec::default()
            };
            ids.push(api::start_spec(&mut client, spec).await?.id);
            interrupt::check()?;
        }
        if let Some(until) = until {
            for id in ids {
                api::wait(&mut client, &id, until).await?;
            }
        }
        Ok(())
    })
}

/// Namespaces of processes that were not there before, once the kernel has had its time.
fn left_of(before: &BTreeSet<PathBuf>) -> usize {
    let until = Instant::now() + TEARDOWN;
    loop {
        let left = namespaces().difference(before).count();
        if left == 0 || Instant::now() > until {
            return left;
        }
        thread::sleep(Duration::from_millis(50)); // then the kernel may be done
    }
}

fn namespaces() -> BTreeSet<PathBuf> {
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let links = processes.filter_map(|entry| fs::read_dir(entry.ok()?.path().join("ns")).ok());
    links.flatten().filter_map(|link| fs::read_link(link.ok()?.path()).ok()).collect()
}
