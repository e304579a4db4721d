//! With traces on, a collector gets a span for each start and one for each of its phases.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use job_api::v1::StartJobRequest;
use job_tests::metrics::{self, ON_A_SOCKET, PHASES};
use job_tests::{Env, TIMEOUT, api, until};
use prost::Message;

/// What these tests read of OTLP's messages.
#[derive(Clone, PartialEq, Message)]
struct Traces {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

/// A collector on loopback; the spans of each request.
fn collector() -> (u16, Receiver<Vec<Span>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, spans) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut got, mut piece) = (Vec::new(), [0; 4096]);
            let body = loop {
                let read = stream.read(&mut piece).unwrap();
                got.extend_from_slice(&piece[..read]);
                let Some(at) = got.windows(4).position(|four| four == b"\r\n\r\n") else {
                    continue;
                };
                let head = String::from_utf8_lossy(&got[..at]).into_owned();
                assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("Content-Type: application/x-protobuf"), "{head}");
                let (_, length) = head.split_once("Content-Length: ").unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if got.len() == at + 4 + length {
                    break got.split_off(at + 4);
                }
            };
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            let traces = Traces::decode(body.as_slice()).unwrap();
            let scopes = traces.resources.into_iter().flat_map(|resource| resource.scopes);
            if sender.send(scopes.flat_map(|scope| scope.spans).collect()).is_err() {
                return;
            }
        }
    });
    (port, spans)
}

fn env(port: u16) -> Env {
    let sections = format!("{ON_A_SOCKET}[traces]\nendpoint = \"http://127.0.0.1:{port}\"\n");
    Env::builder().sections(&sections).start()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_start_is_a_span_below_the_callers_with_one_for_each_phase() {
    let (port, collected) = collector();
    let env = env(port);
    let mut command = env.command("user-a");
    command.env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"));
    let done = command.args(["start", "--", "sleep", "1000"]).output().unwrap();
    assert!(done.status.success());
    let id = String::from_utf8(done.stdout).unwrap();
    let spans = collected.recv_timeout(TIMEOUT).unwrap();
    let start = &spans[0];
    assert_eq!((start.name.as_str(), hex(&start.trace_id).as_str()), ("StartJob", TRACE));
    assert_eq!(hex(&start.parent_span_id), CALLER);
    assert_eq!(start.status.as_ref().unwrap().code, 1);
    let attribute = &start.attributes[0];
    let value = attribute.value.as_ref().unwrap().text.as_str();
    assert_eq!((attribute.key.as_str(), value), ("job.id", id.trim()));
    let names: Vec<_> = spans[1..].iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, PHASES);
    let mut end = start.start;
    for span in &spans[1..] {
        assert_eq!((&span.trace_id, &span.parent_span_id), (&start.trace_id, &start.span_id));
        assert_eq!(span.start, end, "{} begins with the end of the one before", span.name);
        end = span.end;
    }
    assert!(end <= start.end);
    let ids: HashSet<_> = spans.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_answer_names_the_span_and_an_unsampled_caller_gets_none() {
    let (port, collected) = collector();
    let env = env(port);
    let mut client = env.client("user-a").await;
    let mut start = async |traceparent: &str| {
        let spec = Some(api::spec(&["true"]));
        let mut request = tonic::Request::new(StartJobRequest { spec, ..Default::default() });
        request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        let answer = client.start_job(request).await.unwrap();
        answer.metadata().get("traceparent").map(|text| text.to_str().unwrap().to_owned())
    };
    assert_eq!(start(&format!("00-{TRACE}-{CALLER}-00")).await, None);
    let own = start("nonsense").await.unwrap();
    let answered = start(&format!("00-{TRACE}-{CALLER}-01")).await.unwrap();
    assert!(answered.starts_with(&format!("00-{TRACE}-")) && !answered.contains(CALLER));
    let mut spans = Vec::new();
    while spans.iter().filter(|span: &&Span| span.name == "StartJob").count() < 2 {
        spans.extend(collected.recv_timeout(TIMEOUT).unwrap());
    }
    let sent = |header: &str| {
        let of = |span: &Span| format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
        spans.iter().any(|span| of(span) == header)
    };
    assert!(sent(&own) && sent(&answered), "{own} {answered} {spans:?}");
}

#[test]
fn a_start_that_fails_is_a_span_that_failed() {
    let (port, collected) = collector();
    let env = env(port);
    env.jobctl("user-a", &["run", "--", "/no/such/program"]).expect(127);
    let spans = collected.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(spans[0].status.as_ref().unwrap().code, 2);
    assert!(spans.iter().all(|span| span.name != "started"));
}

#[test]
fn a_collector_that_is_not_there_costs_the_spans_and_no_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let env = env(port);
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
    let dropped = "job_broker_traces_total{outcome=\"dropped\"}";
    metrics::until_value(&env, dropped, |count| count >= 1.0);
    until("it says so", || env.log().contains("spans cannot be sent").then_some(()));
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
}
