//! Who did what: the ids of calls, and the audit of what was decided.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashSet;

use job_api::v1::{GetJobRequest, WhoAmIRequest};
use job_api::{REASON_METADATA, REQUEST_ID_METADATA};
use job_tests::refusal::violation;
use job_tests::{Env, api};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

fn request_id(metadata: &MetadataMap) -> String {
    metadata.get(REQUEST_ID_METADATA).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_answer_and_every_refusal_has_an_id_that_the_broker_chose() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let mut request = Request::new(WhoAmIRequest {});
        request.metadata_mut().insert(REQUEST_ID_METADATA, "mine".parse().unwrap());
        ids.insert(request_id(client.who_am_i(request).await.unwrap().metadata()));
        let absent = GetJobRequest { id: "01900000-0000-7000-8000-000000000000".into() };
        ids.insert(request_id(client.get_job(absent).await.unwrap_err().metadata()));
    }
    assert_eq!(ids.len(), 6, "{ids:?}");
    assert!(!ids.contains("mine"));
    let id = api::start(&mut client, api::script("true")).await.id;
    let refused = env.jobctl("user-b", &["stop", &id]).err();
    assert!(refused.contains("request id: 0"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reason_that_is_too_long_or_is_no_text_is_refused_and_never_cut() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    for reason in [vec![b'x'; 513], vec![0xff]] {
        let mut request = Request::new(WhoAmIRequest {});
        request.metadata_mut().insert_bin(REASON_METADATA, MetadataValue::from_bytes(&reason));
        let refused = client.who_am_i(request).await.unwrap_err();
        assert_eq!(violation(&refused).0, "metadata x-reason-bin");
    }
}
