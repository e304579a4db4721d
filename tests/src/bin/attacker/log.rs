//! What makes a broker say much.

use job_api::v1::JobSpec;
use job_tests::api;
use job_tests::attack::{Args, Peer};
use serde_json::{Value, json};

/// `jobs` starts with `bytes` bytes of arguments, in which each line would be an alarm of its own.
pub(crate) async fn arguments(peer: &Peer, args: &Args) -> Value {
    const LINE: &str = "\n<0>kernel panic";
    let mut client = peer.client().await.expect("a connection");
    let line = LINE.repeat(args.number("bytes") / 4 / LINE.len());
    let argv = [vec!["true".into()], vec![line; 4]].concat();
    let mut started = 0;
    for _ in 0..args.number("jobs") {
        let spec = JobSpec { argv: argv.clone(), ..JobSpec::default() };
        let id = api::start(&mut client, spec).await.id;
        api::ended(&mut client, &id).await;
        started += 1;
    }
    json!({ "started": started })
}
