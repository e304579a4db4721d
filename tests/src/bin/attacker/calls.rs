//! Calls that leave work behind, or hold a place for long.

use job_api::client::Client;
use job_api::v1::{StopJobRequest, StreamOutputRequest};
use job_tests::api;
use job_tests::attack::{Args, Peer};
use serde_json::{Value, json};
use std::time::Duration;

/// Calls of one kind at a time, on one connection: fewer than one job's bound.
const AT_ONCE: usize = 16;
/// Starts on one connection.
const STARTS: usize = 50;

/// `calls` stops of one job that does not obey, with a grace of an hour each.
pub(crate) async fn stops(peer: &Peer, args: &Args) -> Value {
    let mut client = peer.client().await.expect("a connection");
    let deaf = api::script("trap '' TERM; echo up; while :; do sleep 1000; done");
    let job = api::start(&mut client, deaf).await;
    says_something(&mut client, &job.id).await; // before it does, a stop ends it
    let each = args.number("calls") / AT_ONCE;
    let one = |mut client: Client, id: String| async move {
        let mut refused = 0;
        for _ in 0..each {
            let grace = Some(api::duration(Duration::from_secs(3600)));
            refused += usize::from(
                client.stop_job(StopJobRequest { id: id.clone(), grace }).await.is_err(),
            );
        }
        refused
    };
    let spawn = |_| tokio::spawn(one(client.clone(), job.id.clone()));
    let running: Vec<_> = (0..AT_ONCE).map(spawn).collect();
    let mut refused = 0;
    for calls in running {
        refused += calls.await.expect("a call does not panic");
    }
    json!({ "job": job.id, "calls": each * AT_ONCE, "refused": refused })
}

/// Returns once the job has written something.
async fn says_something(client: &mut Client, id: &str) {
    let request = StreamOutputRequest { id: id.into(), follow: true, ..Default::default() };
    let mut output = client.stream_output(request).await.expect("its output").into_inner();
    output.message().await.expect("a message").expect("a chunk");
}

/// `starts` starts at once of `program`, which hangs in its exec until somebody lets it go.
pub(crate) async fn starts(peer: &Peer, args: &Args) -> Value {
    let (mut clients, program) = (Vec::new(), args.text("program").to_owned());
    let mut running = Vec::new();
    for n in 0..args.number("starts") {
        if n % STARTS == 0 {
            clients.push(peer.client().await.expect("a connection"));
        }
        let mut client = clients[n / STARTS].clone();
        let spec = api::spec(&[&program]);
        running.push(tokio::spawn(async move { api::try_start(&mut client, spec).await.is_ok() }));
    }
    let mut started = 0;
    for start in running {
        started += usize::from(start.await.expect("a start does not panic"));
    }
    json!({ "started": started })
}
