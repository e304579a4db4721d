//! The limits that the shim sees to, and how they are changed: deadline, CPU time, output.

use std::time::{Duration, Instant};

use job_shim::launch::{Launch, OutputPolicy};
use job_shim::wire::{Blocked, BrokerHello, Cause, FromShim, Limits, Source, ToShim};

use crate::broker::{Shim, script};
use crate::host::Host;

const SPINS: &str = "while :; do :; done";

fn time(ms: u64) -> Limits {
    Limits { time_ms: Some(ms), ..Limits::default() }
}

fn cpu_time(ms: u64) -> Limits {
    Limits { cpu_time_us: Some(ms * 1000), cpus_milli: 2000, ..Limits::default() }
}

fn output(bytes: u64) -> Limits {
    Limits { output: Some(bytes), ..Limits::default() }
}

fn limited(text: &str, limits: Limits) -> Launch {
    Launch { limits, ..script(text) }
}

#[test]
fn cpu_time_is_that_of_all_processes_together() {
    let text = format!("({SPINS}) & setsid sh -c '{SPINS}' & wait");
    let mut all_used = Vec::new();
    for _ in 0..3 {
        let Some(host) = Host::new() else { return };
        let mut shim = Shim::start(host, &limited(&text, cpu_time(300)));
        shim.stopping();
        let exited = shim.exited();
        assert_eq!((exited.cause, exited.source), (Cause::TimedOut, Source::CpuTime));
        assert_eq!(exited.wait_status, libc::SIGTERM, "it is asked first");
        shim.ended();
        let used_ms = shim.host.number("cpu.stat", "usage_usec") / 1000;
        assert!(used_ms >= 300, "{used_ms} ms");
        all_used.push(used_ms);
        if used_ms < 2000 {
            return;
        }
    }
    panic!("not one shim came in time, not even nearly: {all_used:?} ms");
}

#[test]
fn a_process_that_ignores_the_end_of_its_cpu_time_is_killed() {
    let Some(host) = Host::new() else { return };
    let mut launch = script(&format!("trap '' TERM; echo up; {SPINS}"));
    launch.stop_timeout_ms = 50;
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.stdout == 3);
    shim.limit(cpu_time(50));
    let exited = shim.exited();
    assert_eq!((exited.source, exited.wait_status), (Source::CpuTime, libc::SIGKILL));
    shim.ended();
}

#[test]
fn a_job_that_rests_uses_no_cpu_time() {
    let mut all_used = Vec::new();
    for _ in 0..3 {
        let Some(host) = Host::new() else { return };
        let mut shim = Shim::start(host, &limited("sleep 1; exit 3", cpu_time(500)));
        let exited = shim.exited();
        if exited.cause == Cause::Exited {
            assert_eq!(exited.wait_status, 3 << 8);
            return;
        }
        assert_eq!((exited.cause, exited.source), (Cause::TimedOut, Source::CpuTime));
        // A virtual host that stands still may book that as time of whoever runs.
        all_used.push(shim.host.number("cpu.stat", "usage_usec") / 1000);
    }
    panic!("not one rested to its end: {all_used:?} ms");
}

#[test]
fn a_cpu_time_that_is_shortened_below_what_is_used_is_over_at_once() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited(SPINS, cpu_time(3_600_000)));
    shim.host.await_number("cpu.stat", "usage_usec", 100_000);
    shim.limit(cpu_time(50));
    shim.stopping();
    assert_eq!(shim.exited().source, Source::CpuTime);
}

#[test]
fn a_deadline_that_is_lengthened_is_not_felt() {
    loop {
        let Some(host) = Host::new() else { return };
        let mut shim = Shim::start(host, &limited("sleep 1.5; exit 3", time(1000)));
        let started = Instant::now();
        shim.limit(time(3_600_000));
        if started.elapsed() > Duration::from_millis(900) {
            continue; // on a slow host it may have come too late
        }
        let exited = shim.exited();
        assert_eq!((exited.cause, exited.wait_status), (Cause::Exited, 3 << 8));
        return;
    }
}

#[test]
fn a_deadline_that_has_passed_already_ends_the_job_at_once() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited("exec sleep 60", time(3_600_000)));
    shim.limit(time(0));
    shim.stopping();
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.source), (Cause::TimedOut, Source::Timeout));
    assert_eq!(exited.wait_status, libc::SIGTERM);
}

#[test]
fn limits_that_come_before_go_hold() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::spawn(host, &limited("exec sleep 60", time(3_600_000)));
    assert_eq!(shim.hello().limits, time(3_600_000));
    shim.limit(time(1));
    shim.wire.send(&ToShim::Go);
    shim.started();
    shim.stopping();
    assert_eq!(shim.exited().cause, Cause::TimedOut);
}

#[test]
fn a_new_broker_learns_the_limits_that_hold() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &limited("exec sleep 60", output(7)));
    let newer = Limits { output: Some(8), ..cpu_time(3_600_000) };
    shim.limit(newer);
    shim.wire = shim.connect(BrokerHello { nonce: [2; 16], epoch: 5 });
    let hello = shim.hello();
    assert_eq!((hello.limits, hello.stopping), (newer, false));
    shim.stop(0);
    shim.ended();
}

#[test]
fn a_stop_that_a_broker_asks_for_is_not_told_as_a_limit() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("exec sleep 60"));
    shim.stop(60_000);
    let next = shim.wire.next();
    assert!(matches!(next, Some(FromShim::Exited(_))), "{next:?}");
}

#[test]
fn a_job_that_blocks_at_its_output_limit_goes_on_when_that_is_raised() {
    let Some(host) = Host::new() else { return };
    let launch = Launch {
        output_policy: OutputPolicy::Block,
        ..limited("seq 1 300000; exit 3", output(1000))
    };
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.blocked == Some(Blocked::Limit));
    shim.limit(output(2000));
    let progress = shim.watch(|p| p.stdout == 2000 && p.blocked.is_some());
    assert_eq!(progress.dropped, 0);
    shim.limit(Limits::default());
    assert_eq!(shim.exited().wait_status, 3 << 8);
    shim.ended();
    assert!(shim.stdout() == (1..=300_000).map(|n| format!("{n}\n")).collect::<String>());
}

#[test]
fn what_is_over_a_lowered_output_limit_is_discarded_or_blocks() {
    for policy in [OutputPolicy::Discard, OutputPolicy::Block] {
        let Some(host) = Host::new() else { return };
        let text = "echo 1; read x; echo 2; exec sleep 60";
        let mut launch = Launch { output_policy: policy, ..script(text) };
        launch.stdin = true;
        let mut shim = Shim::start(host, &launch);
        shim.watch(|p| p.stdout == 2);
        shim.limit(output(1));
        shim.input(0, b"\n", false);
        shim.watch(|p| p.dropped == 2 || p.blocked == Some(Blocked::Limit));
        shim.stop(0);
        assert_eq!(shim.exited().cause, Cause::Stopped);
        shim.ended();
        assert_eq!(shim.stdout(), "1\n");
    }
}

#[test]
fn a_job_that_is_over_a_lowered_output_limit_is_killed() {
    let Some(host) = Host::new() else { return };
    let text = "echo 1; exec sleep 60";
    let mut shim = Shim::start(host, &Launch { output_policy: OutputPolicy::Kill, ..script(text) });
    shim.watch(|p| p.stdout == 2);
    shim.limit(output(1));
    shim.stopping();
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::OutputLimit, libc::SIGKILL));
}
