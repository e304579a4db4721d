//! Records on disk that somebody has damaged.

use std::collections::HashMap;
use std::fs;

use job_tests::attack::form;
use job_tests::{Env, finished, until};

/// One byte of each `exit`, at another place each time, and no `final.json`: what the broker believes
/// then is the shim's own record, whole, or none. (Row 37; `final.json` itself: `tests/records`.)
#[test]
fn a_damaged_exit_record_is_never_another_exit_status() {
    let mut env = Env::builder().admin("admin").start();
    let count = form(24, 155);
    let codes: HashMap<String, usize> = (0..count)
        .map(|n| {
            (finished::run_to(&env, "user-a", &format!("exit {}", 1 + n), 1 + n as i32), 1 + n)
        })
        .collect();
    env.kill_broker();
    let mut damaged = 0;
    for (n, id) in codes.keys().enumerate() {
        let directory = env.job_dir(id);
        fs::remove_file(directory.join("final.json")).unwrap();
        let mut exit = fs::read(directory.join("exit")).unwrap();
        let place = n * exit.len() / count;
        exit[place] ^= 1 << (n % 8);
        damaged += 1;
        fs::write(directory.join("exit"), exit).unwrap();
    }
    assert_eq!(damaged, count);
    let _ = fs::remove_file(env.path("state/finished.idx"));
    env.start_broker();
    // A job without a last record is listed as running until its records have been read again.
    let jobs = until("all of them are settled", || {
        let jobs = env.jobctl("user-a", &["ps", "-a", "-o", "json"]).json();
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        jobs.iter().all(|job| job["state"] != "running").then_some(jobs)
    });
    let mut whole = 0;
    for job in &jobs {
        let code = codes[job["id"].as_str().unwrap()];
        if let Some(told) = job["exit_code"].as_u64() {
            assert_eq!(told, code as u64, "{job}");
            whole += 1;
        }
    }
    assert_eq!(
        whole,
        count / 2,
        "of half of them the second record is damaged, which has no status"
    );
}
