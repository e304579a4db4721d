//! What policy, quotas and audit add to a start: a broker with all of them beside one without a policy file, without
//! quotas, and with an audit whose syncs cost nothing. It must alternate them, so that all see the same host.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use job_api::client::{Client, connect};
use job_api::v1::wait_job_request::Until;
use tempfile::TempDir;

use super::api;
use super::quantile::{median, quantile};
use super::report::Row;
use super::setup::Bench;
use crate::interrupt;
use crate::site::{Ending, IDENTITIES, Throwaway};

/// The policy of the package.
const POLICY: &str = include_str!("../../../packaging/etc/policy.toml");
/// Every quota that a job without limits can have, out of reach.
const QUOTAS: &str = "[quotas.default]\nrunning_jobs = 10000\nstarts_per_minute = 1000000\n\
                      start_burst = 1000000\nkept_jobs = 1000000\nkept_bytes = \"1T\"\n";
/// A file system in memory: fdatasync(2) is free there.
const MEMORY: &str = "/dev/shm";
/// Rounds that do not count: a broker's first start is slower.
const WARM_UP: usize = 5;

/// Lines of the configuration before its tables, and tables.
struct Lines(String, String);

/// The audit cannot be left out, so making and hashing its lines is on both sides.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let memory = tempfile::Builder::new().prefix("job-bench-").tempdir_in(MEMORY);
    let memory: TempDir = memory.context("cannot make a directory in memory")?;
    let in_memory = |name: &str| {
        let dir = memory.path().join(name);
        format!("[audit]\ndir = \"{}\"\n", dir.display())
    };
    let brokers = [
        broker(bench, |dir| all(dir, ""))?,
        broker(bench, |dir| all(dir, &in_memory("all")))?,
        broker(bench, |_| Ok(Lines(String::new(), in_memory("none"))))?,
    ];
    let took = compare(bench, &brokers)?;
    let [all, unsynced, none] = took.each_ref().map(|samples| median(samples));
    // What a start takes when nothing else of the host is in its way.
    let [undisturbed, _, undisturbed_none] = took.each_ref().map(|samples| quantile(samples, 0.1));
    brokers.into_iter().try_for_each(Throwaway::close)?;
    Ok(vec![
        Row::new("policy, quotas and audit add to a start, p50", all - none, "ms").at_most(0.2),
        Row::new("the same, p10", undisturbed - undisturbed_none, "ms"),
        Row::new("of the first the audit's group commit on the disk, p50", all - unsynced, "ms"),
        Row::new("of the first the policy file and the quotas, p50", unsynced - none, "ms"),
        Row::new("StartJob with all of them, p50", all, "ms")
            .beside("no policy file, no quotas, audit in memory", none),
    ])
}

fn all(dir: &Path, tables: &str) -> Result<Lines> {
    let policy = dir.join("policy.toml");
    fs::write(&policy, POLICY).with_context(|| format!("cannot write {}", policy.display()))?;
    Ok(Lines(format!("policy = \"{}\"\n", policy.display()), format!("{QUOTAS}{tables}")))
}

/// A broker with these lines besides.
fn broker(bench: &Bench, lines: impl FnOnce(&Path) -> Result<Lines>) -> Result<Throwaway> {
    let broker = bench.broker()?;
    broker.site.end(Ending::Asked)?;
    let Lines(before, behind) = lines(broker.site.dir())?;
    let file = broker.site.file("config.toml");
    let config = fs::read_to_string(&file)?;
    fs::write(&file, format!("{before}{config}\n{behind}"))?;
    broker.site.start(&bench.programs)?;
    Ok(broker)
}

/// Milliseconds of each start. Each round begins with another broker, and every other one goes backwards.
fn compare<const N: usize>(bench: &Bench, brokers: &[Throwaway; N]) -> Result<[Vec<f64>; N]> {
    let mut took = [const { Vec::new() }; N];
    api::runtime()?.block_on(async {
        let mut clients = Vec::new();
        for broker in brokers {
            let (addr, user) = (broker.site.addr().to_string(), IDENTITIES[1]);
            clients.push(connect(&addr, &broker.site.credentials(user)?).await?);
        }
        for round in 0..WARM_UP + bench.rounds(400, 1000) {
            for n in (0..N).map(|n| if round % 2 == 0 { n } else { N - 1 - n }) {
                let n = (n + round / 2) % N;
                let one = start(&mut clients[n]).await?;
                if round >= WARM_UP {
                    took[n].push(one);
                }
            }
            interrupt::check()?;
        }
        anyhow::Ok(())
    })?;
    Ok(took)
}

/// Milliseconds of one start. Returns when the job's cgroup is gone.
async fn start(client: &mut Client) -> Result<f64> {
    let begin = Instant::now();
    let job = api::start(client, &["/bin/true"]).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    api::wait(client, &job.id, Until::End).await?;
    Ok(took)
}
