//! The cost of all limits together at a start, against starts without limits. It must alternate the two, so that both
//! see the same host.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use job_api::client::Client;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{IoMax, JobSpec, Limits, Rlimit};
use serde::{Deserialize, Serialize};

use super::api;
use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use crate::interrupt::{self, Running};
use crate::programs::{Profile, Programs};
use crate::site::{Site, Throwaway};
use crate::vm;

/// A directory on the host's disk.
const HOST_DISK: &str = "/var/tmp";

/// Rounds that do not count: a broker's first start is slower.
const WARM_UP: usize = 5;

/// Medians, in milliseconds.
#[derive(Serialize, Deserialize)]
struct Medians {
    limited: f64,
    plain: f64,
}

/// Measures in the testbed VM if this host lacks a feature for the limits; the VM's kernel is slower at everything.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let rounds = bench.rounds(150, 300);
    let broker = bench.broker()?;
    let missing_feature = broker.site.missing_feature(Path::new(HOST_DISK))?;
    let (medians, place) = match missing_feature {
        None => (compare(&broker.site, Path::new(HOST_DISK), rounds)?, ""),
        Some(missing_feature) => {
            eprintln!("xtask: {}: measured in a VM whose kernel can", missing_feature.words);
            (in_the_vm(&bench.programs, rounds)?, ", in the testbed VM")
        }
    };
    broker.close()?;
    let Medians { limited, plain } = medians;
    Ok(vec![
        Row::new(format!("all limits add to a start{place}, p50"), limited - plain, "ms"),
        Row::new(format!("StartJob with all limits{place}, p50"), limited, "ms")
            .beside("without limits", plain)
            .ratio_at_most(1.05),
    ])
}

/// The arguments of `cargo xtask bench-limits`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    rounds: usize,
    /// A directory on a disk that can be limited
    #[arg(long)]
    disk: PathBuf,
}

/// Runs in the VM; prints the medians as JSON.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let programs = Programs::given()?;
    interrupt::watch()?;
    let broker = Throwaway::open(Profile::Release, &programs)?;
    let medians = compare(&broker.site, &args.disk, args.rounds)?;
    broker.close()?;
    println!("{}", serde_json::to_string(&medians)?);
    Ok(ExitCode::SUCCESS)
}

fn in_the_vm(programs: &Programs, rounds: usize) -> Result<Medians> {
    let rounds = rounds.to_string();
    let mut command =
        vm::rerun_in_vm(programs, &["bench-limits", "--rounds", &rounds, "--disk", vm::DISK])?;
    let text = said(&mut command)?;
    serde_json::from_str(&text).with_context(|| format!("bench-limits: bad JSON: {text}"))
}

fn said(command: &mut Command) -> Result<String> {
    let mut running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut text = String::new();
    let mut out = running.child.stdout.take().context("no stdout")?;
    out.read_to_string(&mut text).context("cannot read what the VM says")?;
    let status = running.wait()?;
    ensure!(status.success(), "the measurement in the VM ended with {status}");
    Ok(text)
}

/// Measures both in turn; each round changes the order.
fn compare(site: &Site, disk: &Path, rounds: usize) -> Result<Medians> {
    let disk = disk.to_str().context("a path is not UTF-8")?;
    let (limited, plain) = (all_limits(disk), api::spec(&["/bin/true"]));
    let (mut with, mut without) = (vec![], vec![]);
    api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        for round in 0..WARM_UP + rounds {
            let first = round % 2 == 0;
            for is_limited in [first, !first] {
                let spec = if is_limited { &limited } else { &plain };
                let took = start(&mut client, spec).await?;
                if round >= WARM_UP {
                    if is_limited { &mut with } else { &mut without }.push(took);
                }
            }
            interrupt::check()?;
        }
        anyhow::Ok(())
    })?;
    Ok(Medians { limited: median(&with), plain: median(&without) })
}

/// Milliseconds of one start. Returns when the job's cgroup is gone.
async fn start(client: &mut Client, spec: &JobSpec) -> Result<f64> {
    let begin = Instant::now();
    let job = api::start_spec(client, spec.clone()).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let job = api::wait(client, &job.id, Until::End).await?;
    ensure!(job.exit_code == Some(0), "true has not exited 0: {job:?}");
    Ok(took)
}

/// One limit of each kind, each far above the use of `true`. Without `io.weight`, which most kernels lack.
fn all_limits(disk: &str) -> JobSpec {
    const MIB: u64 = 1 << 20;
    let rate = Some(100 * MIB);
    let io = IoMax {
        path: disk.to_owned(),
        rbps: rate,
        wbps: rate,
        riops: Some(10_000),
        wiops: Some(10_000),
        ..IoMax::default()
    };
    let rlimit = |name: &str, value| Rlimit { name: name.into(), soft: value, hard: value };
    let limits = Limits {
        job_dir_bytes: None,
        cpu_max_quota_usec: Some(100_000),
        cpu_max_period_usec: Some(100_000),
        cpu_weight: Some(50),
        memory_max_bytes: Some(64 * MIB),
        memory_high_bytes: Some(48 * MIB),
        memory_swap_max_bytes: Some(0),
        pids_max: Some(100),
        io_max: vec![io],
        io_weight: None,
        rlimits: vec![
            rlimit("core", 0),
            rlimit("cpu", 3600),
            rlimit("fsize", 1024 * MIB),
            rlimit("memlock", 65536),
            rlimit("nofile", 1024),
            rlimit("nproc", 1000),
            rlimit("stack", 8 * MIB),
        ],
    };
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    JobSpec {
        limits: Some(limits),
        time_limit: seconds(600),
        cpu_time_limit: seconds(60),
        output_limit_bytes: MIB,
        ..api::spec(&["/bin/true"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vm_hands_over_its_medians() {
        let text = said(Command::new("echo").arg(r#"{"limited": 2.5, "plain": 2.0}"#));
        let medians: Medians = serde_json::from_str(&text.expect("echo runs")).expect("JSON");
        assert_eq!((medians.limited, medians.plain), (2.5, 2.0));
    }

    #[test]
    fn a_vm_that_breaks_down_gives_no_figures() {
        assert!(said(Command::new("sh").args(["-c", "echo 1; exit 125"])).is_err());
    }
}
