//! Jobs that write a line for each run into a file, calls that are retried when the broker dies, and
//! checks of what became of a request.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{Job, JobSpec, ListJobsRequest, StartJobRequest};
use tonic::{Code, Status};

use crate::env::Env;
use crate::oracle;
use crate::wait::TIMEOUT;
use crate::{api, until};

/// The exit status of the oracle here: nothing else has it.
pub const EXIT: i32 = 7;

/// A script as the request of this name: one line in the request's file for each run of it.
pub fn request(env: &Env, name: &str, script: &str) -> StartJobRequest {
    let file = path(env, name);
    if !file.exists() {
        fs::write(&file, "").expect("it is ours");
        fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("it is ours");
    }
    // The shell opens it with O_APPEND: two runs are two lines.
    let text = format!("echo $JOB_ID >> {}; {script}", file.display());
    let mut spec = JobSpec { run_as: "pool".into(), ..api::script(&text) };
    spec.env.insert("ORACLE_EXIT".into(), EXIT.to_string());
    named(name, spec)
}

/// Any job as the request of this name.
pub fn named(name: &str, mut spec: JobSpec) -> StartJobRequest {
    spec.labels.insert("request".into(), name.into());
    StartJobRequest { spec: Some(spec), request_id: name.into(), ..Default::default() }
}

fn path(env: &Env, name: &str) -> PathBuf {
    env.shared().join(format!("runs-{name}"))
}

/// The jobs that have run for a request, one entry for each run.
pub fn runs(env: &Env, name: &str) -> Vec<String> {
    let text = fs::read_to_string(path(env, name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A client that retries a call when the broker dies, and starts the next broker.
#[derive(Debug)]
pub struct RetryingClient {
    client: Client,
    user: String,
}

impl RetryingClient {
    /// Starts a broker if there is none.
    pub async fn new(env: &mut Env, user: &str) -> RetryingClient {
        RetryingClient { client: connect(env, user).await, user: user.into() }
    }

    /// Calls until a broker answers.
    ///
    /// # Errors
    /// That answer.
    ///
    /// # Panics
    /// After [`TIMEOUT`].
    pub async fn call<T>(
        &mut self,
        env: &mut Env,
        call: impl AsyncFn(&mut Client) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status = match call(&mut self.client).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let may_pass = matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
            );
            // The one uid that there is has another job for a moment.
            let is_full = status.code() == Code::ResourceExhausted;
            if !may_pass && !is_full {
                return Err(status);
            }
            assert!(Instant::now() < deadline, "for {TIMEOUT:?}: {status:?}");
            if env.broker_has_died() {
                env.crash_brokers(None);
                self.client = connect(env, &self.user).await;
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await; // between two tries
            }
        }
    }

    /// Starts a job, as often as that takes.
    ///
    /// # Errors
    /// The broker's.
    pub async fn start(&mut self, env: &mut Env, request: &StartJobRequest) -> Result<Job, Status> {
        let start = async |client: &mut Client| client.start_job(request.clone()).await;
        let answer = self.call(env, start).await?.into_inner();
        Ok(answer.job.expect("an answer has a job"))
    }

    /// All jobs that a request has made, those that never ran among them; oldest first.
    pub async fn jobs_of(&mut self, env: &mut Env, name: &str) -> Vec<Job> {
        let labels = [("request".to_owned(), name.to_owned())].into();
        let request = ListJobsRequest { labels, ..Default::default() };
        let list = async |client: &mut Client| client.list_jobs(request.clone()).await;
        let mut jobs = self.call(env, list).await.expect("a list").into_inner().jobs;
        jobs.reverse();
        jobs
    }

    /// The job once nothing of it is left.
    ///
    /// # Panics
    /// After [`TIMEOUT`], with the job as it is then.
    pub async fn ended(&mut self, env: &mut Env, id: &str) -> Job {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let get = async |client: &mut Client| {
                client.get_job(job_api::v1::GetJobRequest { id: id.into() }).await
            };
            let answer = self.call(env, get).await.expect("there is such a job").into_inner();
            let job = answer.job.expect("an answer has a job");
            if matches!(job.state(), State::Finished | State::Lost) {
                return job;
            }
            assert!(Instant::now() < deadline, "it had not ended after {TIMEOUT:?}: {job:?}");
            tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
        }
    }

    /// Checks a request once all is over: it ran once at most, in the job that is the answer;
    /// its end is known, or why it is not; its output is the oracle's of `lines` lines, all of it or,
    /// for a job that lost its shim, its beginning.
    ///
    /// # Panics
    /// Where anything of that does not hold.
    pub async fn judge(&mut self, env: &mut Env, name: &str, lines: u64) -> Vec<Job> {
        let mut jobs = Vec::new();
        for job in self.jobs_of(env, name).await {
            jobs.push(self.ended(env, &job.id).await);
        }
        let ran = runs(env, name);
        assert!(ran.len() <= 1, "{name} ran {} times: {ran:?}", ran.len());
        for job in &jobs {
            let whole = judge_one(job, ran.contains(&job.id));
            let range =
                job_api::v1::StreamOutputRequest { id: job.id.clone(), ..Default::default() };
            let read = async |client: &mut Client| api::try_read(client, range.clone()).await;
            let output = self.call(env, read).await.expect("it can be read");
            if whole {
                oracle::assert_whole(&output.stdout, &output.stderr, lines);
            } else {
                assert_beginning('o', &output.stdout, lines);
                assert_beginning('e', &output.stderr, lines);
            }
        }
        jobs
    }
}

/// Whether it ended by itself, so that all of its output must be there.
fn judge_one(job: &Job, ran: bool) -> bool {
    let why = job.failure.as_ref().map(|failure| failure.step.as_str());
    match (job.state(), job.exit_code, job.signal) {
        (State::Finished, Some(EXIT), None) => {
            assert!(ran, "{job:?}");
            !job.incomplete
        }
        (State::Finished, None, Some(_)) => false,
        (State::Finished | State::Lost, None, None) => {
            assert!(why.is_some_and(|step| !step.is_empty()), "nobody says why: {job:?}");
            assert!(
                !ran || !["broker", "abandoned"].contains(&why.unwrap_or("")),
                "it ran: {job:?}"
            );
            false
        }
        _ => panic!("an end that nobody has made: {job:?}"),
    }
}

fn assert_beginning(stream: char, bytes: &[u8], lines: u64) {
    let whole: String = (0..lines).map(|number| oracle::line(stream, number)).collect();
    assert!(whole.as_bytes().starts_with(bytes), "{}", String::from_utf8_lossy(bytes));
}

/// To a broker that lives, and does not die in this very moment.
async fn connect(env: &mut Env, user: &str) -> Client {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        revive(env);
        if let Some(client) = env.try_client(user).await {
            return client;
        }
        if env.broker_has_died() {
            // Where it was to, and before anybody came: so would the next one, and the one after it.
            env.crash_brokers(None);
        }
        assert!(Instant::now() < deadline, "no connection to the broker for {TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two tries
    }
}

/// Starts brokers until one lives. The one that is to crash may do so before it is ready.
pub fn revive(env: &mut Env) {
    if !env.broker_has_died() || env.try_revive_broker() {
        return;
    }
    env.crash_brokers(None);
    until("a broker lives", || env.try_revive_broker().then_some(()));
}
