//! What the profiles add to a start: one broker, jobs of all profiles in turn, on this host as it is and with 300
//! mounts more. It must alternate them, so that all see the same host.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use job_api::client::{Client, connect};
use job_api::v1::isolation::Profile;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{Isolation, JobSpec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::api;
use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use crate::interrupt;
use crate::site::{Ending, IDENTITIES, Throwaway};

const PROFILES: [Profile; 3] = [Profile::Host, Profile::Private, Profile::Strict];
/// Mounts that a host of many containers has besides.
const MANY: usize = 300;
/// Rounds that do not count.
const WARM_UP: usize = 5;
/// bubblewrap, with what `private` has.
const BUBBLEWRAP: [&str; 13] = [
    "bwrap",
    "--unshare-all",
    "--share-net",
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "/bin/true",
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let [host, private, strict] = starts(bench)?;
    let many = {
        let _mounts = Mounts::make()?;
        starts(bench)?
    };
    let mut rows = vec![
        Row::new("the profile private adds to a start, p50", private - host, "ms").at_most(0.5),
        Row::new("the profile strict adds, p50", strict - host, "ms").at_most(1.5),
        Row::new("private adds with 300 mounts more, p50", many[1] - many[0], "ms").at_most(1.0),
        Row::new("strict adds with 300 mounts more, p50", many[2] - many[0], "ms").at_most(3.0),
        Row::new("StartJob in private, p50", private, "ms").beside("in host", host),
    ];
    match bubblewrap(bench)? {
        Some(adds) => rows.push(Row::new(
            "beside: bwrap --unshare-all --share-net adds to a process",
            adds,
            "ms",
        )),
        None => println!("bwrap is not installed: not compared (apt install bubblewrap)"),
    }
    Ok(rows)
}

/// The median of each profile, in milliseconds.
fn starts(bench: &Bench) -> Result<[f64; 3]> {
    let broker = bench.broker()?;
    broker.site.end(Ending::Asked)?;
    let file = broker.site.file("config.toml");
    let config = fs::read_to_string(&file)?;
    fs::write(&file, config.replacen("[isolation]\n", "[isolation]\nminimum = \"host\"\n", 1))?;
    broker.site.start(&bench.programs)?;
    let took = alternate(bench, &broker)?;
    broker.close()?;
    Ok(took.each_ref().map(|samples| median(samples)))
}

fn alternate(bench: &Bench, broker: &Throwaway) -> Result<[Vec<f64>; 3]> {
    let mut took = [const { Vec::new() }; 3];
    api::runtime()?.block_on(async {
        let (addr, user) = (broker.site.addr().to_string(), IDENTITIES[1]);
        let mut client = connect(&addr, &broker.site.credentials(user)?).await?;
        for round in 0..WARM_UP + bench.rounds(100, 500) {
            for n in (0..3).map(|n| (n + round) % 3) {
                let one = start(&mut client, PROFILES[n]).await?;
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

/// Milliseconds of one start. Returns when nothing of the job is left.
async fn start(client: &mut Client, profile: Profile) -> Result<f64> {
    let isolation = Isolation { profile: profile.into(), ..Isolation::default() };
    let spec = JobSpec {
        argv: vec!["/bin/true".into()],
        isolation: Some(isolation),
        ..JobSpec::default()
    };
    let begin = Instant::now();
    let job = api::start_spec(client, spec).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    api::wait(client, &job.id, Until::End).await?;
    Ok(took)
}

fn bubblewrap(bench: &Bench) -> Result<Option<f64>> {
    let run = |argv: &[&str]| -> Result<f64> {
        let begin = Instant::now();
        let status = Command::new(argv[0]).args(&argv[1..]).status()?;
        anyhow::ensure!(status.success(), "{} failed: {status}", argv[0]);
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    };
    if Command::new("bwrap").arg("--version").output().is_err() {
        return Ok(None);
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(100, 500) {
        with.push(run(&BUBBLEWRAP)?);
        without.push(run(&["/bin/true"])?);
    }
    Ok(Some(median(&with) - median(&without)))
}

/// 300 mounts, all of which go with the one that they are in.
struct Mounts(TempDir);

impl Mounts {
    fn make() -> Result<Mounts> {
        let dir = tempfile::Builder::new().prefix("job-bench-mounts-").tempdir_in("/var/lib")?;
        tmpfs(dir.path(), "4m")?;
        let mounts = Mounts(dir);
        for n in 0..MANY {
            let place = mounts.0.path().join(n.to_string());
            fs::create_dir(&place)?;
            tmpfs(&place, "4k")?;
        }
        Ok(mounts)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if let Err(e) = umount2(self.0.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {e}", self.0.path().display());
        }
    }
}

fn tmpfs(path: &std::path::Path, size: &str) -> Result<()> {
    let options = format!("size={size}");
    let flags = MsFlags::empty();
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .with_context(|| format!("cannot mount {}", path.display()))
}
