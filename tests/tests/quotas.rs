//! What each identity may take: a quota that one has reached is told with its numbers, touches nobody else, and holds
//! across the death of the broker.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use job_api::client::Client;
use job_api::v1::{
    GetQuotaRequest, JobSpec, Limits, ListJobsRequest, Quota, StreamOutputRequest,
    UpdateJobRequest, WaitJobRequest, WhoAmIRequest,
};
use job_shim::crash::Point;
use job_tests::host::{self, Need};
use job_tests::{Env, Hold, api, eventually};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const MIB: u64 = 1 << 20;

fn sleeper() -> JobSpec {
    api::spec(&["sleep", "1000"])
}

fn quotas(text: &str) -> Env {
    Env::builder().admin("admin").sections(text).start()
}

async fn quota(client: &mut Client, name: &str) -> Quota {
    let answer = client.get_quota(GetQuotaRequest::default()).await.unwrap().into_inner();
    answer.quotas.into_iter().find(|quota| quota.name == name).unwrap()
}

/// Asserts that this quota is named, with use and limit, for people and for programs.
#[track_caller]
fn assert_refused(status: &Status, reason: &str, name: &str, numbers: [u64; 2], from: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, reason, "{status}");
    let told = ["quota", "use", "limit", "from"].map(|key| info.metadata[key].as_str());
    let [used, limit] = numbers.map(|number| number.to_string());
    assert_eq!(told, [name, &used, &limit, from], "{status}");
    let failure = status.get_details_quota_failure().unwrap();
    assert_eq!(failure.violations[0].subject, name);
    assert!(status.message().contains(name), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn running_jobs_of_one_do_not_count_for_another_and_a_restart_forgets_none() {
    let mut env = quotas("[quotas.default]\nrunning_jobs = 2\n");
    let mut client = env.client("user-a").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(api::start(&mut client, sleeper()).await.id);
    }
    let refused = api::try_start(&mut client, sleeper()).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "running_jobs", [2, 2], "[quotas.default]");
    api::start(&mut env.client("user-b").await, sleeper()).await;
    env.kill_broker();
    env.start_broker();
    let mut client = env.client("user-a").await;
    let refused = api::try_start(&mut client, sleeper()).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "running_jobs", [2, 2], "[quotas.default]");
    // The place of one that has ended is free as soon as its end is known.
    api::stop(&mut client, &ids[0], Duration::ZERO).await;
    api::ended(&mut client, &ids[0]).await;
    assert_eq!(quota(&mut client, "running_jobs").await.used, 1);
    api::start(&mut client, sleeper()).await;
}

/// A job whose end no broker has seen does not stand in the way of the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_ended_while_no_broker_ran_is_not_counted() {
    let mut env = quotas("[quotas.default]\nrunning_jobs = 1\n");
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script(&gate.wait())).await.id;
    env.kill_broker();
    gate.open();
    job_tests::until("the job has ended", || env.cgroup().shim(&id).is_none().then_some(()));
    env.start_broker();
    api::start(&mut env.client("user-a").await, sleeper()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_starts_at_once_exactly_as_many_as_the_quota_has_are_admitted() {
    let env = quotas("[quotas.default]\nrunning_jobs = 5\n");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(env.client("user-a").await);
    }
    let mut starts = JoinSet::new();
    for n in 0..24 {
        let mut client = clients[n % 4].clone();
        starts.spawn(async move { api::try_start(&mut client, sleeper()).await });
    }
    let (started, refused): (Vec<_>, Vec<_>) =
        starts.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(started.len(), 5);
    for refused in refused {
        assert_refused(
            &refused.unwrap_err(),
            "QUOTA_EXCEEDED",
            "running_jobs",
            [5, 5],
            "[quotas.default]",
        );
    }
    assert_eq!(quota(&mut clients[0], "running_jobs").await.used, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn starts_in_a_minute_have_a_burst_and_the_refusal_says_when_there_is_another() {
    let mut env = quotas("[quotas.default]\nstarts_per_minute = 2\nstart_burst = 3\n");
    let mut client = env.client("user-a").await;
    for _ in 0..3 {
        api::start(&mut client, api::spec(&["true"])).await;
    }
    let refused = api::try_start(&mut client, api::spec(&["true"])).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "starts_per_minute", [3, 3], "[quotas.default]");
    let wait = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30), "{wait:?}");
    api::start(&mut env.client("user-b").await, api::spec(&["true"])).await;
    // The next broker knows when its jobs were started.
    env.kill_broker();
    env.start_broker();
    let mut client = env.client("user-a").await;
    let refused = api::try_start(&mut client, api::spec(&["true"])).await.unwrap_err();
    assert!(refused.message().contains("starts_per_minute"), "{refused}");
    let quota = quota(&mut client, "starts_per_minute").await;
    assert_eq!((quota.used, quota.limit, quota.burst), (3, Some(2), Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_without_a_limit_is_refused_where_the_sum_is_limited() {
    let env = quotas("[quotas.default]\nmemory = \"1G\"\n");
    let mut client = env.client("user-a").await;
    let refused = api::try_start(&mut client, sleeper()).await.unwrap_err();
    let unlimited = "quota memory: a job without a limit of memory is refused, since the sum over running \
                     jobs is limited to 1 GiB by [quotas.default]; ask for a limit of memory";
    assert_eq!(refused.message(), unlimited);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn limits_are_summed_up_and_a_change_that_raises_them_counts_whoever_makes_it() {
    if !host::has(&[Need::Cpu, Need::Memory, Need::Pids]) {
        return;
    }
    let env = quotas("[quotas.default]\nmemory = \"64M\"\ncpus = 1\npids = 100\n");
    let (mut client, mut admin) = (env.client("user-a").await, env.client("admin").await);
    let limits = |memory: u64, quota, pids| Limits {
        memory_max_bytes: Some(memory * MIB),
        cpu_max_quota_usec: Some(quota),
        pids_max: Some(pids),
        ..Limits::default()
    };
    let job = |limits| JobSpec { limits: Some(limits), ..sleeper() };
    let id = api::start(&mut client, job(limits(32, 50_000, 50))).await.id;
    for (limits, name, numbers) in [
        (limits(33, 50_000, 50), "memory", [32 * MIB, 64 * MIB]),
        (limits(32, 60_000, 50), "cpus", [500, 1000]),
        (limits(32, 50_000, 51), "pids", [50, 100]),
    ] {
        let refused = api::try_start(&mut client, job(limits)).await.unwrap_err();
        assert_refused(&refused, "QUOTA_EXCEEDED", name, numbers, "[quotas.default]");
    }
    api::start(&mut env.client("user-b").await, job(limits(64, 100_000, 100))).await;
    let change = |memory: u64| UpdateJobRequest {
        id: id.clone(),
        limits: Some(Limits { memory_max_bytes: Some(memory * MIB), ..Limits::default() }),
        ..UpdateJobRequest::default()
    };
    api::updated(&mut client, change(48)).await;
    assert_eq!(quota(&mut client, "memory").await.used, 48 * MIB);
    let refused = api::try_start(&mut client, job(limits(32, 50_000, 50))).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "memory", [48 * MIB, 64 * MIB], "[quotas.default]");
    for client in [&mut client, &mut admin] {
        let refused = api::update(client, change(65)).await.unwrap_err();
        assert_refused(&refused, "QUOTA_EXCEEDED", "memory", [0, 64 * MIB], "[quotas.default]");
    }
    assert_eq!(quota(&mut client, "memory").await.used, 48 * MIB, "nothing has changed");
    api::updated(&mut client, change(32)).await;
    api::start(&mut client, job(limits(32, 50_000, 50))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn beyond_the_finished_jobs_of_one_its_oldest_go_and_nobody_elses() {
    let env = quotas("[quotas.identity.user-a]\nkept_jobs = 2\n");
    let (mut client, mut other) = (env.client("user-a").await, env.client("user-b").await);
    let mut ids = Vec::new();
    for _ in 0..4 {
        for client in [&mut client, &mut other] {
            let id = api::start(client, api::spec(&["true"])).await.id;
            api::ended(client, &id).await;
            ids.push(id);
        }
    }
    let left = async |client: &mut Client| {
        let jobs = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };
    let newest = [ids[6].clone(), ids[4].clone()];
    eventually("two are left", async || (left(&mut client).await == newest).then_some(())).await;
    assert_eq!(left(&mut other).await.len(), 4);
    assert_eq!(quota(&mut client, "kept_jobs").await.used, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_waits_and_connections_are_given_back_when_they_end() {
    let env = quotas(
        "[quotas.default]\nstreams = 1\nwaits = 1\nconnections = 2\n[quotas.admin]\nconnections = 8\n",
    );
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, sleeper()).await.id;
    let request = || StreamOutputRequest { id: id.clone(), follow: true, ..Default::default() };
    let stream = client.stream_output(request()).await.unwrap();
    let refused = client.stream_output(request()).await.unwrap_err();
    assert_refused(&refused, "OUTPUT_STREAMS", "streams", [1, 1], "[quotas.default]");
    drop(stream);
    eventually("its place is free", async || client.stream_output(request()).await.ok()).await;

    let wait = || WaitJobRequest { id: id.clone(), ..WaitJobRequest::default() };
    let mut waiting = client.clone();
    let waiter = tokio::spawn({
        let request = wait();
        async move { waiting.wait_job(request).await.map(|_| ()) }
    });
    let used = async || (quota(&mut client.clone(), "waits").await.used == 1).then_some(());
    eventually("it waits", used).await;
    let refused = client.wait_job(wait()).await.unwrap_err();
    assert_refused(&refused, "TOO_MANY_CALLS", "waits", [1, 1], "[quotas.default]");
    waiter.abort();

    let mut second = env.client("user-a").await;
    second.who_am_i(WhoAmIRequest {}).await.unwrap();
    let refused = third(&env).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "connections", [2, 2], "[quotas.default]");
    env.client("user-b").await.who_am_i(WhoAmIRequest {}).await.unwrap();
    drop(second);
    eventually("there is a place again", async || third(&env).await.ok()).await;
}

/// The request of a start counts until its call has ended: another large one is one too many, for its owner alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bytes_of_requests_are_counted_until_their_calls_have_ended() {
    let mut env = quotas("[quotas.default]\nrequest_bytes = \"2M\"\n");
    let hold = Hold::at(&mut env, Point::JobRegistered.name());
    let (mut client, mut other) = (env.client("user-a").await, env.client("user-b").await);
    let mut starter = client.clone();
    let many = |count| {
        let argument = "x".repeat(100 << 10);
        let arguments = std::iter::repeat_n(argument.as_str(), count);
        api::spec(&["true"].into_iter().chain(arguments).collect::<Vec<_>>())
    };
    let spec = many(9);
    let start = tokio::spawn(async move { api::start(&mut starter, spec).await });
    hold.is_reached();
    let used = quota(&mut client, "request_bytes").await.used;
    assert!(used > 900 << 10 && used < 901 << 10, "{used}");
    // Too large for a start: whoever has room for it is told that.
    let large = many(15);
    let refused = api::try_start(&mut client, large.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*api::reason(&refused)),
        (Code::ResourceExhausted, "QUOTA_EXCEEDED")
    );
    let said = "you have reached the limit of 2097152 bytes of requests at a time (quota request_bytes of \
                [quotas.default])";
    assert!(refused.message().starts_with(said), "{refused}");
    let too_large = api::try_start(&mut other, large.clone()).await.unwrap_err();
    assert_ne!(too_large.code(), Code::ResourceExhausted, "{too_large}");
    hold.let_go();
    start.await.unwrap();
    let told = api::try_start(&mut client, large).await.unwrap_err();
    assert_eq!((told.code(), told.message()), (too_large.code(), too_large.message()));
    assert!(quota(&mut client, "request_bytes").await.used < 1 << 10);
}

async fn third(env: &Env) -> Result<(), Status> {
    env.client("user-a").await.who_am_i(WhoAmIRequest {}).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reload_changes_quotas_and_leaves_what_runs_and_a_bad_one_changes_nothing() {
    let mut env = quotas("[quotas.default]\nrunning_jobs = 2\n");
    let mut client = env.client("ci-7").await;
    for _ in 0..2 {
        api::start(&mut client, sleeper()).await;
    }
    env.set_sections(
        "[quotas.default]\nrunning_jobs = 1\n[quotas.identity.\"ci-*\"]\nrunning_jobs = 3\n",
    );
    env.reload_and_wait();
    api::start(&mut client, sleeper()).await;
    let origin = "[quotas.identity.\"ci-*\"]";
    let refused = api::try_start(&mut client, sleeper()).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "running_jobs", [3, 3], origin);
    env.set_sections("[quotas.default]\nstarts_per_minute = 0\n");
    env.reload_and_wait();
    assert!(env.log().contains("quotas.default starts_per_minute is 0"), "{}", env.log());
    let unchanged = quota(&mut client, "running_jobs").await;
    assert_eq!((unchanged.used, unchanged.limit, &*unchanged.from), (3, Some(3), origin));
    env.set_sections("[quotas.default]\nrunning_jobs = 1\n");
    env.reload_and_wait();
    let refused = api::try_start(&mut client, sleeper()).await.unwrap_err();
    assert_refused(&refused, "QUOTA_EXCEEDED", "running_jobs", [3, 1], "[quotas.default]");
    let list = client.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.jobs.len(), 3, "all of them run");
}

#[test]
fn jobctl_shows_ones_own_quotas_and_to_an_admin_anybodys() {
    let env = quotas(
        "[quotas.default]\nrunning_jobs = 2\ncpus = 1.5\n[quotas.admin]\nrunning_jobs = \"max\"\n",
    );
    let table = env.jobctl("user-a", &["quota"]).out();
    let lines: Vec<_> =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert!(lines.contains(&vec!["running_jobs", "0", "2", "[quotas.default]"]), "{table}");
    assert!(lines.contains(&vec!["cpus", "0", "1.5", "[quotas.default]"]), "{table}");
    assert!(lines.contains(&vec!["streams", "0", "1024", "built", "in"]), "{table}");
    assert!(lines.contains(&vec!["pids", "0", "-", "-"]), "{table}");
    let other = env.jobctl("user-a", &["quota", "--owner", "user-b"]);
    other.expect(1);
    assert!(other.err().contains("you may not see the quotas of others"), "{}", other.err());
    let own = env.jobctl("admin", &["quota", "-o", "json"]).out();
    let own: serde_json::Value = serde_json::from_str(&own).unwrap();
    assert_eq!(own["identity"], "admin");
    assert!(own["quotas"][0].get("limit").is_none(), "\"max\" is no limit: {own}");
    let others = env.jobctl("admin", &["quota", "--owner", "user-a"]).out();
    assert!(others.contains("[quotas.default]"), "{others}");
}

/// All connections are taken, by as many users as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_admin_gets_in_and_stops_a_job_when_users_have_taken_everything() {
    let env = Env::builder().admin("admin").descriptors(1024).config("max_running = 4").start();
    let mut held = Vec::new();
    let mut id = String::new();
    for user in ["user-a", "user-b", "user-c", "user-d", "user-e"] {
        loop {
            let mut client = env.client(user).await;
            match client.who_am_i(WhoAmIRequest {}).await {
                Ok(_) => held.push(client),
                Err(refused) => {
                    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
                    break;
                }
            }
        }
        if let Ok(job) = api::try_start(held.last_mut().unwrap(), sleeper()).await {
            id = job.id;
        }
    }
    let refused = env.client("user-f").await.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    assert!(refused.message().contains("all callers together"), "{refused}");
    let refused = api::try_start(&mut held[0], sleeper()).await.unwrap_err();
    assert_eq!(api::reason(&refused), "MAX_RUNNING");
    let mut admin = env.client("admin").await;
    api::stop(&mut admin, &id, Duration::ZERO).await;
    api::ended(&mut admin, &id).await;
}
