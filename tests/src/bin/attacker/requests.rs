//! Requests that are small for who sends them and were large for who answers.

use bytes::Bytes;
use h2::client::Builder;
use job_api::v1::job::State;
use job_api::v1::{
    GetJobRequest, JobSpec, ListJobsRequest, StartJobRequest, StreamOutputRequest, WhoAmIRequest,
};
use job_tests::api;
use job_tests::attack::{Args, Peer, raw};
use serde_json::{Value, json};

/// `calls` of each call that can be refused for a text, with a text of `bytes` bytes that each takes
/// several in a trailer.
pub(crate) async fn refusals(peer: &Peer, args: &Args) -> Value {
    let text = "\u{1b}".repeat(args.number("bytes"));
    let spec = |spec: JobSpec| {
        let spec = JobSpec { argv: vec!["true".into()], ..spec };
        raw::envelope(&StartJobRequest { spec: Some(spec), ..Default::default() })
    };
    let output = StreamOutputRequest { id: text.clone(), ..Default::default() };
    let list = ListJobsRequest { page_token: text.clone(), ..Default::default() };
    let requests = [
        ("GetJob", raw::envelope(&GetJobRequest { id: text.clone() })),
        ("StreamOutput", raw::envelope(&output)),
        ("ListJobs", raw::envelope(&list)),
        ("StartJob", spec(JobSpec { name: text.clone(), ..Default::default() })),
        ("StartJob", spec(JobSpec { run_as: text.clone(), ..Default::default() })),
        ("StartJob", spec(JobSpec { working_directory: text.clone(), ..Default::default() })),
        (
            "StartJob",
            spec(JobSpec { labels: [(text, String::new())].into(), ..Default::default() }),
        ),
    ];
    at_once(peer, args.number("calls"), &requests).await
}

/// Starts `jobs` jobs that end at once: what other attacks make use of.
pub(crate) async fn jobs(peer: &Peer, args: &Args) -> Value {
    let mut client = peer.client().await.expect("a connection");
    for _ in 0..args.number("jobs") {
        api::start(&mut client, api::spec(&["true"])).await;
    }
    Value::Null
}

/// `calls` of ListJobs with `states` states, none of them that of a job that ended by itself.
pub(crate) async fn states(peer: &Peer, args: &Args) -> Value {
    let states = vec![State::Lost.into(); args.number("states")];
    let request = ListJobsRequest { states, ..Default::default() };
    at_once(peer, args.number("calls"), &[("ListJobs", raw::envelope(&request))]).await
}

/// `calls` calls, in turn of these, on one connection, as many at once as it takes.
async fn at_once(peer: &Peer, calls: usize, requests: &[(&'static str, Bytes)]) -> Value {
    let mut settings = Builder::new();
    settings.max_header_list_size(64 << 20).initial_window_size(16 << 20);
    let send = peer.http2(&settings).await.expect("a connection");
    // How many streams a connection may have is known after the first answer: RFC 9113, 5.1.2.
    let who = raw::envelope(&WhoAmIRequest {});
    raw::call(&send, "WhoAmI", who).await.expect("an answer");
    let call = |n: usize| {
        let (method, envelope) = requests[n % requests.len()].clone();
        let send = send.clone();
        tokio::spawn(async move { raw::call(&send, method, envelope).await })
    };
    let running: Vec<_> = (0..calls).map(call).collect();
    let (mut codes, mut broken, mut largest) = (Vec::new(), 0, 0);
    for call in running {
        match call.await.expect("a call does not panic") {
            Ok(answer) => {
                codes.push(answer.code);
                largest = largest.max(answer.metadata);
            }
            Err(_) => broken += 1,
        }
    }
    codes.sort_unstable();
    codes.dedup();
    json!({ "calls": calls, "broken": broken, "codes": codes, "largest_metadata": largest })
}
