//! The calls of `jobctl run`, of a broker that knows RunJob and of one from before it, heard by what holds its connection:
//! a task of the test's own, which relays all of them, or all but that one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use job_api::client::{Dial as _, Dialer, fingerprint};
use job_tests::{Env, Running};
use nix::unistd::{Gid, Uid, chown};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

/// Where `jobctl` of user-a looks for a kept connection: the directory, and the socket in it.
fn place(env: &Env) -> (PathBuf, PathBuf) {
    let dir = env.path("runtime");
    let own = dir.join("jobctl");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).unwrap();
    (dir, own.join(fingerprint(&env.addr(), &env.credentials("user-a"))))
}

/// `jobctl` of user-a, which finds that connection.
fn jobctl(env: &Env, args: &[&str]) -> Command {
    let mut command = env.command("user-a");
    command.env("XDG_RUNTIME_DIR", place(env).0).env("JOBCTL_PERSIST", "60s");
    command.args(args).stdin(Stdio::null());
    command
}

type Calls = Arc<Mutex<Vec<String>>>;
type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// What the broker is that the held connection leads to.
#[derive(Clone, Copy, PartialEq)]
enum Broker {
    Ours,
    /// It says of RunJob that it does not know it.
    Older,
}

/// Holds a connection of user-a. The names of all calls.
async fn hold(env: &Env, of: Broker) -> Calls {
    let listener = UnixListener::bind(place(env).1).unwrap();
    let dialer = Dialer::new(&env.addr(), &env.credentials("user-a")).unwrap();
    let broker = TokioIo::new(dialer.dial().await.unwrap());
    let (upstream, connection) =
        client::conn::http2::handshake(TokioExecutor::new(), broker).await.unwrap();
    tokio::spawn(connection);
    let calls = Calls::default();
    let heard = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (upstream, heard) = (upstream.clone(), Arc::clone(&heard));
            let answer = move |request| answer(of, upstream.clone(), Arc::clone(&heard), request);
            tokio::spawn(async move {
                if stream.write_u8(b'+').await.is_ok() {
                    let builder = server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ =
                        builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                }
            });
        }
    });
    calls
}

async fn answer(
    of: Broker,
    mut upstream: SendRequest<Incoming>,
    calls: Calls,
    request: Request<Incoming>,
) -> hyper::Result<Answer> {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    calls.lock().unwrap().push(name.clone());
    if of == Broker::Older && name == "RunJob" {
        let head = Response::builder().header("content-type", "application/grpc");
        let unknown = head.header("grpc-status", tonic::Code::Unimplemented as i32);
        return Ok(unknown.body(Either::Right(Empty::new())).unwrap());
    }
    upstream.ready().await?;
    Ok(upstream.send_request(request).await?.map(Either::Left))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn run_asks_in_two_calls_what_an_older_broker_does_not_know_as_one() {
    let env = Env::start();
    let calls = hold(&env, Broker::Older).await;
    let script = ["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"];
    let ran = Running::spawn(jobctl(&env, &script)).finish();
    assert_eq!((ran.code(), ran.out(), ran.err()), (7, "out\n".into(), "err\n".into()));
    let calls = calls.lock().unwrap();
    let starts: Vec<_> = calls.iter().filter(|call| call.ends_with("Job")).collect();
    assert_eq!(starts[..2], ["RunJob", "StartJob"], "{calls:?}");
    assert_eq!(calls.iter().filter(|call| *call == "StreamOutput").count(), 1, "{calls:?}");
    let jobs = env.jobctl("user-a", &["ps", "-a", "-o", "json"]).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1, "{jobs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn run_is_one_call_with_compressed_output_too() {
    let env = Env::start();
    let calls = hold(&env, Broker::Ours).await;
    for compress in [&[][..], &["-C"]] {
        let words = [&["run"][..], compress, &["--", "seq", "10000"]].concat();
        let ran = Running::spawn(jobctl(&env, &words)).finish();
        assert_eq!((ran.code(), ran.out().lines().count()), (0, 10_000), "{}", ran.err());
        assert!(calls.lock().unwrap().iter().any(|call| call == "RunJob"));
        let others = ["StartJob", "StreamOutput"];
        let calls = std::mem::take(&mut *calls.lock().unwrap());
        assert!(calls.iter().all(|call| !others.contains(&&**call)), "{calls:?}");
    }
}

/// Root's process listens where another account's `jobctl` looks: that asks the broker itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_another_account_holds_is_not_used() {
    const NOBODY: u32 = 65_534;
    let env = Env::start();
    let calls = hold(&env, Broker::Ours).await;
    let give = |path: &Path| {
        chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).unwrap();
    };
    let (dir, socket) = place(&env);
    [&*dir, &*dir.join("jobctl"), &*socket].into_iter().for_each(give);
    // What it reads and runs, where it can get at it.
    let copy = |from: PathBuf, name| {
        let to = env.shared().join(name);
        fs::copy(from, &to).unwrap();
        give(&to);
        to
    };
    let own = env.identity("user-a");
    let mut command = Command::new(copy(jobctl(&env, &[]).get_program().into(), "jobctl"));
    command.env_clear().env("XDG_RUNTIME_DIR", dir).env("JOBCTL_PERSIST", "60s");
    command.env("JOBCTL_ADDR", env.addr());
    command.env("JOBCTL_CA", copy(env.pki().certificate(), "ca.crt"));
    command.env("JOBCTL_CERT", copy(own.certificate, "own.crt"));
    command.env("JOBCTL_KEY", copy(own.key, "own.key"));
    command.args(["run", "--", "echo", "direct"]).stdin(Stdio::null());
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    let ran = Running::spawn(command).finish();
    assert_eq!((ran.code(), ran.out()), (0, "direct\n".into()), "{}", ran.err());
    assert!(calls.lock().unwrap().is_empty());
}
