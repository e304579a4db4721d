//! Jobs that the kernel kills for lack of memory. They need the memory controller of cgroup v2.

use job_shim::wire::{Cause, Source, ToShim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::broker::{Shim, script};
use crate::host::Host;

/// tail(1) keeps all of a last line that never ends.
const TAKES_TOO_MUCH: &str = "head -c 500000000 /dev/zero | tail";

/// A shell whose children take more than there is once it gets a line.
fn greedy() -> Option<Shim> {
    let host = Host::new()?.memory("32M")?;
    let mut launch = script(&format!("echo up; read x; {TAKES_TOO_MUCH}; exit 3"));
    launch.stdin = true;
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.stdout == 3);
    Some(shim)
}

#[test]
fn a_job_that_the_kernel_kills_for_memory_is_out_of_memory() {
    let Some(mut shim) = greedy() else { return };
    shim.input(0, b"\n", false);
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.source), (Cause::OutOfMemory, Source::Oom));
    assert_eq!(exited.wait_status, libc::SIGKILL, "the main process dies with its child");
    shim.ended();
    assert!(shim.host.is_empty());
}

#[test]
fn a_stop_after_the_kernels_kill_does_not_hide_it() {
    let Some(host) = Host::new().and_then(|host| host.memory("32M")) else { return };
    let text = format!("trap '{TAKES_TOO_MUCH}' USR1; echo up; while :; do sleep 60 & wait; done");
    let mut shim = Shim::spawn(host, &script(&text));
    shim.hello();
    shim.wire.send(&ToShim::Go);
    let main = Pid::from_raw(shim.started().pid.try_into().unwrap());
    shim.watch(|p| p.stdout == 3);
    // First the shim, so that it does not leave with the job.
    shim.kill(Signal::SIGSTOP);
    kill(main, Signal::SIGUSR1).unwrap();
    shim.host.await_number("memory.events", "oom_kill", 1);
    shim.stop(0);
    shim.signal(libc::SIGKILL);
    shim.kill(Signal::SIGCONT);
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.source), (Cause::OutOfMemory, Source::Oom));
}

#[test]
fn a_stop_before_the_kernels_kill_stays_the_cause() {
    let host = Host::new().and_then(|host| host.memory("32M"));
    let Some(host) = host else { return };
    let text = format!("trap '{TAKES_TOO_MUCH}' TERM; echo up; while :; do sleep 60 & wait; done");
    let mut shim = Shim::start(host, &script(&text));
    shim.watch(|p| p.stdout == 3);
    shim.stop(60_000);
    let exited = shim.exited();
    assert_eq!((exited.cause, exited.wait_status), (Cause::Stopped, libc::SIGKILL));
    assert!(shim.host.number("memory.events", "oom_kill") > 0);
}

#[test]
fn a_kill_without_lack_of_memory_is_somebodys() {
    let Some(mut shim) = greedy() else { return };
    shim.signal(libc::SIGKILL);
    assert_eq!(shim.exited().cause, Cause::Signaled);
}
