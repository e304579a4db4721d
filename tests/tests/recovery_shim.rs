//! Shims that die, hang, or lose what they need; records that are damaged.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use job_api::client::Client;
use job_api::v1::job::State;
use job_api::v1::{Cause, Job, SignalJobRequest, Source, StopJobRequest};
use job_shim::frame;
use job_shim::wire::{BrokerHello, ToShim};
use job_tests::oracle;
use job_tests::{Env, api, is_running, scaled, trials, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A job that has written `up` and goes on for ever, and its shim.
async fn start_endless(env: &Env, client: &mut Client) -> (Job, i32) {
    let job = api::start(client, api::script("sleep 1000 & echo up; sleep 1000")).await;
    until("it is up", || env.stdout_log(&job.id).contains("up").then_some(()));
    let shim = env.cgroup().shim(&job.id).unwrap();
    (job, shim)
}

async fn assert_lost_and_gone(env: &Env, client: &mut Client, id: &str) {
    let job = api::ended(client, id).await;
    assert_eq!((job.state(), job.cause()), (State::Lost, Cause::Lost), "{job:?}");
    assert_eq!((job.exit_code, job.signal), (None, None), "nobody knows");
    assert_eq!(job.failure.as_ref().map(|f| f.step.as_str()), Some("shim"));
    let output = api::output(client, id).await;
    assert_eq!(output.stdout, b"up\n", "the log is kept");
    assert!(output.job.incomplete);
    until("its cgroup is gone", || (!env.cgroup().job(id).exists()).then_some(()));
}

/// FAULTS 8
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_whose_shim_is_killed_is_lost_without_survivors() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let (other, _) = start_endless(&env, &mut client).await;
    let (job, shim) = start_endless(&env, &mut client).await;
    let workload = env.cgroup().work(&job.id);
    assert!(workload.len() >= 2);
    signal(shim, Signal::SIGKILL);
    assert_lost_and_gone(&env, &mut client, &job.id).await;
    assert!(!workload.iter().any(|pid| is_running(*pid)), "{workload:?}");
    assert_eq!(env.jobctl("user-a", &["wait", &job.id]).code(), 255);
    assert_eq!(api::job(&mut client, &other.id).await.state(), State::Running);
    api::stop(&mut client, &other.id, Duration::ZERO).await;
    api::ended(&mut client, &other.id).await;
    env.assert_clean();
}

/// It is in no file: what the shim has told of it counts, when that is silent and when it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_job_has_dropped_is_not_forgotten_with_its_shim() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::script(&format!("{} random 5000 9; sleep 1000", env.oracle()));
    spec.output_limit_bytes = 1000;
    let mut ids = Vec::new();
    for is_silent in [false, true] {
        let id = api::start(&mut client, spec.clone()).await.id;
        api::becomes(&mut client, &id, |job| job.dropped_bytes == 4000).await;
        let stranger = is_silent.then(|| take_broker_s_place(&env, &id));
        if is_silent {
            until_silent(&mut client, &id).await;
            assert_eq!(api::job(&mut client, &id).await.dropped_bytes, 4000);
        }
        signal(env.cgroup().shim(&id).unwrap(), Signal::SIGKILL);
        let job = api::ended(&mut client, &id).await;
        assert_eq!((job.stdout_bytes, job.dropped_bytes), (1000, 4000), "{job:?}");
        drop(stranger);
        ids.push(id);
    }
    env.restart_broker();
    let mut client = env.client("user-a").await;
    for id in &ids {
        assert_eq!(api::job(&mut client, id).await.dropped_bytes, 4000, "on record");
    }
    env.assert_clean();
}

/// The shim hears a later broker and takes no word from this one any more.
fn take_broker_s_place(env: &Env, id: &str) -> UnixStream {
    let spawned = fs::read(env.job_dir(id).join("spawn.json")).unwrap();
    let spawned: serde_json::Value = serde_json::from_slice(&spawned).unwrap();
    let nonce = *spawned["nonce"].as_str().unwrap().parse::<Uuid>().unwrap().as_bytes();
    let mut words = Vec::new();
    frame::write(&ToShim::Hello(BrokerHello { nonce, epoch: u64::MAX }), &mut words);
    let mut shim = UnixStream::connect(env.path("run").join(id)).unwrap();
    shim.write_all(&words).unwrap();
    shim.read_exact(&mut [0]).expect("it answers");
    shim
}

/// FAULTS 9
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stopped_shim_holds_up_nobody_and_its_job_can_be_stopped() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let (stuck, shim) = start_endless(&env, &mut client).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(start_endless(&env, &mut client).await.0.id);
    }
    signal(shim, Signal::SIGSTOP);
    let contact = async || {
        env.restart_broker();
        let began = Instant::now();
        let mut client = env.client("user-a").await;
        for id in &others {
            until_contact(&mut client, id).await;
        }
        began.elapsed()
    };
    let most = scaled(Duration::from_secs(2), Duration::from_secs(4));
    let took = trials(contact, |took| *took < most).await;
    assert!(took < most, "{took:?}");
    let mut client = env.client("user-a").await;
    for id in &others {
        api::stop(&mut client, id, Duration::ZERO).await;
        assert_eq!(api::ended(&mut client, id).await.cause(), Cause::Stopped);
    }
    assert_eq!(api::job(&mut client, &stuck.id).await.state(), State::Running);
    let workload = env.cgroup().work(&stuck.id);
    api::stop(&mut client, &stuck.id, Duration::from_millis(100)).await;
    let job = api::ended(&mut client, &stuck.id).await;
    assert_eq!((job.cause(), job.source()), (Cause::Stopped, Source::User), "{job:?}");
    assert!(!workload.iter().any(|pid| is_running(*pid)) && !is_running(shim));
    assert_eq!(api::output(&mut client, &stuck.id).await.stdout, b"up\n");
    env.assert_clean();
}

/// An acknowledged stop happens: heard by the shim late, or carried out by the next broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_that_was_acknowledged_happens_though_its_broker_dies_before_the_shim_hears_of_it() {
    let mut env = Env::start();
    for (can_be_told, wakes_up) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut client = env.client("user-a").await;
        let (job, shim) = start_endless(&env, &mut client).await;
        signal(shim, Signal::SIGSTOP);
        if !can_be_told {
            env.restart_broker();
            client = env.client("user-a").await;
        }
        // One that sleeps is to do it itself, in time.
        let grace = if wakes_up { Duration::from_secs(1000) } else { Duration::from_millis(50) };
        api::stop(&mut client, &job.id, grace).await;
        env.kill_broker();
        if wakes_up {
            signal(shim, Signal::SIGCONT);
        }
        env.start_broker();
        let mut client = env.client("user-a").await;
        assert_ne!(api::job(&mut client, &job.id).await.state(), State::Running);
        let ended = api::ended(&mut client, &job.id).await;
        let said = (ended.cause(), ended.source(), ended.ended_by.as_str());
        assert_eq!(said, (Cause::Stopped, Source::User, "user-a"), "{ended:?}");
        let number = if wakes_up { Signal::SIGTERM } else { Signal::SIGKILL };
        assert_eq!(ended.signal, Some(number as i32));
        assert!(!env.job_dir(&job.id).join("stop.json").exists());
    }
    env.assert_clean();
}

/// A disk that takes no record of it keeps nobody from stopping a job.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_is_acknowledged_once_it_is_on_record_or_with_the_shim() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    for can_be_told in [true, false] {
        let (job, shim) = start_endless(&env, &mut client).await;
        fs::create_dir(env.job_dir(&job.id).join(".stop.json.new")).unwrap();
        if !can_be_told {
            signal(shim, Signal::SIGSTOP);
            env.restart_broker();
            client = env.client("user-a").await;
        }
        let grace = Some(api::duration(Duration::from_millis(50)));
        let stop = StopJobRequest { id: job.id.clone(), grace };
        let answer = client.stop_job(stop).await.map(drop);
        assert_eq!(answer.is_ok(), can_be_told, "{answer:?}");
        let ended = api::ended(&mut client, &job.id).await;
        assert_eq!((ended.cause(), ended.source()), (Cause::Stopped, Source::User), "{ended:?}");
    }
    env.assert_clean();
}

/// Nor is a signal lost that was answered: it lies in the socket of a shim that sleeps, and the next
/// broker waits behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_that_was_answered_arrives_though_its_broker_dies_before_the_shim_hears_of_it() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let text = "trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.05; done";
    let id = api::start(&mut client, api::script(text)).await.id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    let shim = env.cgroup().shim(&id).unwrap();
    signal(shim, Signal::SIGSTOP);
    let request = SignalJobRequest { id: id.clone(), signal: Signal::SIGUSR1 as i32 };
    client.signal_job(request).await.unwrap();
    env.restart_broker();
    let mut client = env.client("user-a").await;
    until_silent(&mut client, &id).await;
    signal(shim, Signal::SIGCONT);
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.stdout.as_slice(), output.job.exit_code), (&b"up\ngot\n"[..], Some(5)));
    env.assert_clean();
}

async fn until_contact(client: &mut Client, id: &str) {
    let is_reached = |job: &Job| !job.recovering && job.warnings.is_empty();
    let job = api::becomes(client, id, is_reached).await;
    assert_eq!(job.state(), State::Running);
}

/// FAULTS 9: a shim that only slept goes on as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_shim_that_is_continued_is_known_again_and_its_output_is_whole() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("echo up; {}; exec {} lines 200", gate.wait(), env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    let shim = env.cgroup().shim(&id).unwrap();
    signal(shim, Signal::SIGSTOP);
    env.restart_broker();
    let mut client = env.client("user-a").await;
    until_silent(&mut client, &id).await;
    signal(shim, Signal::SIGCONT);
    gate.open();
    let output = api::output(&mut client, &id).await;
    oracle::assert_whole(output.stdout.strip_prefix(b"up\n").unwrap(), &output.stderr, 200);
    assert_eq!((output.job.state(), output.job.exit_code), (State::Finished, Some(0)));
    assert!(!output.job.incomplete);
    env.assert_clean();
}

async fn until_silent(client: &mut Client, id: &str) {
    let job = api::becomes(client, id, |job| !job.warnings.is_empty()).await;
    assert!(job.warnings[0].contains("shim does not answer"), "{job:?}");
    assert_eq!(job.state(), State::Running);
}

/// FAULTS 10
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn shim_and_broker_killed_together_leave_a_lost_job_and_nothing_else() {
    let mut env = Env::start();
    let (job, shim) = start_endless(&env, &mut env.client("user-a").await).await;
    let workload = env.cgroup().work(&job.id);
    env.broker().signal(Signal::SIGSTOP); // so that it cannot act between the two
    signal(shim, Signal::SIGKILL);
    env.kill_broker();
    env.start_broker();
    let mut client = env.client("user-a").await;
    assert_lost_and_gone(&env, &mut client, &job.id).await;
    assert!(!workload.iter().any(|pid| is_running(*pid)), "{workload:?}");
    env.assert_clean();
}

/// Not through the broker, which would have refused.
#[test]
fn a_running_job_whose_directory_somebody_has_removed_ends_for_all_who_wait_and_is_gone() {
    let env = Env::start();
    let runner = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", "echo up; sleep 1000"]);
    runner.wait_for_stdout("up");
    let id = env.cgroup().jobs().remove(0);
    fs::remove_dir_all(env.job_dir(&id)).unwrap();
    signal(env.cgroup().shim(&id).unwrap(), Signal::SIGKILL);
    runner.finish().expect(255);
    until("it is gone", || {
        env.jobctl("user-a", &["ps", "-a", "-q"]).out().is_empty().then_some(())
    });
    env.assert_clean();
}

/// FAULTS 11
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stranger_that_has_the_recorded_pid_is_not_touched() {
    let mut env = Env::start();
    let (job, shim) = start_endless(&env, &mut env.client("user-a").await).await;
    env.broker().signal(Signal::SIGSTOP); // so that it cannot act between the two
    signal(shim, Signal::SIGKILL);
    env.kill_broker();
    let path = env.job_dir(&job.id).join("spawn.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut stranger = stranger(record["shim_start_time"].as_u64().unwrap());
    record["shim_pid"] = stranger.id().into();
    // As a broker writes it that knows no checksums.
    record.as_object_mut().unwrap().retain(|name, _| name != "checksum" && name != "crc32");
    fs::write(&path, record.to_string()).unwrap();
    env.start_broker();
    let mut client = env.client("user-a").await;
    assert_lost_and_gone(&env, &mut client, &job.id).await;
    env.assert_clean();
    let untouched = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(untouched);
}

/// A process that was not started in the same clock tick, which no reused pid can be.
fn stranger(not_at: u64) -> Child {
    loop {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        // Field 22, proc_pid_stat(5); the second is the name, in parentheses.
        let start = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap();
        if start != not_at.to_string() {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// FAULTS 12
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_whose_socket_is_gone_is_managed_through_cgroup_and_files() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("echo up; {}; exec {} lines 200", gate.wait(), env.oracle());
    let ends = api::start(&mut client, api::script(&text)).await.id;
    let (stays, _) = start_endless(&env, &mut client).await;
    until("it is up", || env.stdout_log(&ends).contains("up").then_some(()));
    env.kill_broker();
    for id in [&ends, &stays.id] {
        fs::remove_file(env.path("run").join(id)).unwrap();
    }
    env.start_broker();
    let mut client = env.client("user-a").await;
    until_silent(&mut client, &ends).await;
    // Its output is followed, and its end is told, without a word from its shim.
    let follower = env.spawn_jobctl("user-a", &["logs", "-f", &ends]);
    follower.wait_for_stdout("up");
    gate.open();
    follower.wait_for_stdout("o 0000000199");
    let output = follower.finish();
    oracle::assert_whole(output.stdout.strip_prefix(b"up\n").unwrap(), &output.stderr, 200);
    let job = api::ended(&mut client, &ends).await;
    assert_eq!((job.state(), job.exit_code, job.incomplete), (State::Finished, Some(0), false));

    api::stop(&mut client, &stays.id, Duration::from_millis(100)).await;
    assert_eq!(api::ended(&mut client, &stays.id).await.cause(), Cause::Stopped);
    env.assert_clean();
}

/// FAULTS 16
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_shim_binary_can_be_replaced_while_jobs_run() {
    let mut env = Env::start();
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("{}; exec {} lines 100", gate.wait(), env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    let shim = env.path("job-shim");
    // As a package does it: another file under the same name.
    fs::rename(&shim, env.path("job-shim.old")).unwrap();
    assert_eq!(env.jobctl("user-a", &["run", "--", "echo", "one"]).out(), "one\n");
    env.install_shim(&env.path("job-shim.old"));
    fs::remove_file(env.path("job-shim.old")).unwrap();
    assert_eq!(env.jobctl("user-a", &["run", "--", "echo", "two"]).out(), "two\n");
    env.restart_broker();
    assert_eq!(env.jobctl("user-a", &["run", "--", "echo", "three"]).out(), "three\n");
    gate.open();
    let output = api::output(&mut env.client("user-a").await, &id).await;
    oracle::assert_whole(&output.stdout, &output.stderr, 100);
    assert_eq!(output.job.exit_code, Some(0));
    env.assert_clean();
}

/// FAULTS 21
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_torn_index_costs_no_byte_of_the_log() {
    for torn in [torn_in_the_middle_of_an_entry, last_entry_damaged] {
        let mut env = Env::start();
        let mut client = env.client("user-a").await;
        let text = format!("{} lines 50; sleep 1000", env.oracle());
        let id = api::start(&mut client, api::script(&text)).await.id;
        for (log, stream) in [("stdout.log", 'o'), ("stderr.log", 'e')] {
            let (log, line) = (env.job_dir(&id).join(log), oracle::line(stream, 49));
            let is_written = || fs::read_to_string(&log).ok()?.ends_with(&line).then_some(());
            until("all is written", is_written);
        }
        let index = env.job_dir(&id).join("output.idx");
        let entries = || fs::metadata(&index).unwrap().len() / 32;
        let whole = until("the index is written", || (entries() > 1).then(entries));
        env.broker().signal(Signal::SIGSTOP); // so that it cannot act between the two
        signal(env.cgroup().shim(&id).unwrap(), Signal::SIGKILL);
        env.kill_broker();
        torn(&index);
        // And bytes that the shim had no time to enter.
        let more = oracle::line('o', 50);
        append(&env.job_dir(&id).join("stdout.log"), more.as_bytes());
        env.start_broker();
        let mut client = env.client("user-a").await;
        let output = api::output(&mut client, &id).await;
        assert_eq!(oracle::verify('o', &output.stdout), Ok(51));
        assert_eq!(oracle::verify('e', &output.stderr), Ok(50));
        assert_eq!((output.job.state(), output.job.incomplete), (State::Lost, true));
        let length = fs::metadata(&index).unwrap().len();
        assert!(
            length.is_multiple_of(32) && length >= whole * 32,
            "{length} after {whole} entries"
        );
        // The same from the records alone.
        env.restart_broker();
        let again = api::output(&mut env.client("user-a").await, &id).await;
        assert!(again.stdout == output.stdout && again.stderr == output.stderr);
    }
}

fn append(path: &std::path::Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn torn_in_the_middle_of_an_entry(index: &std::path::Path) {
    append(index, &[0xab; 19]);
}

fn last_entry_damaged(index: &std::path::Path) {
    let mut bytes = fs::read(index).unwrap();
    let at = bytes.len() - 10;
    bytes[at] ^= 0x40;
    fs::write(index, bytes).unwrap();
}
