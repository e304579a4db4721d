//! Connections that are no clients: they do not shake hands, are nobody, or flood with frames that
//! cost who sends them nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use job_api::v1::WhoAmIRequest;
use job_tests::attack::frames::{
    CONTINUATION, END_HEADERS, Frames, HEADERS, PING, RST_STREAM, SETTINGS, field, frame, header,
};
use job_tests::attack::{Args, Peer};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};

/// The beginning of a record of TLS with a ClientHello of 512 bytes.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
/// A connection that is still open after it counts as one that the broker has kept.
const KEPT: Duration = Duration::from_secs(2);

/// `count` connections with the certificate `cert` and its `key`, and a call over each.
pub(crate) async fn certificates(peer: &Peer, args: &Args) -> Value {
    let peer = peer.with_certificate(Path::new(args.text("cert")), Path::new(args.text("key")));
    let (mut refused, mut answered) = (0, 0);
    for _ in 0..args.number("count") {
        let call = async {
            let mut client = peer.client().await.ok()?;
            client.who_am_i(WhoAmIRequest {}).await.ok()
        };
        match call.await {
            Some(_) => answered += 1,
            None => refused += 1,
        }
    }
    json!({ "refused": refused, "answered": answered })
}

/// `count` connections that send nothing, or half a ClientHello, and stay for `seconds`; those that
/// the broker ends are made again, as many as there were at most.
pub(crate) async fn half_handshakes(peer: &Peer, args: &Args) -> Value {
    let count = args.number("count");
    let until = Instant::now() + Duration::from_secs(args.number("seconds") as u64);
    let (mut held, mut refused) = (Vec::new(), 0);
    while held.len() + refused < count {
        match half(peer, held.len() % 2 == 0).await {
            Some(tcp) => held.push(tcp),
            None => refused += 1,
        }
    }
    sleep_until(until.into()).await;
    let mut ended = 0;
    for tcp in &mut held {
        let read = timeout(Duration::from_millis(1), tcp.read_u8()).await;
        ended += usize::from(read.is_ok());
    }
    json!({ "count": count, "refused": refused, "ended": ended })
}

async fn half(peer: &Peer, says_something: bool) -> Option<TcpStream> {
    let mut tcp = peer.tcp().await.ok()?;
    if says_something {
        tcp.write_all(HALF_HELLO).await.ok()?;
    }
    Some(tcp)
}

/// On each of `lanes`, for `seconds`, one connection after the other that shakes hands with the certificate of
/// a user, and is gone.
pub(crate) async fn handshakes(peer: &Peer, args: &Args) -> Value {
    let until = Instant::now() + Duration::from_secs(args.number("seconds") as u64);
    let mut lanes = JoinSet::new();
    for _ in 0..args.number("lanes") {
        let peer = peer.clone();
        lanes.spawn(async move {
            let (mut shaken, mut refused) = (0, 0);
            while let Ok(done) = timeout_at(until.into(), peer.tls()).await {
                match done {
                    // With a reset: ports that wait for a minute would hold up the attacker.
                    Ok(tls) => shaken += usize::from(tls.get_ref().0.set_zero_linger().is_ok()),
                    Err(_) => refused += 1,
                }
            }
            (shaken, refused)
        });
    }
    let seen = lanes.join_all().await;
    let [shaken, refused]: [usize; 2] =
        [seen.iter().map(|seen| seen.0).sum(), seen.iter().map(|seen| seen.1).sum()];
    json!({ "shaken": shaken, "refused": refused, "cpu_ms": own_cpu().as_millis() as u64 })
}

/// What this process has taken of the processors: what an attacker on another host would not take from
/// the broker.
fn own_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask");
    let times = [usage.user_time(), usage.system_time()];
    times.iter().map(|time| Duration::from_micros(time.num_microseconds() as u64)).sum()
}

/// `count` streams, on one connection after the other, each reset as soon as it is open.
pub(crate) async fn rapid_reset(peer: &Peer, args: &Args) -> Value {
    let batch = |first: u32| {
        let streams = (0..100).map(|n| first + 2 * n);
        let open_and_reset = |stream| {
            let open = frame(HEADERS, END_HEADERS, stream, &header("WhoAmI"));
            [open, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
        };
        streams.flat_map(open_and_reset).collect::<Vec<u8>>()
    };
    flood(peer, args, 100, |n| batch(1 + 200 * n)).await
}

/// `count` SETTINGS that each want an answer.
pub(crate) async fn settings(peer: &Peer, args: &Args) -> Value {
    // SETTINGS_INITIAL_WINDOW_SIZE, which concerns every stream.
    let one = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    flood(peer, args, 1000, |_| one.repeat(1000)).await
}

/// `count` PINGs that each want an answer.
pub(crate) async fn pings(peer: &Peer, args: &Args) -> Value {
    let one = frame(PING, 0, 0, &[7; 8]);
    flood(peer, args, 1000, |_| one.repeat(1000)).await
}

/// A header without an end: `count` CONTINUATIONs of 16 KB each.
pub(crate) async fn continuations(peer: &Peer, args: &Args) -> Value {
    let more = field("x-more", &"x".repeat(16_000));
    let next = frame(CONTINUATION, 0, 1, &more);
    flood(peer, args, 1, |n| match n {
        0 => frame(HEADERS, 0, 1, &header("WhoAmI")),
        _ => next.clone(),
    })
    .await
}

/// `count` calls with a header of 16 KB, more than the broker's limit.
pub(crate) async fn large_headers(peer: &Peer, args: &Args) -> Value {
    let block = [header("WhoAmI"), field("x-large", &"x".repeat(16_100))].concat();
    let (first, rest) = block.split_at(16_000);
    flood(peer, args, 1, |n| {
        let stream = 1 + 2 * n;
        [frame(HEADERS, 0, stream, first), frame(CONTINUATION, END_HEADERS, stream, rest)].concat()
    })
    .await
}

/// Sends `count` of what a batch has `each` of; on a new connection when the broker ends one, for
/// `seconds` at most.
async fn flood(peer: &Peer, args: &Args, each: usize, batch: impl Fn(u32) -> Vec<u8>) -> Value {
    let count = args.number("count");
    let until = Instant::now() + Duration::from_secs(args.number("seconds") as u64);
    let (mut sent, mut connections, mut ended) = (0, 0, 0);
    while sent < count && Instant::now() < until {
        connections += 1;
        let mut frames = Frames::open(peer).await.expect("a connection");
        let mut turn = 0;
        let broken = loop {
            if sent >= count || Instant::now() >= until {
                break false;
            }
            if frames.send(&batch(turn)).await.is_err() {
                break true;
            }
            sent += each;
            turn += 1;
        };
        ended += usize::from(broken || frames.is_ended(KEPT).await);
    }
    json!({ "sent": sent, "connections": connections, "ended_by_the_broker": ended })
}
