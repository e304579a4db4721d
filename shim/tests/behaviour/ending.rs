//! How jobs end.

use std::fs::File;
use std::time::Instant;

use job_shim::record::Outcome;
use job_shim::wire::{Cause, Limits, Source, ToShim};

use crate::broker::{Shim, script};
use crate::host::Host;

#[test]
fn a_deadline_passes_without_a_broker() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("trap '' TERM; echo up; while :; do sleep 60; done");
    launch.stop_timeout_ms = 100;
    let began = Instant::now();
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.stdout == 3);
    let soon = began.elapsed().as_millis() as u64 + 200;
    shim.limit(Limits { time_ms: Some(soon), ..Limits::default() });
    shim.wire.hang_up();
    let file = shim.exit_file();
    let Some(Outcome::Exited(exited)) = file.outcome else { panic!("{file:?}") };
    assert_eq!((exited.cause, exited.source), (Cause::TimedOut, Source::Timeout));
    assert_eq!(exited.wait_status, libc::SIGKILL);
    assert!(file.ended.is_some() && shim.host.is_empty());
}

#[test]
fn a_stop_asks_first_and_names_who_asked() {
    let Some(host) = Host::new() else { return };
    let text = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 60 & wait; done";
    let mut shim = Shim::start(host, &script(text));
    shim.watch(|p| p.stdout == 3);
    shim.stop(60_000);
    let exited = shim.exited();
    assert_eq!(exited.wait_status, 3 << 8);
    assert_eq!(
        (exited.cause, exited.source, exited.by.as_str()),
        (Cause::Stopped, Source::User, "ann")
    );
    shim.ended();
    assert_eq!(shim.stdout(), "up\nbye\n");
}

#[test]
fn a_process_that_ignores_the_stop_is_killed_after_the_grace() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("trap '' TERM; echo up; while :; do sleep 60; done"));
    shim.watch(|p| p.stdout == 3);
    shim.stop(60_000);
    shim.stop(50);
    assert_eq!(shim.exited().wait_status, libc::SIGKILL);
    shim.ended();
}

#[test]
fn a_stopped_process_acts_on_a_stop() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("echo up; kill -STOP $$; sleep 60"));
    shim.watch(|p| p.stdout == 3);
    shim.stop(60_000);
    assert_eq!(shim.exited().wait_status, libc::SIGTERM);
}

#[test]
fn a_grandchild_in_its_own_session_is_killed_by_stop() {
    let Some(host) = Host::new() else { return };
    let text = "setsid sh -c \"trap '' TERM; echo up; while :; do sleep 60; done\" & wait";
    let mut shim = Shim::start(host, &script(text));
    shim.watch(|p| p.stdout == 3);
    shim.stop(0);
    shim.ended();
    assert!(shim.host.is_empty());
}

#[test]
fn a_grandchild_that_holds_stdout_does_not_hang_the_end() {
    let Some(host) = Host::new() else { return };
    let text = "setsid sh -c 'while :; do echo late; sleep 60; done' & read x; exit 3";
    let mut launch = script(text);
    launch.stdin = true;
    launch.leftover_grace_ms = 60_000;
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.stdout == 5);
    shim.input(0, b"\n", false);
    assert_eq!(shim.exited().wait_status, 3 << 8);
    assert!(!shim.host.is_empty(), "the grace is long");
    shim.stop(0);
    shim.ended();
    assert!(shim.host.is_empty());
    assert_eq!(shim.stdout(), "late\n");
}

#[test]
fn leftovers_are_killed_after_their_grace() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("setsid sleep 1000 & exit 3");
    launch.leftover_grace_ms = 100;
    let mut shim = Shim::start(host, &launch);
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::Exited, 3 << 8));
    shim.ended();
    assert!(shim.host.is_empty());
}

#[test]
fn a_pipe_that_a_stranger_holds_does_not_hang_the_end() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("echo up; exec sleep 60"));
    shim.watch(|p| p.stdout == 3);
    let pid = std::fs::read_to_string(shim.host.work().join("cgroup.procs")).unwrap();
    let path = format!("/proc/{}/fd/1", pid.trim());
    let held = File::options().write(true).open(path).unwrap();
    shim.stop(0);
    shim.ended();
    drop(held);
}

#[test]
fn a_signal_reaches_the_main_process_and_its_sender_is_recorded() {
    let Some(host) = Host::new() else { return };
    let text = "trap 'echo got' USR1; echo up; while :; do sleep 60 & wait; done";
    let mut shim = Shim::start(host, &script(text));
    shim.watch(|p| p.stdout == 3);
    shim.signal(libc::SIGUSR1);
    shim.watch(|p| p.stdout == 7);
    shim.signal(libc::SIGKILL);
    let exited = shim.exited();
    assert_eq!(exited.wait_status, libc::SIGKILL);
    assert_eq!(
        (exited.cause, exited.source, exited.by.as_str()),
        (Cause::Signaled, Source::Admin, "bob")
    );
    shim.ended();
}

#[test]
fn a_chain_of_processes_that_never_rests_is_killed() {
    let Some(host) = Host::new() else { return };
    // Each forks its successor and ends: whoever reads the list of pids comes too late.
    let text = "export s='sh -c \"$s\" & exit 0'; eval \"$s\"";
    let mut shim = Shim::start(host, &script(text));
    assert_eq!(shim.exited().wait_status, 0);
    shim.ended();
    assert!(shim.host.is_empty());
}

#[test]
fn a_stop_right_after_go_ends_the_job() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::spawn(host, &script("exec sleep 60"));
    shim.hello();
    shim.wire.send(&ToShim::Go);
    shim.stop(0);
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::Stopped, libc::SIGKILL));
    shim.ended();
}
