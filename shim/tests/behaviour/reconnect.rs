//! Brokers come and go; input goes on.

use job_shim::record::Outcome;
use job_shim::wire::{BrokerHello, Cause, FromShim, InputAck, Probe, Source, Stop, ToShim};
use nix::sys::signal::Signal;

use crate::broker::{Shim, Wire, script};
use crate::host::Host;

const OURS: BrokerHello = BrokerHello { nonce: [2; 16], epoch: 5 };

fn hello(wire: &mut Wire) -> job_shim::wire::ShimHello {
    match wire.next() {
        Some(FromShim::Hello(hello)) => *hello,
        other => panic!("no Hello but {other:?}"),
    }
}

fn cat() -> Option<Shim> {
    let mut launch = script("cat");
    launch.stdin = true;
    Some(Shim::start(Host::new()?, &launch))
}

#[test]
fn input_is_acknowledged_and_ends() {
    let Some(mut shim) = cat() else { return };
    shim.input(0, b"hello ", false);
    assert_eq!(shim.ack(), InputAck { accepted: 6, closed: false });
    shim.input(0, b"hello world", true);
    assert_eq!(shim.ack(), InputAck { accepted: 11, closed: true });
    assert_eq!(shim.exited().wait_status, 0);
    shim.ended();
    assert_eq!(shim.stdout(), "hello world");
}

#[test]
fn input_that_nobody_reads_yet_waits() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("sleep 0.2; wc -c");
    launch.stdin = true;
    let mut shim = Shim::start(host, &launch);
    let piece = vec![b'x'; job_shim::wire::INPUT_PIECE];
    for n in 0..10 {
        shim.input(n * piece.len() as u64, &piece, n == 9);
    }
    while !shim.ack().closed {}
    shim.ended();
    assert_eq!(shim.stdout().trim(), "614400");
}

#[test]
fn input_without_a_reader_is_closed() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("exec <&-; echo up; exec sleep 60");
    launch.stdin = true;
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p| p.stdout == 3);
    shim.input(0, b"a", false);
    assert_eq!(shim.ack(), InputAck { accepted: 0, closed: true });
}

#[test]
fn a_job_without_input_says_that_it_is_closed() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("exec sleep 60"));
    shim.input(0, b"a", false);
    assert_eq!(shim.ack(), InputAck { accepted: 0, closed: true });
}

#[test]
fn input_with_a_gap_ends_the_connection_and_not_the_job() {
    let Some(mut shim) = cat() else { return };
    shim.input(7, b"gap", false);
    assert!(shim.wire.next().is_none());
    shim.wire = shim.connect(OURS);
    assert_eq!(hello(&mut shim.wire).input, InputAck { accepted: 0, closed: false });
    shim.input(0, b"whole", true);
    shim.ended();
    assert_eq!(shim.stdout(), "whole");
}

#[test]
fn a_second_connection_takes_over() {
    let Some(mut shim) = cat() else { return };
    shim.input(0, b"one ", false);
    shim.watch(|p| p.stdout == 4);
    let mut second = shim.connect(OURS);
    let said = hello(&mut second);
    assert!(said.started.is_some() && said.exited.is_none());
    assert_eq!((said.progress.stdout, said.input.accepted), (4, 4));
    assert!(shim.wire.find_end(), "the first is closed");
    shim.wire = second;
    shim.input(4, b"two", true);
    assert_eq!(shim.exited().wait_status, 0);
    shim.ended();
    assert_eq!(shim.stdout(), "one two");
}

#[test]
fn a_wrong_nonce_is_refused() {
    let Some(mut shim) = cat() else { return };
    let mut stranger = shim.connect(BrokerHello { nonce: [9; 16], epoch: 5 });
    assert!(stranger.next().is_none());
    shim.input(0, b"a", true);
    shim.ended();
}

#[test]
fn an_older_broker_is_refused() {
    let Some(mut shim) = cat() else { return };
    shim.wire = shim.connect(OURS);
    hello(&mut shim.wire);
    let mut older = shim.connect(BrokerHello { epoch: 4, ..OURS });
    assert!(older.next().is_none());
    shim.input(0, b"a", true);
    shim.ended();
}

#[test]
fn connections_that_say_nothing_are_dropped_for_one_that_does() {
    let Some(mut shim) = cat() else { return };
    let mut silent: Vec<Wire> = (0..6).map(|_| shim.connect_silently()).collect();
    shim.wire = shim.connect(OURS);
    hello(&mut shim.wire);
    assert!(silent[0].next().is_none(), "the oldest is dropped");
    shim.input(0, b"a", true);
    shim.ended();
}

#[test]
fn a_garbled_connection_is_closed_and_the_job_goes_on() {
    let Some(mut shim) = cat() else { return };
    shim.wire.send_bytes(b"GET / HTTP/1.1\r\n\r\n");
    assert!(shim.wire.next().is_none());
    shim.wire = shim.connect(OURS);
    hello(&mut shim.wire);
    shim.input(0, b"a", true);
    assert_eq!(shim.exited().wait_status, 0);
}

#[test]
fn a_job_is_never_told_to_run_twice() {
    let Some(mut shim) = cat() else { return };
    shim.wire.send(&ToShim::Go);
    assert!(shim.wire.next().is_none());
}

#[test]
fn a_broker_that_does_not_read_cannot_block_the_job() {
    let Some(mut shim) = cat() else { return };
    // Each is answered, and no answer is read: more than the socket and the queue hold.
    let ask = ToShim::Watch(job_shim::wire::Watch { seen: Default::default() });
    shim.input(0, b"a", false);
    shim.watch(|p| p.stdout == 1);
    shim.wire.send_until_closed(&ask);
    shim.wire = shim.connect(OURS);
    hello(&mut shim.wire);
    shim.input(1, b"b", true);
    shim.ended();
    assert_eq!(shim.stdout(), "ab");
}

#[test]
fn a_new_broker_learns_of_an_exit_that_it_missed() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("setsid sleep 1000 & exit 4");
    launch.leftover_grace_ms = 60_000;
    let mut shim = Shim::start(host, &launch);
    let exited = shim.exited();
    shim.wire = shim.connect(OURS);
    assert_eq!(hello(&mut shim.wire).exited, Some(exited));
    shim.stop(0);
    shim.ended();
}

#[test]
fn what_an_earlier_broker_said_last_is_heard_before_a_later_one() {
    let Some(host) = Host::new() else { return };
    let ignores = "trap '' TERM; echo up; while :; do sleep 60; done"; // and so is there for the later one
    let mut shim = Shim::start(host, &script(ignores));
    let mut later = shim.connect_silently();
    shim.watch(|p| p.stdout == 3); // by its answer the later one is let in
    // Both wait when it wakes up: the earlier one's stop with its end, and the later one's Hello.
    shim.kill(Signal::SIGSTOP);
    shim.stop(600_000);
    later.send(&ToShim::Hello(OURS));
    drop(std::mem::replace(&mut shim.wire, later));
    shim.kill(Signal::SIGCONT);
    assert!(shim.hello().stopping);
    let at_once = Stop { grace_ms: 0, source: Source::User, by: "bob".into() };
    shim.wire.send(&ToShim::Stop(at_once));
    shim.ended();
    match shim.exit_file().outcome {
        Some(Outcome::Exited(exited)) => {
            assert_eq!((exited.cause, exited.by.as_str()), (Cause::Stopped, "ann"));
        }
        other => panic!("no exit but {other:?}"),
    }
}

#[test]
fn a_probe_learns_who_it_is_and_changes_nothing() {
    let Some(mut shim) = cat() else { return };
    let mut probe = shim.connect_silently();
    probe.send(&ToShim::Probe(Probe { nonce: OURS.nonce }));
    let told = hello(&mut probe);
    assert_eq!((told.pid, told.started.is_some()), (shim.process.id(), true));
    assert_eq!(probe.next(), None, "it is told once");
    shim.input(0, b"as before", true); // over the first connection
    shim.ended();
    assert_eq!(shim.stdout(), "as before");
}

#[test]
fn a_probe_with_a_wrong_nonce_learns_nothing() {
    let Some(shim) = cat() else { return };
    let mut probe = shim.connect_silently();
    probe.send(&ToShim::Probe(Probe { nonce: [9; 16] }));
    assert_eq!(probe.next(), None);
}
