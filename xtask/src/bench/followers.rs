//! A thousand followers of one job: the broker's memory, the job's rate, and the followers' output. It must compare
//! every byte: a rate with lost output is no result.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use job_api::client::Client;
use job_api::v1::StreamOutputRequest;
use job_api::v1::stream_output_response::Kind;
use job_api::v1::wait_job_request::Until;

use super::report::Row;
use super::setup::Bench;
use super::writer::content;
use super::{api, usage};
use crate::site::Site;

const CONNECTIONS: usize = 20;
const STREAMS: usize = 50;

/// 16 KiB every 62 ms: 264 kB/s, which a thousand followers multiply to 264 MB/s. A much higher rate would let client
/// and broker use all of a small machine, and lower the job's rate.
const BLOCK: usize = 16 << 10;
const MILLISECONDS: usize = 62;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let blocks = bench.rounds(48, 160);
    let broker = bench.broker()?;
    let site = &broker.site;
    let pid = site.broker_pid().context("the broker has ended")?;
    let expected = content(blocks * BLOCK);
    let alone = rate(bench, site, &expected, 0)?.0;
    let before = usage::rss(pid)?;
    usage::forget_peak(pid)?;
    let (followed, late) = rate(bench, site, &expected, CONNECTIONS)?;
    let peak = usage::peak_rss(pid)?;
    let rounds = blocks as f64 * MILLISECONDS as f64 / 1e3;
    broker.close()?;
    let count = CONNECTIONS * STREAMS;
    Ok(vec![
        Row::new(
            format!("{count} followers of one job: broker's memory grows by"),
            (peak - before) / 1e6,
            "MB",
        )
        .at_most(100.0),
        Row::new(
            format!("{count} followers: rate of a job that writes for {rounds:.0} s"),
            followed,
            "kB/s",
        )
        .beside("without followers", alone)
        .ratio_at_least(0.9),
        Row::new(format!("{count} followers: all have every byte, after the job's end"), late, "s"),
    ])
}

/// The job's own rate in kB/s, and the time from its end until the last follower has the whole output.
fn rate(bench: &Bench, site: &Site, expected: &[u8], connections: usize) -> Result<(f64, f64)> {
    let writer = bench.writer();
    let blocks = (expected.len() / BLOCK).to_string();
    let (block, pause) = (BLOCK.to_string(), MILLISECONDS.to_string());
    let argv = [writer.as_str(), "bench-writer", "paced", &blocks, &block, &pause];
    api::runtime()?.block_on(async {
        let mut client = api::client(site).await?;
        let followers = try_join_all((0..connections).map(|_| api::client(site))).await?;
        let job = api::start(&mut client, &argv).await?;
        let whole = AtomicUsize::new(0);
        let streams = followers.iter().flat_map(|client| {
            (0..STREAMS).map(|_| follow(client.clone(), &job.id, expected, &whole))
        });
        let ended = async {
            let job = api::wait(&mut client, &job.id, Until::Exit).await?;
            anyhow::Ok((job, Instant::now()))
        };
        let ((ended, at), _) = tokio::try_join!(ended, try_join_all(streams))?;
        let late = at.elapsed().as_secs_f64();
        let whole = whole.load(Ordering::Relaxed);
        ensure!(whole == connections * STREAMS, "{whole} followers have everything");
        ensure!(ended.exit_code == Some(0), "the writer failed: {ended:?}");
        let time = |time: Option<prost_types::Timestamp>| {
            time.map(|t| t.seconds as f64 + f64::from(t.nanos) / 1e9).context("no time")
        };
        let ran = time(ended.ended_at)? - time(ended.started_at)?;
        Ok((expected.len() as f64 / 1e3 / ran, late))
    })
}

/// Compares every byte with the job's output.
async fn follow(mut client: Client, id: &str, expected: &[u8], whole: &AtomicUsize) -> Result<()> {
    let request = StreamOutputRequest { id: id.to_owned(), follow: true, ..Default::default() };
    let mut stream = client.stream_output(request).await?.into_inner();
    let mut at = 0;
    while let Some(message) = stream.message().await? {
        match message.kind {
            Some(Kind::Chunk(chunk)) => {
                let end = at + chunk.data.len();
                let same =
                    chunk.offset == at as u64 && expected.get(at..end) == Some(&chunk.data[..]);
                ensure!(same, "a follower got other bytes than the job wrote, at {at}");
                at = end;
            }
            Some(Kind::Trailer(_)) => {
                ensure!(at == expected.len(), "a follower got {at} of {} bytes", expected.len());
                whole.fetch_add(1, Ordering::Relaxed);
            }
            Some(Kind::Started(_)) | None => {}
        }
    }
    Ok(())
}
