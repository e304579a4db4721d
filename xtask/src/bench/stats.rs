//! The usage of a thousand idle jobs in one response: `ListJobs` with usage, which the broker must read from the
//! kernel for each call.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use job_api::client::Client;
use job_api::v1::{GetServerInfoRequest, ListJobsRequest};

use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use super::{api, idle, usage};
use crate::{interrupt, process};

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.rounds(200, 1000);
    let rounds = bench.rounds(10, 30);
    let broker = bench.broker()?;
    let site = &broker.site;
    idle::start(site, count)?;
    let pid = site.broker_pid().context("the broker has ended")?;
    pin(pid)?;
    let (mut with, mut without) = (Answers::default(), Answers::default());
    let controllers = api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        list(&mut client, true, count).await?;
        for _ in 0..rounds {
            for (with_usage, answers) in [(true, &mut with), (false, &mut without)] {
                let before = usage::cpu(pid, false)?;
                answers.took.push(list(&mut client, with_usage, count).await?);
                answers.cpu += usage::cpu(pid, false)? - before;
            }
            interrupt::check()?;
        }
        let info = client.get_server_info(GetServerInfoRequest {}).await?.into_inner();
        anyhow::Ok(info.controllers)
    })?;
    // Faster than a stop by the broker, which sends SIGTERM first.
    idle::end_all(site)?;
    broker.close()?;
    let controllers = match controllers.as_slice() {
        [] => "without controllers".to_owned(),
        some => format!("with {}", some.join(", ")),
    };
    Ok(vec![
        Row::new(
            format!("ListJobs with the use of {count} idle jobs, on one core, {controllers}"),
            median(&with.took),
            "ms",
        )
        .beside("without their use", median(&without.took))
        .at_most(100.0 * count as f64 / 1000.0),
        Row::new("the same, CPU of the broker for each answer", with.cpu(), "ms")
            .beside("without their use", without.cpu()),
    ])
}

/// The responses to one kind of request.
#[derive(Default)]
struct Answers {
    /// Milliseconds until each response.
    took: Vec<f64>,
    /// The broker's CPU time for all of them.
    cpu: Duration,
}

impl Answers {
    /// CPU milliseconds of each; a mean, because a tick is 10 ms.
    fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / self.took.len() as f64
    }
}

/// Milliseconds until the response.
async fn list(client: &mut Client, with_usage: bool, count: usize) -> Result<f64> {
    let request = ListJobsRequest { page_size: 1000, with_usage, ..Default::default() };
    let begin = Instant::now();
    let answer = client.list_jobs(request).await?.into_inner();
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let whole = answer.jobs.iter().filter(|job| job.usage.is_some() == with_usage).count();
    ensure!(whole == count, "{whole} of {count} jobs in the answer");
    Ok(took)
}

/// Pins all threads of a process to the first available processor; the client uses the others.
fn pin(pid: u32) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = allowed.context("/proc/PID/status: no Cpus_allowed_list")?;
    let first = allowed.trim().split(['-', ',']).next().unwrap_or_default();
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", first, &pid.to_string()]);
    process::check(taskset.stdout(Stdio::null()))
}
