//! Sends the spans of starts to a collector on this host: OTLP over HTTP, in batches, on a thread of its own. It must
//! never delay a start: what the queue cannot hold is dropped and counted.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use std::io::{Read, Write};
use std::net::TcpStream;

use prost::Message;

use crate::metrics::METRICS;
use crate::metrics::labels::Export;
use crate::trace::otlp::{KeyValue, Request, Resource, ResourceSpans, Scope, ScopeSpans, Span};
use job_launch::host;

/// Traces that wait; one has a dozen spans of some 150 bytes.
const QUEUE: usize = 1024;
/// Traces of one request.
const BATCH: usize = 128;
/// How long a batch waits for more.
const LINGER: Duration = Duration::from_millis(500);
/// For each step of a request: connect, write, read.
const STEP_TIME: Duration = Duration::from_secs(5);
/// Pause after a failed request, in which the queue fills and then drops.
const RETRY: Duration = Duration::from_secs(5);

/// Set once, when traces are configured.
static QUEUED: OnceLock<SyncSender<Vec<Span>>> = OnceLock::new();

/// Where the collector listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A loopback address.
    pub(crate) addr: SocketAddr,
    /// `/v1/traces`, or what is configured.
    pub(crate) path: String,
}

impl Endpoint {
    /// Parses `http://127.0.0.1:4318`, with or without a path.
    ///
    /// # Errors
    /// "must ...", for an operator.
    pub(crate) fn parse(url: &str) -> Result<Endpoint, String> {
        let form =
            || format!("is {url:?}; it must be http://127.0.0.1:PORT, with or without a path");
        let rest = url.strip_prefix("http://").ok_or_else(form)?;
        let (addr, path) = match rest.split_once('/') {
            Some((addr, path)) if !path.is_empty() => (addr, format!("/{path}")),
            Some((addr, _)) => (addr, "/v1/traces".into()),
            None => (rest, "/v1/traces".into()),
        };
        let addr: SocketAddr =
            addr.replace("localhost:", "127.0.0.1:").parse().map_err(|_| form())?;
        if !path.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(form());
        }
        if !addr.ip().is_loopback() {
            return Err(format!(
                "is {url:?}; it must be on a loopback address, because spans are sent in the clear: \
                 let a collector on this host pass them on"
            ));
        }
        Ok(Endpoint { addr, path })
    }
}

/// Starts the exporter, once.
///
/// # Errors
/// As pthread_create(3).
pub(crate) fn start(endpoint: Endpoint) -> io::Result<()> {
    let (sender, receiver) = sync_channel(QUEUE);
    thread::Builder::new().name("traces".into()).spawn(move || export(&endpoint, &receiver))?;
    let _ = QUEUED.set(sender); // nobody else sets it
    Ok(())
}

/// Whether somebody wants spans.
pub(super) fn is_on() -> bool {
    QUEUED.get().is_some()
}

/// Queues the spans of one start, or drops them.
pub(super) fn send(spans: Vec<Span>) {
    if let Some(queue) = QUEUED.get()
        && queue.try_send(spans).is_err()
    {
        METRICS.exports.add(Export::Dropped, 1);
    }
}

fn export(endpoint: &Endpoint, queue: &Receiver<Vec<Span>>) {
    let mut is_failing = false;
    while let Ok(first) = queue.recv() {
        let (mut batch, mut count, until) = (first, 1, Instant::now() + LINGER);
        while count < BATCH {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(spans) => batch.extend(spans),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
            count += 1;
        }
        match post(endpoint, &request(batch).encode_to_vec()) {
            Ok(()) => {
                METRICS.exports.add(Export::Sent, count as u64);
                is_failing = false;
            }
            Err(e) => {
                METRICS.exports.add(Export::Dropped, count as u64);
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(
                        "spans cannot be sent to {}, they are dropped: {e}",
                        endpoint.addr
                    );
                }
                thread::sleep(RETRY); // the queue drops meanwhile
            }
        }
    }
}

fn request(spans: Vec<Span>) -> Request {
    let (host, _) = host::uname();
    let attributes = vec![
        KeyValue::text("service.name", "job-broker"),
        KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::text("host.name", host),
    ];
    let scope_spans = vec![ScopeSpans { scope: Some(Scope { name: "job-broker".into() }), spans }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }];
    Request { resource_spans }
}

/// One request over a connection of its own. Of the answer the status is read, and no more than its first bytes.
fn post(Endpoint { addr, path }: &Endpoint, body: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(addr, STEP_TIME)?;
    stream.set_write_timeout(Some(STEP_TIME))?;
    stream.set_read_timeout(Some(STEP_TIME))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/x-protobuf\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    const STATUS: usize = "HTTP/1.1 200".len();
    let mut status = [0; STATUS];
    stream.read_exact(&mut status)?;
    if status.starts_with(b"HTTP/1.") && status[STATUS - 3] == b'2' {
        return Ok(());
    }
    let status = String::from_utf8_lossy(&status).into_owned();
    Err(io::Error::other(format!("the collector answers {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_plain_http_on_loopback() {
        let of =
            |url| Endpoint::parse(url).map(|endpoint| (endpoint.addr.to_string(), endpoint.path));
        let usual = ("127.0.0.1:4318".to_owned(), "/v1/traces".to_owned());
        for url in ["http://127.0.0.1:4318", "http://127.0.0.1:4318/", "http://localhost:4318"] {
            assert_eq!(of(url), Ok(usual.clone()));
        }
        assert_eq!(of("http://[::1]:1/x/y"), Ok(("[::1]:1".into(), "/x/y".into())));
        for url in ["", "127.0.0.1:4318", "https://127.0.0.1:1", "http://127.0.0.1", "http://h:1"] {
            assert!(of(url).unwrap_err().contains("it must be http://"), "{url}");
        }
        assert!(of("http://127.0.0.1:1/a b\r\n").is_err());
        assert!(of("http://192.0.2.1:4318").unwrap_err().contains("loopback"));
    }
}
