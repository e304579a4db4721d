//! Certificates that come and go: revoked, expired, renewed, of an authority that is replaced or is somebody else's.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use job_api::client::{self, Client, Credentials};
use job_api::refusal::refusal;
use job_api::v1::job::State;
use job_api::v1::{StreamOutputRequest, StreamOutputResponse, WaitJobRequest, WhoAmIRequest};
use job_certs::{Authority, CA_VALIDITY, Leaf, Reason, days};
use job_tests::{Env, api, eventually, until};
use tonic::{Code, Status, Streaming};

/// From the moment that the broker can know to the end of what is live: its own bound is 5 s.
const SOON: Duration = Duration::from_secs(5);

/// A broker with a revocation list, which revokes nobody yet.
fn with_list() -> Env {
    let mut env = Env::builder().admin("admin").start();
    env.pki().write_crl(days(1), None).unwrap();
    env.set_tls(&format!("crl = [\"{}\"]\n", env.path("pki/ca.crl").display()));
    env.reload_and_wait();
    env
}

fn credentials(env: &Env, authority: &Authority, leaf: &Leaf) -> Credentials {
    let signed = authority.sign(leaf).unwrap();
    Credentials {
        ca: fs::read(env.pki().certificate()).unwrap(),
        cert: signed.certificate_pem.into_bytes(),
        key: signed.key_pem.into_bytes(),
    }
}

async fn who(client: &mut Client) -> Result<String, Status> {
    Ok(client.who_am_i(WhoAmIRequest {}).await?.into_inner().identity)
}

/// A stream of a job's output that has shown something, and will show no more.
async fn streams(client: &mut Client, id: &str) -> Streaming<StreamOutputResponse> {
    let request = StreamOutputRequest { id: id.into(), follow: true, ..Default::default() };
    let mut stream = client.stream_output(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    stream
}

/// Why a silent stream has ended.
async fn end_of(stream: &mut Streaming<StreamOutputResponse>) -> Status {
    let ended = tokio::time::timeout(SOON, stream.message()).await;
    ended.expect("the stream ends in time").expect_err("it ends with an error")
}

/// What TLS says to these credentials.
async fn refused(env: &Env, credentials: &Credentials) -> String {
    let ask = async || refusal(&env.addr(), credentials).await.unwrap();
    eventually("a refusal", ask).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_is_revoked_while_streaming_is_out_within_seconds_and_the_job_goes_on() {
    let env = with_list();
    let (mut client, mut other) = (env.client("user-a").await, env.client("user-b").await);
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let theirs = api::start(&mut other, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let mut their_stream = streams(&mut other, &theirs.id).await;
    let mut waiting = env.client("user-a").await;
    let id = job.id.clone();
    let wait = tokio::spawn(async move {
        let request = WaitJobRequest { id, ..Default::default() };
        waiting.wait_job(request).await.map(drop)
    });
    // One call that is answered behind it: the wait has arrived.
    who(&mut client).await.unwrap();
    let begun = Instant::now();
    env.pki().revoke("user-a", Reason::KeyCompromise).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    env.reload_broker();
    let status = end_of(&mut stream).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(
        (status.code(), api::reason(&status).as_str()),
        (Code::Unauthenticated, "CERTIFICATE_REVOKED")
    );
    let said = status.message();
    assert!(
        said.contains("the client certificate ") && said.contains(" was revoked on "),
        "{said}"
    );
    assert!(said.ends_with(": key compromise"), "{said}");
    let status = wait.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    until("the log tells it", || {
        env.log().contains("connection ended: the client certificate ").then_some(())
    });
    // Neither the old connection nor a new one is answered.
    let again = who(&mut client).await.unwrap_err();
    assert_ne!(again.code(), Code::Ok);
    let alert = refused(&env, &env.credentials("user-a")).await;
    assert!(alert.contains("CertificateRevoked"), "{alert}");
    let said = env.jobctl("user-a", &["ps"]).err();
    assert!(said.contains("your certificate is revoked"), "{said}");
    // Others notice nothing, and the job goes on.
    assert_eq!(who(&mut other).await.unwrap(), "user-b");
    assert!(tokio::time::timeout(Duration::from_millis(10), their_stream.message()).await.is_err());
    let mut admin = env.client("admin").await;
    assert_eq!(api::job(&mut admin, &job.id).await.state(), State::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_that_expires_ends_its_stream_at_its_second() {
    let env = Env::start();
    let leaf = env.pki().user_leaf("user-a", days(1)).unwrap();
    let now = SystemTime::now();
    let leaf = Leaf { not_after: now + Duration::from_secs(4), ..leaf };
    let credentials = credentials(&env, env.pki(), &leaf);
    let mut client = client::connect(&env.addr(), &credentials).await.unwrap();
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let status = tokio::time::timeout(2 * SOON, stream.message()).await.unwrap().unwrap_err();
    assert!(SystemTime::now() > leaf.not_after, "not before its end");
    assert_eq!(api::reason(&status), "CERTIFICATE_EXPIRED", "{status}");
    assert!(status.message().contains("has expired: it is valid until"), "{status}");
    let alert = refused(&env, &credentials).await;
    assert!(alert.contains("CertificateExpired"), "{alert}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_is_replaced_while_a_stream_goes_on_and_the_old_one_ends_when_it_is_removed() {
    let env = Env::start();
    let ca = env.path("pki/ca.crt");
    let old = fs::read(&ca).unwrap();
    let mut client = env.client("user-a").await;
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    // Of the same name, as job-certs makes it.
    let new = Authority::create(&env.path("pki-2"), "local", CA_VALIDITY).unwrap();
    let user = credentials(&env, &new, &new.user_leaf("user-a", days(1)).unwrap());
    let alert = refused(&env, &user).await;
    assert!(alert.contains("alert"), "{alert}");
    let added = fs::read(new.certificate()).unwrap();
    fs::write(&ca, [old.clone(), added.clone()].concat()).unwrap();
    env.reload_and_wait();
    let mut renewed = client::connect(&env.addr(), &user).await.unwrap();
    assert_eq!(who(&mut renewed).await.unwrap(), "user-a");
    assert_eq!(who(&mut client).await.unwrap(), "user-a");
    fs::write(&ca, &added).unwrap();
    env.reload_broker();
    let status = end_of(&mut stream).await;
    assert_eq!(api::reason(&status), "AUTHORITY_NOT_TRUSTED", "{status}");
    assert_eq!(who(&mut renewed).await.unwrap(), "user-a");
    fs::write(&ca, &old).unwrap();
}

/// Renames a new file over the old one, as those do who replace certificates.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn files_that_are_replaced_are_in_force_without_a_reload_and_broken_ones_are_not() {
    let env = with_list();
    let mut client = env.client("user-a").await;
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let list = env.path("pki/ca.crl");
    let good = fs::read(&list).unwrap();
    for broken in [&b"nonsense"[..], &good[..good.len() / 2], b""] {
        replace(&list, broken);
        let told = || env.log().matches("the former ones stay in force: cannot use ").count();
        let before = told();
        until("the fault is told", || (told() > before).then_some(()));
        assert_eq!(who(&mut env.client("user-a").await).await.unwrap(), "user-a");
    }
    let info = env.jobctl("admin", &["info"]).out();
    assert!(info.contains("RELOAD FAILED:") && info.contains("ca.crl as tls.crl"), "{info}");
    env.pki().revoke("user-a", Reason::Unspecified).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    // A look every two seconds, and 5 s from then.
    let ended = tokio::time::timeout(Duration::from_secs(7), stream.message()).await;
    assert_eq!(api::reason(&ended.unwrap().unwrap_err()), "CERTIFICATE_REVOKED");
    let info = env.jobctl("admin", &["info"]).out();
    assert!(!info.contains("RELOAD FAILED"), "{info}");
    assert!(
        info.contains("(trust domain local), until ") && info.contains("; 1 revoked, list until "),
        "{info}"
    );
    assert!(!env.jobctl("user-b", &["info"]).out().contains("authority"), "for admins only");
}
