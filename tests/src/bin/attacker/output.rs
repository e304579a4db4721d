//! Readers of output: very many, such as do not read, and such as make the broker search.

use std::time::Duration;

use h2::client::Builder;
use job_api::client::Client;
use job_api::v1::stream_output_response::Kind;
use job_api::v1::{Compression, OutputStream, StreamOutputRequest, StreamOutputResponse};
use job_tests::attack::{Args, Peer, raw};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

/// Streams of one connection: no more are allowed.
const EACH: usize = 90;

fn ids(args: &Args) -> Vec<String> {
    args.text("ids").split(',').map(str::to_owned).collect()
}

/// One of `count` clients of [`EACH`] streams for each stream.
async fn clients(peer: &Peer, streams: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..streams.div_ceil(EACH) {
        clients.push(peer.client().await.expect("a connection"));
    }
    clients
}

async fn first_chunk(stream: &mut Streaming<StreamOutputResponse>) -> Result<usize, Status> {
    match stream.message().await?.and_then(|message| message.kind) {
        Some(Kind::Chunk(chunk)) => Ok(chunk.data.len()),
        _ => Err(Status::unknown("no chunk")),
    }
}

/// Follows the jobs `ids` in turn with `streams` streams, takes the first piece of each, and holds them
/// for `hold_ms`.
pub(crate) async fn readers(peer: &Peer, args: &Args) -> Value {
    let (ids, streams) = (ids(args), args.number("streams"));
    let clients = clients(peer, streams).await;
    let (mut held, mut codes) = (Vec::new(), Vec::new());
    for n in 0..streams {
        let mut client = clients[n / EACH].clone();
        let id = ids[n % ids.len()].clone();
        let request = StreamOutputRequest { id, follow: true, ..Default::default() };
        let opened = async {
            let mut stream = client.stream_output(request).await?.into_inner();
            first_chunk(&mut stream).await?;
            Ok::<_, Status>(stream)
        };
        match opened.await {
            Ok(stream) => held.push(stream),
            Err(status) => codes.push(status.code() as i32),
        }
    }
    sleep(Duration::from_millis(args.number("hold_ms") as u64)).await; // the attack itself
    let refused = codes.len();
    codes.sort_unstable();
    codes.dedup();
    json!({ "held": held.len(), "refused": refused, "codes": codes })
}

/// Reads the jobs `ids` with `streams` streams, with windows that take everything, and then nothing from
/// the socket for `hold_ms`.
pub(crate) async fn stalled(peer: &Peer, args: &Args) -> Value {
    let (ids, streams) = (ids(args), args.number("streams"));
    let window = (1 << 31) - 1;
    let mut settings = Builder::new();
    settings.initial_window_size(window).initial_connection_window_size(window);
    let (mut held, mut sent) = (Vec::new(), 0);
    while sent < streams {
        let tls = peer.tls().await.expect("a connection");
        let (send, mut connection) = settings.handshake(tls).await.expect("HTTP/2");
        // Until the broker has told how many streams it takes.
        let _ = timeout(Duration::from_millis(50), &mut connection).await;
        for _ in 0..EACH.min(streams - sent) {
            let id = ids[sent % ids.len()].clone();
            let request = StreamOutputRequest { id, follow: true, ..Default::default() };
            let mut send = send.clone().ready().await.expect("a stream");
            let (response, mut body) =
                send.send_request(raw::request("StreamOutput"), false).expect("a stream");
            body.send_data(raw::envelope(&request), true).expect("a request");
            held.push((response, body, send));
            sent += 1;
        }
        let _ = timeout(Duration::from_millis(10), &mut connection).await; // requests leave
        std::mem::forget(connection); // nobody reads from it, and it stays open
    }
    sleep(Duration::from_millis(args.number("hold_ms") as u64)).await; // the attack itself
    json!({ "streams": sent })
}

/// `calls` requests, `at_once` of them at a time, for what is hard to find in the output of the first of
/// `ids`; each is read to its end.
pub(crate) async fn searches(peer: &Peer, args: &Args) -> Value {
    let id = args.text("ids");
    let (calls, at_once) = (args.number("calls"), args.number("at_once"));
    let clients = clients(peer, at_once).await;
    let search = |lane: usize| {
        let (mut client, id) = (clients[lane / EACH].clone(), id.to_owned());
        tokio::spawn(async move {
            let mut chunks = 0;
            for n in 0..calls / at_once {
                let stream = OutputStream::Err.into();
                let all = StreamOutputRequest { id: id.clone(), stream, ..Default::default() };
                let request = match n % 4 {
                    0 => all,
                    1 => StreamOutputRequest { tail_lines: Some(1), ..all },
                    2 => StreamOutputRequest { stdout_offset: 1 << 20, ..all },
                    _ => StreamOutputRequest { since: Some(Default::default()), ..all },
                };
                let mut stream = client.stream_output(request).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    chunks += usize::from(matches!(message.kind, Some(Kind::Chunk(_))));
                }
            }
            Ok::<_, Status>(chunks)
        })
    };
    let lanes: Vec<_> = (0..at_once).map(search).collect();
    let mut chunks = 0;
    for lane in lanes {
        chunks += lane.await.expect("a task does not panic").expect("a search is answered");
    }
    json!({ "calls": calls, "chunks": chunks })
}

/// Does this with each of `streams` streams at once, a client for [`EACH`] of them, and adds up what they count.
async fn with_each<F>(peer: &Peer, streams: usize, act: impl Fn(Client) -> F) -> (usize, usize)
where
    F: Future<Output = (usize, usize)> + Send + 'static,
{
    let clients = clients(peer, streams).await;
    let lanes: Vec<_> =
        (0..streams).map(|n| tokio::spawn(act(clients[n / EACH].clone()))).collect();
    let mut sums = (0, 0);
    for lane in lanes {
        let counts = lane.await.expect("a task does not panic");
        sums = (sums.0 + counts.0, sums.1 + counts.1);
    }
    sums
}

/// Reads the first of `ids` compressed with `streams` streams for `hold_ms`, whatever comes.
pub(crate) async fn compressed(peer: &Peer, args: &Args) -> Value {
    let (id, streams) = (args.text("ids").to_owned(), args.number("streams"));
    let limit = Duration::from_millis(args.number("hold_ms") as u64);
    let read = |mut client: Client| {
        let mut request = StreamOutputRequest { id: id.clone(), ..Default::default() };
        request.set_compression(Compression::Deflate);
        async move {
            let mut chunks = 0;
            let all = async {
                let mut stream = client.stream_output(request).await?.into_inner();
                while first_chunk(&mut stream).await.is_ok() {
                    chunks += 1;
                }
                Ok::<_, Status>(())
            };
            let failed = matches!(timeout(limit, all).await, Ok(Err(_)));
            (chunks, usize::from(failed))
        }
    };
    let (chunks, failed) = with_each(peer, streams, read).await;
    json!({ "streams": streams, "chunks": chunks, "failed": failed })
}

/// Asks `streams` times for the last line of the first of `ids`, and hangs up after `hold_ms`.
pub(crate) async fn tails(peer: &Peer, args: &Args) -> Value {
    let (id, streams) = (args.text("ids").to_owned(), args.number("streams"));
    let limit = Duration::from_millis(args.number("hold_ms") as u64);
    let tail = |mut client: Client| {
        let request =
            StreamOutputRequest { id: id.clone(), tail_lines: Some(1), ..Default::default() };
        async move {
            match timeout(limit, client.stream_output(request)).await {
                Ok(Err(status)) if status.code() != Code::Cancelled => (0, 1),
                Ok(_) => (1, 0),
                Err(_) => (0, 0),
            }
        }
    };
    let (answered, failed) = with_each(peer, streams, tail).await;
    json!({ "streams": streams, "answered": answered, "failed": failed })
}
