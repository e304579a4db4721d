//! A byte of any record altered, as a bad disk or a hand does it: the job is shown as it ended, or told of as
//! one that cannot be read. Another exit status is never shown.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use job_api::v1::Cause;
use job_api::v1::job::State;
use job_tests::finished::{quarantined, run_to};
use job_tests::{Env, api, until};

/// Places in each record, spread over its length.
const PLACES: usize = 8;

/// Another digit for a digit, another byte for any other.
fn alter(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    let digits: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
    // Digits and all bytes in turn: every digit of JSON parses as another one.
    let at = if place.is_multiple_of(2) && !digits.is_empty() {
        digits[place * digits.len() / PLACES]
    } else {
        place * bytes.len() / PLACES
    };
    bytes[at] =
        if bytes[at].is_ascii_digit() { b'0' + (bytes[at] - b'0' + 1) % 10 } else { bytes[at] ^ 1 };
    fs::write(path, bytes).unwrap();
}

/// What is shown of it is its own end; or operators are told of it.
#[track_caller]
fn assert_true_or_told(env: &Env, id: &str, what: &str) {
    let shown = env.jobctl("user-a", &["wait", "--until", "end", "-q", id]);
    let is_told = quarantined(env).iter().any(|(name, _)| name == id);
    assert!(shown.code() == 7 || is_told, "{what}: {:?} {}", shown.code(), shown.err());
}

/// FAULTS 37
#[test]
fn an_altered_byte_in_a_record_of_a_finished_job_shows_no_other_exit_status() {
    for has_index in [true, false] {
        let mut env = Env::builder().admin("admin").start();
        let places = ["spec.json", "spawn.json", "final.json", "exit"]
            .into_iter()
            .flat_map(|name| (0..PLACES).map(move |place| (name, place)));
        let jobs: Vec<_> = places
            .map(|(name, place)| (run_to(&env, "user-a", "exit 7", 7), name, place))
            .collect();
        env.kill_broker();
        jobs.iter().for_each(|(id, name, place)| alter(&env.job_dir(id).join(name), *place));
        if !has_index {
            fs::remove_file(env.path("state/finished.idx")).unwrap();
        }
        env.start_broker();
        for (id, name, place) in &jobs {
            assert_true_or_told(&env, id, &format!("{name}, place {place}, index: {has_index}"));
        }
    }
}

/// FAULTS 37, of the number that matters, and with the checksum taken out as well.
#[test]
fn an_altered_wait_status_is_quarantined_whether_or_not_the_record_has_its_checksum() {
    let mut env = Env::builder().admin("admin").start();
    let jobs: Vec<_> = (0..4).map(|_| run_to(&env, "user-a", "exit 7", 7)).collect();
    env.kill_broker();
    for (n, id) in jobs.iter().enumerate() {
        let path = env.job_dir(id).join("final.json");
        let status = if n % 2 == 0 { "0" } else { "-1" };
        let text = fs::read_to_string(&path).unwrap();
        let mut altered =
            text.replace("\"wait_status\":1792", &format!("\"wait_status\":{status}"));
        assert_ne!(altered, text);
        if n >= 2 {
            let cut = altered.find(",\"crc32\"").unwrap();
            altered = altered[..cut].replace("\"checksum\":\"crc32\",", "") + "}";
        }
        fs::write(&path, altered).unwrap();
    }
    env.start_broker();
    for id in &jobs {
        env.jobctl("user-a", &["status", id]).expect(1);
    }
    let told = quarantined(&env);
    assert!(jobs.iter().all(|id| told.iter().any(|(name, _)| name == id)), "{told:?}");
}

/// FAULTS 37
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_altered_byte_in_a_record_of_a_live_job_shows_no_other_exit_status() {
    let mut env = Env::builder().admin("admin").start();
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let mut jobs = Vec::new();
    for name in ["spec.json", "spawn.json"] {
        for place in 0..PLACES {
            let spec = api::script(&format!("echo up; {}; exit 7", gate.wait()));
            jobs.push((api::start(&mut client, spec).await.id, name, place));
        }
    }
    for (id, ..) in &jobs {
        until("it is up", || env.stdout_log(id).contains("up").then_some(()));
    }
    env.kill_broker();
    jobs.iter().for_each(|(id, name, place)| alter(&env.job_dir(id).join(name), *place));
    env.start_broker();
    gate.open();
    for (id, name, place) in &jobs {
        assert_true_or_told(&env, id, &format!("{name}, place {place}"));
    }
}

/// A shim's record that is damaged is none: the end is lost, and not another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_altered_exit_record_that_nobody_has_read_makes_the_job_lost() {
    let mut env = Env::start();
    let gate = env.gate();
    let mut client = env.client("user-a").await;
    let spec = api::script(&format!("echo up; {}; exit 7", gate.wait()));
    let id = api::start(&mut client, spec).await.id;
    until("it is up", || env.stdout_log(&id).contains("up").then_some(()));
    env.kill_broker();
    gate.open();
    until("it has ended", || env.cgroup().shim(&id).is_none().then_some(()));
    let path = env.job_dir(&id).join("exit");
    let mut bytes = fs::read(&path).unwrap();
    bytes[29] ^= 7; // the wait status: 7 << 8 becomes 0
    fs::write(&path, bytes).unwrap();
    env.start_broker();
    let job = api::ended(&mut env.client("user-a").await, &id).await;
    assert_eq!((job.state(), job.exit_code), (State::Lost, None), "{job:?}");
    assert_ne!(job.cause(), Cause::Exited);
}

/// A state directory that another account could have written to.
#[test]
fn a_state_directory_of_another_owner_is_refused_and_a_repaired_mode_is_told() {
    let mut env = Env::start();
    let id = run_to(&env, "user-a", "exit 7", 7);
    env.kill_broker();
    for inner in ["state", "state/jobs"] {
        let path = env.path(inner);
        chown(&path, Some(65534), Some(65534)).unwrap();
        let ended = env.second_broker();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success(), "{said}");
        assert!(said.contains("65534") && said.contains("chown -hR root:root"), "{said}");
        chown(&path, Some(0), Some(0)).unwrap();
    }
    fs::set_permissions(env.path("state"), Permissions::from_mode(0o777)).unwrap();
    env.start_broker();
    until("the log to tell of the mode", || env.log().contains("mode 0777").then_some(()));
    assert_eq!(env.path("state").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    env.jobctl("user-a", &["wait", "--until", "end", "-q", &id]).expect(7);
}
