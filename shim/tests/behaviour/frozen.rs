//! How frozen jobs end.

use job_shim::wire::{Cause, Limits, Source};

use crate::broker::{Shim, script};
use crate::host::Host;

const SAYS_BYE: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 60 & wait; done";

fn frozen(text: &str, stop_timeout_ms: u64) -> Option<Shim> {
    let mut launch = script(text);
    launch.stop_timeout_ms = stop_timeout_ms;
    let mut shim = Shim::start(Host::new()?, &launch);
    shim.watch(|p| p.stdout == 3);
    shim.host.freeze();
    Some(shim)
}

#[test]
fn a_frozen_job_acts_on_a_stop() {
    let Some(mut shim) = frozen(SAYS_BYE, 60_000) else { return };
    shim.stop(60_000);
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::Stopped, 3 << 8));
    shim.ended();
    assert_eq!(shim.stdout(), "up\nbye\n");
}

#[test]
fn a_frozen_job_acts_on_its_deadline() {
    let Some(mut shim) = frozen(SAYS_BYE, 60_000) else { return };
    shim.limit(Limits { time_ms: Some(1), ..Limits::default() });
    shim.stopping();
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::TimedOut, 3 << 8));
    assert_eq!(exited.source, Source::Timeout);
    shim.ended();
    assert_eq!(shim.stdout(), "up\nbye\n");
}

#[test]
fn a_frozen_job_that_ignores_its_deadline_is_killed() {
    let ignores = "trap '' TERM; echo up; while :; do sleep 60; done";
    let Some(mut shim) = frozen(ignores, 50) else { return };
    shim.limit(Limits { time_ms: Some(1), ..Limits::default() });
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::TimedOut, libc::SIGKILL));
    shim.ended();
    assert!(shim.host.is_empty());
}

#[test]
fn a_frozen_job_is_killed_without_going_on() {
    let Some(mut shim) = frozen(SAYS_BYE, 60_000) else { return };
    shim.stop(0);
    assert_eq!(shim.exited().wait_status, libc::SIGKILL);
    shim.ended();
    assert_eq!(shim.stdout(), "up\n");
}
