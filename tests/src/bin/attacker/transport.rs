//! What can be done to a broker below its contract: with connections, streams and their bodies.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use job_api::v1::{GetJobRequest, WhoAmIRequest};
use job_tests::attack::{Args, Peer, raw};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The length of a message that is announced and does not come.
const ANNOUNCED: u32 = 2 << 20;
/// Most that is waited for an answer that has to come.
const AT_MOST: Duration = Duration::from_secs(40);

/// On each of `connections`, begins `streams` calls at once, of those that take one message and those
/// that take many, with `bytes` of a message of 2 MiB, and waits until each has been answered.
pub(crate) async fn half_messages(peer: &Peer, args: &Args) -> Value {
    let bytes = args.number("bytes");
    let mut half = BytesMut::zeroed(0);
    half.put_u8(0);
    half.put_u32(ANNOUNCED);
    half.put_bytes(0, bytes);
    let half = half.freeze();
    let began = Instant::now();
    let (mut calls, mut connections) = (JoinSet::new(), Vec::new());
    for _ in 0..args.number("connections") {
        let send = peer.http2(&Builder::new()).await.expect("a connection");
        for n in 0..args.number("streams") {
            let method = ["GetJob", "WriteInput"][n % 2];
            let call = begin(send.clone(), method, half.clone());
            calls.spawn(async move { timeout(AT_MOST, call).await });
        }
        connections.push(send);
    }
    let (mut codes, mut broken, mut unanswered) = (Vec::new(), 0, 0);
    while let Some(call) = calls.join_next().await {
        match call.expect("a call does not panic") {
            Ok(Ok(answer)) => codes.push(answer.code),
            Ok(Err(_)) => broken += 1,
            Err(_) => unanswered += 1,
        }
    }
    let answered = codes.len();
    codes.sort_unstable();
    codes.dedup();
    json!({ "answered": answered, "broken": broken, "unanswered": unanswered, "codes": codes,
            "seconds": began.elapsed().as_secs() })
}

async fn begin(
    send: SendRequest<Bytes>,
    method: &'static str,
    half: Bytes,
) -> Result<raw::Answer, h2::Error> {
    let mut send = send.ready().await?;
    let (response, mut body) = send.send_request(raw::request(method), false)?;
    body.send_data(half, false)?;
    let answer = raw::answer(response).await;
    drop(body); // not before the answer: that would be a reset
    answer
}

/// On each of `connections`, makes `streams` calls whose answers are large, and reads nothing of them,
/// until `seconds` have passed; and how many of the connections have ended by then.
pub(crate) async fn unread_answers(peer: &Peer, args: &Args) -> Value {
    let look = raw::envelope(&GetJobRequest { id: args.text("job").into() });
    let mut settings = Builder::new();
    settings.initial_window_size(0);
    let (mut answered, mut codes) = (0, Vec::new());
    let (mut kept, mut open) = (Vec::new(), Vec::new());
    for _ in 0..args.number("connections") {
        let send = peer.http2(&settings).await.expect("a connection");
        for _ in 0..args.number("streams") {
            let mut send = send.clone().ready().await.expect("a connection");
            let (response, mut body) =
                send.send_request(raw::request("GetJob"), false).expect("a stream");
            body.send_data(look.clone(), true).expect("a stream");
            let response = timeout(AT_MOST, response).await.expect("an answer").expect("a head");
            answered += 1;
            let code = response.headers().get("grpc-status");
            codes.extend(code.and_then(|code| code.to_str().ok()?.parse::<i32>().ok()));
            kept.push(response);
        }
        open.push(send);
    }
    tokio::time::sleep(Duration::from_secs(args.number("seconds") as u64)).await; // the attack itself
    let refused = codes.len();
    codes.sort_unstable();
    codes.dedup();
    let mut ended = 0;
    for send in open {
        ended += usize::from(send.ready().await.is_err());
    }
    json!({ "answered": answered, "refused": refused, "codes": codes, "ended": ended })
}

/// Two messages where one is wanted, one that is too large, and one that nobody asked to compress.
pub(crate) async fn odd_messages(peer: &Peer, _: &Args) -> Value {
    let send = peer.http2(&Builder::new()).await.expect("a connection");
    let one = raw::envelope(&WhoAmIRequest {});
    let (two, large, compressed) =
        ([&one[..], &one].concat(), &[0, 0, 0x20, 0, 1][..], &[1, 0, 0, 0, 0][..]);
    let mut codes = Vec::new();
    for envelope in [one.to_vec(), two, large.to_vec(), compressed.to_vec()] {
        let answer = raw::call(&send, "WhoAmI", envelope.into()).await.expect("an answer");
        codes.push(answer.code);
    }
    json!({ "codes": codes })
}

/// Keeps `connections` connections open that say nothing after TCP's handshake, for `seconds`: those that
/// are closed are opened again.
pub(crate) async fn silent_connections(peer: &Peer, args: &Args) -> Value {
    let until = Instant::now() + Duration::from_secs(args.number("seconds") as u64);
    let mut lanes = JoinSet::new();
    for _ in 0..args.number("connections") {
        let peer = peer.clone();
        lanes.spawn(async move {
            let mut opened = 0;
            while Instant::now() < until {
                if let Ok(mut tcp) = peer.tcp().await {
                    opened += 1;
                    let left = until.saturating_duration_since(Instant::now());
                    let _ = timeout(left, tcp.read(&mut [0])).await; // until it is closed
                }
                tokio::time::sleep(Duration::from_millis(50)).await; // the attack's own pace
            }
            opened
        });
    }
    let opened: usize = lanes.join_all().await.into_iter().sum();
    json!({ "opened": opened })
}

/// Opens `connections` connections, asks on each who it is, and keeps them all until the last was asked.
pub(crate) async fn connections(peer: &Peer, args: &Args) -> Value {
    let (mut held, mut codes, mut messages) = (Vec::new(), Vec::new(), BTreeSet::new());
    for _ in 0..args.number("connections") {
        let mut client = peer.client().await.expect("a connection");
        match client.who_am_i(WhoAmIRequest {}).await {
            Ok(_) => codes.push(0),
            Err(status) => {
                messages.insert(status.message().to_owned());
                codes.push(status.code() as i32);
            }
        }
        held.push(client);
    }
    let served = codes.iter().filter(|code| **code == 0).count();
    codes.sort_unstable();
    codes.dedup();
    json!({ "served": served, "codes": codes, "messages": messages })
}
