//! A well-behaved client that makes a fixed mix of calls at a fixed pace: it says `ready`, and then,
//! for each line on standard input, which begins a phase, a line of JSON about the one that ends. See
//! `job_tests::attack`.
//!
//! A call is due at its time, whatever became of the one before; those that were due while one hung
//! count as late as they would have been. Else a broker that stands still would show in one call.

#![allow(clippy::expect_used, reason = "a bystander that cannot start is a failed test")]

use std::io::BufRead;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{GetJobRequest, ListJobsRequest, StopJobRequest, WaitJobRequest, WhoAmIRequest};
use job_tests::api;
use job_tests::attack::Peer;
use serde_json::{Value, json};
use tokio::time::{sleep_until, timeout};
use tonic::Status;

/// After which a call has failed.
const AT_MOST: Duration = Duration::from_secs(10);
/// Between two calls that only look, two that start or stop something, two new connections.
const INTERVALS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(250)];
/// How many failures are told in words.
const TOLD: usize = 3;

/// One call, or one that could not be made in time.
struct Sample {
    call: &'static str,
    due: Instant,
    took: Duration,
    failure: Option<String>,
}

/// What all lanes have noticed, and up to when each has.
#[derive(Default)]
struct Observed {
    samples: Vec<Sample>,
    up_to: [Option<Instant>; 3],
}

type Shared = Arc<Mutex<Observed>>;

/// What a call is, and what became of it.
type Called = (&'static str, Result<(), Status>);

fn main() {
    let noticed = Shared::default();
    let (ready, is_ready) = mpsc::channel();
    let calling = Arc::clone(&noticed);
    thread::spawn(move || call_forever(&calling, &ready));
    if is_ready.recv().is_err() {
        return; // it has panicked, and said why
    }
    println!("ready");
    let mut began = Instant::now();
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        let ended = Instant::now();
        println!("{}", summary(&take(&noticed, began, ended)));
        began = ended;
    }
}

fn call_forever(noticed: &Shared, ready: &Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let peer = Peer::of_environment();
        let mut looking = Watch::new(&peer).await;
        let mut working = Working::new(&peer).await;
        // Each of them once, so that what is slow for the first time alone is over.
        for _ in 0..4 {
            for (call, answer) in [looking.call().await, working.call().await, arrive(&peer).await]
            {
                answer.unwrap_or_else(|status| panic!("{call}: {status}"));
            }
        }
        ready.send(()).expect("main waits");
        tokio::join!(
            lane(0, noticed, async || looking.call().await),
            lane(1, noticed, async || working.call().await),
            lane(2, noticed, async || arrive(&peer).await),
        );
    });
}

/// Makes one call after the other, each when it is due.
async fn lane(number: usize, noticed: &Shared, mut call: impl AsyncFnMut() -> Called) {
    let mut due = Instant::now();
    loop {
        lock(noticed).up_to[number] = Some(due);
        sleep_until(due.into()).await;
        let (call, answer) = match timeout(AT_MOST, call()).await {
            Ok(called) => called,
            Err(_) => ("a call", Err(Status::deadline_exceeded("no answer"))),
        };
        let now = Instant::now();
        let mut failure = answer.err().map(|status| format!("{call}: {status}"));
        let mut noticed = lock(noticed);
        while due <= now {
            noticed.samples.push(Sample { call, due, took: now - due, failure: failure.take() });
            due += INTERVALS[number];
        }
    }
}

/// Calls that only look.
struct Watch {
    client: Client,
    job: String,
    turn: usize,
}

impl Watch {
    async fn new(peer: &Peer) -> Watch {
        let mut client = peer.client().await.expect("a connection");
        let job = api::start(&mut client, api::spec(&["sleep", "1000"])).await.id;
        Watch { client, job, turn: 0 }
    }

    async fn call(&mut self) -> Called {
        self.turn += 1;
        match self.turn % 3 {
            0 => ("WhoAmI", self.client.who_am_i(WhoAmIRequest {}).await.map(drop)),
            1 => {
                let request = GetJobRequest { id: self.job.clone() };
                ("GetJob", self.client.get_job(request).await.map(drop))
            }
            _ => {
                let request = ListJobsRequest { page_size: 20, ..Default::default() };
                ("ListJobs", self.client.list_jobs(request).await.map(drop))
            }
        }
    }
}

/// Calls that start and stop jobs: one that ends by itself, and one that does not.
struct Working {
    client: Client,
    job: Option<String>,
    turn: usize,
}

impl Working {
    async fn new(peer: &Peer) -> Working {
        let client = peer.client().await.expect("a connection");
        Working { client, job: None, turn: 0 }
    }

    async fn call(&mut self) -> Called {
        self.turn += 1;
        let (call, answer) = match (self.turn % 4, self.job.take()) {
            (0, Some(id)) => ("WaitJob", self.wait(id).await),
            (2, Some(id)) => ("StopJob", self.stop(id).await),
            (1, _) => ("StartJob of a sleeper", self.start(&["sleep", "1000"]).await),
            // Also after a start that failed.
            _ => ("StartJob", self.start(&["true"]).await),
        };
        (call, answer)
    }

    async fn start(&mut self, argv: &[&str]) -> Result<(), Status> {
        self.job = Some(api::try_start(&mut self.client, api::spec(argv)).await?.id);
        Ok(())
    }

    async fn wait(&mut self, id: String) -> Result<(), Status> {
        let until = Until::End.into();
        self.client.wait_job(WaitJobRequest { id, until, timeout: None }).await.map(drop)
    }

    async fn stop(&mut self, id: String) -> Result<(), Status> {
        self.client.stop_job(StopJobRequest { id, grace: None }).await.map(drop)
    }
}

/// A new connection, and a call over it.
async fn arrive(peer: &Peer) -> Called {
    let call = async || {
        let connected = peer.client().await;
        let mut client = connected.map_err(|e| Status::unavailable(format!("{e:?}")))?;
        client.who_am_i(WhoAmIRequest {}).await.map(drop)
    };
    ("a new connection", call().await)
}

/// The samples that were due in a phase, once every lane has come to its end.
fn take(noticed: &Shared, began: Instant, ended: Instant) -> Vec<Sample> {
    loop {
        let mut noticed = lock(noticed);
        if noticed.up_to.iter().all(|up_to| up_to.is_some_and(|up_to| up_to >= ended)) {
            let (taken, later) = std::mem::take(&mut noticed.samples)
                .into_iter()
                .partition(|sample| sample.due < ended);
            noticed.samples = later;
            let taken: Vec<Sample> = taken;
            return taken.into_iter().filter(|sample| sample.due >= began).collect();
        }
        drop(noticed);
        sleep(Duration::from_millis(5)); // between two looks
    }
}

fn summary(samples: &[Sample]) -> Value {
    let mut took: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    took.sort_unstable();
    let at = |part: f64| {
        let index = ((took.len() as f64 * part).ceil() as usize).max(1) - 1;
        took.get(index).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    let slowest = samples.iter().max_by_key(|sample| sample.took);
    let failures = samples.iter().filter_map(|sample| sample.failure.as_deref());
    let said = std::iter::once(format!("slowest: {}", slowest.map_or("none", |it| it.call)));
    let said: Vec<_> = said.chain(failures.clone().take(TOLD).map(str::to_owned)).collect();
    json!({
        "calls": samples.len(), "failures": failures.count(), "said": said.join("; "),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
    })
}

fn lock(noticed: &Shared) -> MutexGuard<'_, Observed> {
    noticed.lock().unwrap_or_else(PoisonError::into_inner)
}
