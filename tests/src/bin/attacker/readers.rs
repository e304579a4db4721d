//! Clients that ask for much and read little or nothing of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use job_api::v1::{ListJobsRequest, StreamOutputRequest};
use job_tests::attack::{Args, Peer, raw};
use serde_json::{Value, json};
use tokio::time::{sleep_until, timeout};

/// For an answer's header, which the broker may keep back.
const HEADER: Duration = Duration::from_secs(2);

/// `connections` with windows of no byte, on each `streams` calls, half of them lists, half of them
/// the output of `job`; none of it is ever read. They stay for `seconds`.
pub(crate) async fn never_read(peer: &Peer, args: &Args) -> Value {
    let list = raw::envelope(&ListJobsRequest { page_size: 1000, ..Default::default() });
    let output = output_of(args.text("job"));
    let calls = [("ListJobs", list), ("StreamOutput", output)];
    hold(peer, args, 0, &calls, 0).await
}

/// `connections`, on each `streams` readers of the output of `job`, which all stop after 64 KiB. They
/// stay for `seconds`.
pub(crate) async fn stop_reading(peer: &Peer, args: &Args) -> Value {
    let calls = [("StreamOutput", output_of(args.text("job")))];
    hold(peer, args, 65_535, &calls, 65_535).await
}

fn output_of(job: &str) -> Bytes {
    raw::envelope(&StreamOutputRequest { id: job.into(), follow: true, ..Default::default() })
}

async fn hold(
    peer: &Peer,
    args: &Args,
    window: u32,
    calls: &[(&'static str, Bytes)],
    read: usize,
) -> Value {
    let until = Instant::now() + Duration::from_secs(args.number("seconds") as u64);
    let mut settings = Builder::new();
    settings.initial_window_size(window).initial_connection_window_size(16 << 20);
    let mut held = Vec::new();
    let (mut asked, mut bytes) = (0, 0);
    for _ in 0..args.number("connections") {
        let send = peer.http2(&settings).await.expect("a connection");
        for (method, envelope) in calls.iter().cycle().take(args.number("streams")) {
            asked += 1;
            let Some(mut body) = ask(&send, method, envelope.clone()).await else { continue };
            bytes += first(&mut body, read).await;
            held.push(body);
        }
    }
    sleep_until(until.into()).await;
    json!({ "asked": asked, "held": held.len(), "read": bytes })
}

/// A call whose answer has begun, if it has.
async fn ask(send: &SendRequest<Bytes>, method: &str, envelope: Bytes) -> Option<RecvStream> {
    let mut send = timeout(HEADER, send.clone().ready()).await.ok()?.ok()?;
    let (response, mut body) = send.send_request(raw::request(method), false).ok()?;
    body.send_data(envelope, true).ok()?;
    Some(timeout(HEADER, response).await.ok()?.ok()?.into_body())
}

/// Reads so much, and gives none of it back to the window.
async fn first(body: &mut RecvStream, bytes: usize) -> usize {
    let mut read = 0;
    while read < bytes {
        match timeout(HEADER, body.data()).await {
            Ok(Some(Ok(data))) => read += data.len(),
            _ => break,
        }
    }
    read
}
