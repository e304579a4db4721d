//! kill -9 of the broker at random moments, again and again, and now and then of a shim, under a
//! mixed load. A round of five seconds here; `cargo xtask soak`, with `--minutes N` or `--kills N`, goes
//! on for longer. What is random comes from the seed that is printed: `JOB_TESTS_SEED` repeats it, as
//! far as the kernel does.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{
    Cause, DeleteJobRequest, ListJobsRequest, StartJobRequest, StopJobRequest, UpdateJobRequest,
};
use job_tests::ledger::{self, EXIT, RetryingClient};
use job_tests::{Env, api, oracle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;

/// One round of kills; then all of it is judged and removed, so that a long run does not grow.
const ROUND: Duration = Duration::from_secs(5);

/// What one request is to come to.
struct Asked {
    name: String,
    request: StartJobRequest,
    lines: u64,
    /// It sleeps until it is stopped.
    sleeps: bool,
}

/// One round's luck and load.
struct Round {
    random: oracle::Random,
    asked: Vec<Asked>,
    /// Jobs whose shim was killed.
    bereft: HashSet<String>,
    /// Jobs of which somebody was told that they will stop.
    stopped: Arc<Mutex<HashSet<String>>>,
}

/// What was done and seen in all rounds.
#[derive(Default)]
struct Tally {
    /// From each kill -9 until the next broker has shaken hands.
    recoveries: Vec<Duration>,
    shim_kills: usize,
    requests: usize,
    /// Of output that was compared with what the job must have written.
    checked_bytes: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.recoveries.clone();
        sorted.sort();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        write!(
            f,
            "{} times kill -9 of the broker and {} of shims under {} requests; {} bytes of output \
             compared, losses 0; recovery {median:.0?} (median), {:.0?} (longest)",
            self.recoveries.len(),
            self.shim_kills,
            self.requests,
            self.checked_bytes,
            sorted.last().copied().unwrap_or_default(),
        )
    }
}

impl Round {
    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.read_exact(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn ask(&mut self, env: &Env) -> StartJobRequest {
        let name = format!("request-{}", self.asked.len());
        let (sleeps, lines) = (self.one_in(4), 1 + self.below(120));
        let script = match sleeps {
            true => "exec sleep 1000".to_owned(),
            false => format!("exec {} lines {lines} {}", env.oracle(), self.below(4)),
        };
        let mut request = ledger::request(env, &name, &script);
        if sleeps {
            request.spec.as_mut().unwrap().time_limit = Some(api::duration(ROUND * 100));
        }
        self.asked.push(Asked { name, request: request.clone(), lines, sleeps });
        request
    }

    /// Starts, repeated starts, stops and changes, all at once; what becomes of the answers is seen
    /// later.
    async fn load(&mut self, env: &Env, client: &Client) -> Vec<JoinHandle<()>> {
        let mut calls = Vec::new();
        for _ in 0..=self.below(4) {
            let repeated = self.one_in(4) && !self.asked.is_empty();
            let request = match repeated {
                true => {
                    let n = self.below(self.asked.len() as u64);
                    self.asked[n as usize].request.clone()
                }
                false => self.ask(env),
            };
            let mut client = client.clone();
            calls.push(tokio::spawn(async move { drop(client.start_job(request).await) }));
        }
        for id in env.cgroup().jobs() {
            let (mut client, what) = (client.clone(), self.below(12));
            let stopped = Arc::clone(&self.stopped);
            calls.push(tokio::spawn(async move {
                match what {
                    0 => {
                        let stop = StopJobRequest { id: id.clone(), grace: None };
                        if client.stop_job(stop).await.is_ok() {
                            stopped.lock().unwrap().insert(id);
                        }
                    }
                    1 | 2 => {
                        let time_limit = Some(api::duration(ROUND * 200));
                        let update = UpdateJobRequest { id, time_limit, ..Default::default() };
                        drop(client.update_job(update).await);
                    }
                    _ => {}
                }
            }));
        }
        calls
    }

    /// Not that of the job which is followed: that has to be whole.
    fn kill_a_shim(&mut self, env: &Env, spared: &str) {
        let mut jobs = env.cgroup().jobs();
        jobs.retain(|id| id != spared);
        jobs.sort();
        if jobs.is_empty() {
            return;
        }
        let id = jobs.swap_remove(self.below(jobs.len() as u64) as usize);
        if let Some(shim) = env.cgroup().shim(&id) {
            let _ = kill(Pid::from_raw(shim), Signal::SIGKILL); // it may just have ended
            self.bereft.insert(id);
        }
    }

    /// Each request is answered in the end, by one job that ran once and whose end is known.
    async fn judge(&self, env: &mut Env) -> u64 {
        let mut checked = 0;
        let caller = &mut RetryingClient::new(env, "user-a").await;
        let stopped = self.stopped.lock().unwrap().clone();
        for id in &stopped {
            caller.ended(env, id).await; // an acknowledged stop happens
        }
        for asked in &self.asked {
            let answer = caller.start(env, &asked.request).await;
            for job in caller.jobs_of(env, &asked.name).await {
                let stop = StopJobRequest { id: job.id, grace: None };
                let stop = async |client: &mut Client| client.stop_job(stop.clone()).await;
                if asked.sleeps {
                    caller.call(env, stop).await.unwrap();
                }
            }
            let jobs = caller.judge(env, &asked.name, asked.lines).await;
            checked += jobs.iter().map(|job| job.stdout_bytes + job.stderr_bytes).sum::<u64>();
            let job = jobs.last().unwrap();
            if jobs.iter().any(|job| self.bereft.contains(&job.id)) {
                continue;
            }
            assert_eq!(answer.unwrap().id, job.id);
            assert_eq!(job.state(), State::Finished, "{job:?}");
            let by_itself = job.exit_code == Some(EXIT) && !asked.sleeps && !job.incomplete;
            assert!(by_itself || job.cause() == Cause::Stopped, "{job:?}");
        }
        checked
    }
}

/// One round, with so many kills of the broker at most.
async fn play(env: &mut Env, seed: u64, most: usize, tally: &mut Tally) {
    let mut round = Round {
        random: oracle::Random::new(seed),
        asked: Vec::new(),
        bereft: HashSet::new(),
        stopped: Arc::default(),
    };
    let before = tally.recoveries.len();
    let gate = env.gate();
    let endless = format!("{} lines 3000000 3 & {}; kill $!", env.oracle(), gate.wait());
    let followed = api::start(&mut env.client("user-a").await, api::script(&endless)).await.id;
    // Quiet: standard error is the job's alone.
    let follower = env.spawn_jobctl("user-a", &["logs", "-q", "-f", &followed]);
    follower.wait_for_bytes(1);
    let end = Instant::now() + ROUND;
    let mut client = env.client("user-a").await;
    while Instant::now() < end && tally.recoveries.len() - before < most {
        let calls = round.load(env, &client).await;
        let moment = Duration::from_micros(round.below(60_000));
        tokio::time::sleep(moment).await; // the moment of the kill, not a synchronisation
        if round.one_in(6) {
            round.kill_a_shim(env, &followed);
        }
        let killed = Instant::now();
        env.kill_broker();
        env.start_broker();
        client = env.client("user-a").await;
        tally.recoveries.push(killed.elapsed());
        for call in calls {
            call.await.unwrap();
        }
    }
    tally.checked_bytes += round.judge(env).await;
    gate.open();
    let ended = follower.finish();
    ended.expect(0);
    let stored = api::output(&mut env.client("user-a").await, &followed).await;
    assert!(ended.stdout == stored.stdout && ended.stderr == stored.stderr);
    assert!(oracle::verify('o', &stored.stdout).unwrap() > 0);
    tally.checked_bytes += (stored.stdout.len() + stored.stderr.len()) as u64;
    forget(env).await;
    tally.shim_kills += round.bereft.len();
    tally.requests += round.asked.len();
}

/// Everything ended is deleted, and then nothing is there.
async fn forget(env: &mut Env) {
    let caller = &mut RetryingClient::new(env, "user-a").await;
    loop {
        let list = async |client: &mut Client| client.list_jobs(ListJobsRequest::default()).await;
        let jobs = caller.call(env, list).await.unwrap().into_inner().jobs;
        if jobs.is_empty() {
            break;
        }
        for job in jobs {
            caller.ended(env, &job.id).await;
            let delete = DeleteJobRequest { id: job.id };
            let delete = async |client: &mut Client| client.delete_job(delete.clone()).await;
            caller.call(env, delete).await.unwrap();
        }
    }
    env.assert_clean();
    let left = std::fs::read_dir(env.path("state/jobs")).unwrap().count();
    assert_eq!(left, 0, "directories without a job");
    for file in std::fs::read_dir(env.shared()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whenever_the_broker_is_killed_nothing_is_lost_or_done_twice() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut seed = number("JOB_TESTS_SEED").unwrap_or(now);
    let kills = number("JOB_TESTS_KILLS").map(|kills| kills as usize);
    let seconds = number("JOB_TESTS_SECONDS").unwrap_or(ROUND.as_secs());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut env = Env::start();
    let mut tally = Tally::default();
    loop {
        let most = kills.map_or(usize::MAX, |kills| kills.saturating_sub(tally.recoveries.len()));
        if most == 0 || (kills.is_none() && Instant::now() > end) {
            break;
        }
        eprintln!("JOB_TESTS_SEED={seed}");
        play(&mut env, seed, most, &mut tally).await;
        eprintln!("{tally}");
        seed = seed.wrapping_add(1);
    }
    assert!(!tally.recoveries.is_empty());
}
