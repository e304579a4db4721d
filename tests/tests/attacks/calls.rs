//! Calls that left work behind.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use job_api::v1::StopJobRequest;
use job_tests::attack::{self, Attack, Attacker, form};
use job_tests::{Env, api};
use tonic::Code;

use crate::block_on;

#[test]
fn a_job_that_is_stopped_20000_times_has_one_task_and_one_record() {
    let env = Env::start();
    let attack = Attack::new("item 6: 20,000 StopJob of one job").peak_mib(64);
    let calls = form("calls=20000", "calls=1000000");
    let verdict = attack::measure(&env, &attack, || {
        Attacker::start(&env, "mallory", "stops", &[calls]).finish()
    });
    assert_eq!(verdict.seen["refused"], 0, "{}", verdict.seen);
    let id = verdict.seen["job"].as_str().unwrap();
    let told = env.log().lines().filter(|l| l.contains(id) && l.contains("stop requested")).count();
    assert_eq!(told, form(1, told), "what changes nothing is not told");
    verdict.assert();
    // Less time is another matter.
    let record = env.job_dir(id).join("stop.json");
    let written = fs::metadata(&record).unwrap().ino();
    block_on(async {
        let mut client = env.client("mallory").await;
        api::stop(&mut client, id, Duration::from_secs(3600)).await;
        assert_eq!(fs::metadata(&record).unwrap().ino(), written, "nothing was written");
        api::stop(&mut client, id, Duration::from_secs(1800)).await;
        assert_ne!(fs::metadata(&record).unwrap().ino(), written);
        api::stop(&mut client, id, Duration::ZERO).await;
        api::ended(&mut client, id).await;
    });
}

#[test]
fn a_grace_of_more_than_a_day_is_refused() {
    let env = Env::start();
    block_on(async {
        let mut client = env.client("ann").await;
        let job = api::start(&mut client, api::spec(&["sleep", "1000"])).await;
        let grace = Some(api::duration(Duration::from_secs(86_401)));
        let refused = client.stop_job(StopJobRequest { id: job.id.clone(), grace }).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        api::stop(&mut client, &job.id, Duration::from_secs(86_400)).await;
        api::ended(&mut client, &job.id).await;
    });
}
