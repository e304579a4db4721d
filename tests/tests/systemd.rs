//! The package on a host with systemd: installed, restarted, killed, upgraded, stopped. Jobs notice
//! nothing of it, or it is on record what ended them.
//!
//! They change the machine they run on, one after the other, so they are left out unless asked for:
//! `cargo xtask test` asks in VMs with systemd 252 and 257.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use job_api::v1::job::State;
use job_api::v1::{Cause, Job};
use job_tests::machine::{Host, install, packages, sh};
use job_tests::{api, lives, until};

const JOBS: usize = 20;

/// Does something to the host while jobs write; they must not notice. `seconds` is more than it
/// takes, so that all of them still run after it.
async fn unnoticed(seconds: u64, deed: impl FnOnce(&Host)) {
    let host = Host::ready();
    let jobs = host.start_oracles(JOBS, seconds).await;
    deed(&host);
    until("the service runs", || (host.property("ActiveState") == "active").then_some(()));
    assert_eq!(host.running(&jobs).await, JOBS, "all of them run, and none has ended yet");
    host.assert_intact(&jobs).await;
}

/// FAULTS 18
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_restart_of_the_service_is_not_noticed_by_jobs() {
    unnoticed(15, |host| {
        sh("systemctl restart job-broker");
        let status = host.property("StatusText");
        assert!(status.contains(&format!("{JOBS} adopted")), "{status}");
    })
    .await;
}

/// FAULTS 18
#[tokio::test]
#[ignore = "changes the machine"]
async fn jobs_go_on_while_the_service_is_stopped() {
    unnoticed(15, |_| {
        sh("systemctl stop job-broker && sleep 1 && systemctl start job-broker");
    })
    .await;
}

/// FAULTS 1
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_broker_that_is_killed_is_started_again_over_its_jobs() {
    unnoticed(15, |host| {
        let pid = host.property("MainPID");
        sh("systemctl kill -s KILL job-broker");
        until("another broker", || {
            let now = host.property("MainPID");
            (now != "0" && now != pid && host.property("ActiveState") == "active").then_some(())
        });
    })
    .await;
}

/// A runtime that hangs is noticed by the watchdog.
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_broker_that_hangs_is_killed_by_the_watchdog_and_started_again() {
    let host = Host::ready();
    sh("mkdir -p /run/systemd/system/job-broker.service.d && \
        printf '[Service]\\nWatchdogSec=3s\\n' >/run/systemd/system/job-broker.service.d/t.conf && \
        systemctl daemon-reload && systemctl restart job-broker");
    let jobs = host.start_oracles(2, 15).await;
    let pid = host.property("MainPID");
    sh(&format!("kill -STOP {pid}"));
    until("another broker", || {
        let now = host.property("MainPID");
        (now != "0" && now != pid && host.property("ActiveState") == "active").then_some(())
    });
    host.assert_intact(&jobs).await;
    sh("rm -r /run/systemd/system/job-broker.service.d && systemctl daemon-reload && \
        systemctl restart job-broker");
}

/// FAULTS 17
#[tokio::test]
#[ignore = "changes the machine"]
async fn daemon_reload_and_daemon_reexec_are_not_noticed_by_jobs() {
    unnoticed(40, |_| {
        sh("systemctl daemon-reload && systemctl daemon-reexec && systemctl restart job-broker");
    })
    .await;
}

/// FAULTS 16
#[tokio::test]
#[ignore = "changes the machine"]
async fn upgrade_reinstallation_and_downgrade_restart_the_broker_and_touch_no_job() {
    let (old, new) = packages();
    for package in [&new, &new, &old] {
        unnoticed(40, |host| {
            let (broker, keeper) = (host.property("MainPID"), host.keeper());
            install(package);
            assert_ne!(host.property("MainPID"), broker, "the broker was restarted");
            assert_eq!(host.keeper(), keeper, "and the keeper was not");
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn a_socket_of_systemds_takes_connections_while_no_broker_runs() {
    let host = Host::ready();
    sh("systemctl stop job-broker && systemctl start job-broker.socket");
    assert_eq!(host.property("ActiveState"), "inactive");
    let jobs = host.start_oracles(1, 5).await; // which starts the broker
    assert_eq!(host.property("ActiveState"), "active");
    host.assert_intact(&jobs).await;
    sh("systemctl stop job-broker.socket job-broker");
    Host::ready().client().await;
}

/// FAULTS 20
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_keeper_that_is_killed_is_replaced_with_and_without_jobs() {
    let kill = |host: &Host| {
        let keeper = host.keeper();
        sh(&format!("kill -9 {keeper}"));
        until("the keeper has ended", || (!lives(keeper)).then_some(()));
        until("another keeper", || (host.keeper() != keeper).then_some(()));
    };
    unnoticed(15, kill).await;
    let host = Host::ready();
    sh(&format!("kill -9 {}", host.keeper()));
    let jobs = host.start_oracles(1, 5).await;
    host.assert_intact(&jobs).await;
}

/// FAULTS 19
#[tokio::test]
#[ignore = "changes the machine"]
async fn when_the_scope_is_stopped_every_job_ends_and_is_recorded_so() {
    let host = Host::ready();
    let jobs = host.start_oracles(JOBS, 15).await;
    let mut client = host.client().await;
    let mut spec = api::script("trap '' TERM; echo deaf; while :; do sleep 1; done");
    spec.stop_timeout = Some(api::duration(Duration::from_secs(2)));
    let deaf = api::start(&mut client, spec).await.id;
    until("it is deaf", || {
        let log = format!("/var/lib/job-broker/jobs/{deaf}/stdout.log");
        fs::read(log).ok().filter(|log| !log.is_empty())
    });
    sh("systemctl stop job-broker-jobs.scope");
    for id in jobs.ids() {
        let job = api::ended(&mut client, id).await;
        assert!(was_ended_by_the_system(&job), "{job:?}");
    }
    let job = api::ended(&mut client, &deaf).await;
    assert_eq!((job.cause(), job.signal), (Cause::Stopped, Some(9)), "{job:?}");
    assert!(was_ended_by_the_system(&job), "{job:?}");
    // And the next job gets a scope again.
    let jobs = host.start_oracles(1, 5).await;
    host.assert_intact(&jobs).await;
}

fn was_ended_by_the_system(job: &Job) -> bool {
    job.state() == State::Finished
        && matches!(job.cause(), Cause::Stopped | Cause::Signaled)
        && job.source() == job_api::v1::Source::System
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn the_end_of_the_host_gives_jobs_their_stop_signal_and_their_grace() {
    let host = Host::ready();
    let mut client = host.client().await;
    let script = "trap 'sleep 1; echo saved; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let id = api::start(&mut client, api::script(script)).await.id;
    let log = format!("/var/lib/job-broker/jobs/{id}/stdout.log");
    until("it is ready", || fs::read(&log).ok().filter(|log| !log.is_empty()));
    // What systemd does when the host goes down, in its order.
    sh("systemctl stop job-broker && systemctl stop job-broker-drain");
    let host = Host::ready();
    let output = api::output(&mut host.client().await, &id).await;
    assert_eq!(output.stdout, b"ready\nsaved\n");
    let end = (output.job.cause(), output.job.exit_code);
    assert_eq!(end, (Cause::Stopped, Some(7)), "{:?}", output.job);
    assert!(was_ended_by_the_system(&output.job), "{:?}", output.job);
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn a_reload_takes_what_is_sound_and_keeps_what_is_not() {
    let host = Host::ready();
    let file = "/etc/job-broker/config.toml";
    let sound = fs::read_to_string(file).unwrap();
    fs::write(file, format!("{sound}\nx = y\n")).unwrap();
    let refused = std::process::Command::new("systemctl").args(["reload", "job-broker"]).status();
    assert!(!refused.unwrap().success(), "systemctl reload says that the file has a fault");
    sh("systemctl kill -s HUP --kill-whom=main job-broker");
    until("the status says so", || {
        host.property("StatusText").contains("RELOAD FAILED").then_some(())
    });
    fs::write(file, sound.replace("#pids = 512", "pids = 77")).unwrap();
    sh("systemctl reload job-broker");
    until("the status says so", || {
        (!host.property("StatusText").contains("RELOAD FAILED")).then_some(())
    });
    let mut client = host.client().await;
    let id = api::start(&mut client, api::script("sleep 60")).await.id;
    let max = format!("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/{id}/work/pids.max");
    assert_eq!(fs::read_to_string(max).unwrap().trim(), "77");
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    fs::write(file, sound).unwrap();
    sh("systemctl reload job-broker");
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn without_certificates_the_service_says_what_to_run_and_does_not_try_again() {
    let host = Host::ready();
    sh("mv /etc/job-broker/pki /etc/job-broker/away; systemctl restart job-broker || true");
    let status = host.property("StatusText");
    let state = host.property("ActiveState");
    sh("mv /etc/job-broker/away /etc/job-broker/pki");
    assert!(status.contains("job-certs init"), "{status}");
    assert_eq!(state, "failed");
    Host::ready().client().await;
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn removal_ends_jobs_in_good_order_and_keeps_data_which_purging_removes() {
    let host = Host::ready();
    let jobs = host.start_oracles(2, 60).await;
    sh("dpkg --remove job-broker");
    assert!(!Path::new("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope").exists());
    install(&packages().0);
    let mut client = host.client().await;
    for id in jobs.ids() {
        let job = api::job(&mut client, id).await;
        assert_eq!(job.cause(), Cause::Stopped, "{job:?}");
        assert!(was_ended_by_the_system(&job), "{job:?}");
    }
    sh("dpkg --purge job-broker");
    for path in ["/var/lib/job-broker", "/etc/job-broker", "/run/job-broker"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    Host::ready().client().await;
}
