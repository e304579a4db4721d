//! A hundred writers of input that no job reads, beside a thousand idle connections: the broker's memory. The jobs must
//! never read, so that all that clients may send stays where it is.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt as _};
use job_api::client::{Client, connect};
use job_api::v1::{JobSpec, StartJobRequest, WriteInputRequest};

use super::report::Row;
use super::setup::Bench;
use super::{api, idle, usage};
use crate::interrupt;
use crate::site::{IDENTITIES, Site};

const IDLE: usize = 1000;
const WRITERS: usize = 100;
/// A message, and how many a writer has: more than the largest window.
const PIECE: usize = 128 << 10;
const PIECES: usize = 96;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let broker = bench.broker()?;
    let site = &broker.site;
    let pid = site.broker_pid().context("the broker has ended")?;
    let runtime = api::runtime()?;
    let before = usage::rss(pid)?;
    let mut connections = Vec::new();
    for n in 0..IDLE {
        connections.push(runtime.block_on(one(site, IDENTITIES[n % IDENTITIES.len()]))?);
        interrupt::check()?;
    }
    let idle = usage::rss(pid)?;
    let mut streams = Vec::new();
    for _ in 0..WRITERS {
        streams.push(runtime.block_on(write(site))?);
    }
    // The runtime sends while it waits. Nothing tells that all windows are full but that nothing comes any more.
    let mut full = usage::rss(pid)?;
    loop {
        let pause = async { tokio::time::sleep(Duration::from_secs(1)).await };
        runtime.block_on(pause);
        let now = usage::rss(pid)?;
        if now <= full + 1e5 {
            break;
        }
        full = now;
    }
    drop((streams, connections, runtime));
    thread::sleep(Duration::from_millis(100)); // the broker's side of so many ends
    idle::end_all(site)?;
    broker.close()?;
    Ok(vec![
        Row::new(
            format!("{IDLE} idle connections: broker's memory grows by"),
            (idle - before) / 1e6,
            "MB",
        )
        .at_most(64.0),
        Row::new(
            format!("{WRITERS} writers of one identity to jobs that do not read, beside them: by"),
            (full - idle) / 1e6,
            "MB",
        )
        .at_most(128.0),
    ])
}

async fn one(site: &Site, identity: &str) -> Result<Client> {
    Ok(connect(&site.addr().to_string(), &site.credentials(identity)?).await?)
}

/// A job that does not read its input, and a stream with more of it than may be sent.
async fn write(site: &Site) -> Result<impl Sized> {
    let mut client = one(site, IDENTITIES[1]).await?;
    let spec = JobSpec { stdin: true, ..api::spec(&["sleep", "1000"]) };
    let request = StartJobRequest { spec: Some(spec), ..Default::default() };
    let id = client.start_job(request).await?.into_inner().job.context("no job")?.id;
    let pieces = (0..PIECES).map(move |n| WriteInputRequest {
        id: id.clone(),
        offset: (n * PIECE) as u64,
        data: vec![0; PIECE].into(),
        end: false,
    });
    let pieces = stream::iter(pieces).chain(stream::pending());
    let answers = client.write_input(pieces).await?.into_inner();
    Ok((client, answers))
}
