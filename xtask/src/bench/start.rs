//! A start without limits, from request to exec, against fork+exec of the same program. It must not instrument the
//! broker.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use job_api::v1::WhoAmIRequest;
use job_api::v1::wait_job_request::Until;

use super::api;
use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use crate::interrupt;

const TRUE: &str = "/bin/true";

/// The time in the broker is the time of `StartJob`, which returns when exec has succeeded, less the time of a call
/// that does nothing (`WhoAmI`), both on one open connection. `Command::spawn` also returns when exec has succeeded.
pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let runtime = api::runtime()?;
    let (mut start, mut call, mut plain) = (vec![], vec![], vec![]);
    runtime.block_on(async {
        let mut client = api::client(&broker.site).await?;
        for _ in 0..bench.rounds(100, 500) {
            let begin = Instant::now();
            let job = api::start(&mut client, &[TRUE]).await?;
            start.push(begin.elapsed().as_secs_f64() * 1e3);
            api::wait(&mut client, &job.id, Until::End).await?;

            let begin = Instant::now();
            client.who_am_i(WhoAmIRequest {}).await?;
            call.push(begin.elapsed().as_secs_f64() * 1e3);

            plain.push(spawn()?);
            interrupt::check()?;
        }
        anyhow::Ok(())
    })?;
    broker.close()?;
    let (start, call, plain) = (median(&start), median(&call), median(&plain));
    Ok(vec![
        Row::new("start in the broker: StartJob less an empty call, p50", start - call, "ms")
            .beside("fork+exec", plain)
            .ratio_at_most(6.0),
        Row::new("StartJob on an open connection, p50", start, "ms")
            .beside("an empty call, WhoAmI", call),
    ])
}

fn spawn() -> Result<f64> {
    let mut command = Command::new(TRUE);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().context("cannot run true")?;
    let time = begin.elapsed();
    child.wait()?;
    Ok(time.as_secs_f64() * 1e3)
}
