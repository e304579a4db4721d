//! The corpus of the targets, as the real encoders write it: valid bytes, and some that are nearly so.

use std::time::Duration;

use job_corpus::write;

use super::{FILE_LENGTH, RECORD};
use crate::frame;
use crate::index::{Entry, Stream};
use crate::isolation::{Files, Isolation, Mount, Scratch, Source as MountSource};
use crate::launch::{Launch, OutputPolicy, Program, Rlimit};
use crate::record::{self, Outcome};
use crate::wire::{
    Blocked, BrokerHello, Cause, Ended, Exited, Failed, FromShim, Input, InputAck, Limits, Message,
    Probe, Progress, ShimHello, Signal, Source, Started, Step, Stop, ToShim, Watch,
};

fn progress() -> Progress {
    Progress {
        stdout: 5,
        stderr: 1 << 33,
        entries: 2,
        dropped: 300,
        blocked: Some(Blocked::Disk(28)),
    }
}

fn exited() -> Exited {
    Exited {
        wait_status: 7 << 8,
        cause: Cause::Stopped,
        source: Source::Admin,
        by: "root".into(),
        time_ns: 1_785_000_000_000_000_000,
    }
}

fn limits() -> Limits {
    Limits { time_ms: Some(60_000), cpu_time_us: Some(1), cpus_milli: 500, output: Some(1 << 20) }
}

fn from_shim() -> Vec<FromShim> {
    let started = Started { pid: 42, time_ns: 1_785_000_000_000_000_000 };
    let input = InputAck { accepted: 9, closed: true };
    let hello = ShimHello {
        job: [1; 16],
        nonce: [2; 16],
        pid: 300,
        started: Some(started),
        progress: progress(),
        input,
        exited: Some(exited()),
        stopping: true,
        limits: limits(),
    };
    vec![
        FromShim::Hello(Box::new(hello)),
        FromShim::Started(started),
        FromShim::Failed(Failed { step: Step::Exec, errno: 2 }),
        FromShim::Progress(progress()),
        FromShim::InputAck(input),
        FromShim::Exited(exited()),
        FromShim::Ended(Ended { progress: progress() }),
        FromShim::Stopping,
        FromShim::Limits(limits()),
    ]
}

fn to_shim() -> Vec<ToShim> {
    let (source, by) = (Source::User, String::from("ann"));
    vec![
        ToShim::Hello(BrokerHello { nonce: [2; 16], epoch: 7 }),
        ToShim::Go,
        ToShim::Stop(Stop { grace_ms: 10_000, source, by: by.clone() }),
        ToShim::Signal(Signal { number: 1, source, by }),
        ToShim::Watch(Watch { seen: progress() }),
        ToShim::Input(Input { offset: 1, data: b"hello\n".to_vec(), end: true }),
        ToShim::Limits(limits()),
        ToShim::Probe(Probe { nonce: [2; 16] }),
    ]
}

fn launch(program: Option<Program>) -> Launch {
    Launch {
        job: [1; 16],
        nonce: [2; 16],
        boot_id: [3; 16],
        argv: vec![b"make".to_vec(), b"-C".to_vec(), b"/srv".to_vec()],
        env: vec![b"PATH=/usr/bin::/bin".to_vec(), b"LANG=C".to_vec()],
        working_directory: b"/".to_vec(),
        uid: 70_000,
        gid: 70_000,
        groups: vec![4, 300],
        shim_uid: 990,
        shim_gid: 990,
        stdin: true,
        limits: limits(),
        rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: u64::MAX }],
        stop_signal: 15,
        stop_timeout_ms: 10_000,
        leftover_grace_ms: 1_000,
        output_policy: OutputPolicy::Kill,
        program,
        isolation: None,
        root: None,
    }
}

fn isolation() -> Isolation {
    let scratch = Scratch { bytes: 1 << 20, inodes: 1024 };
    let mount = |source| Mount { target: b"/srv".to_vec(), source };
    let mounts = vec![
        mount(MountSource::Inherited { read_only: true, file: false }),
        mount(MountSource::Empty(scratch)),
    ];
    let files =
        Files { read_only: true, scratch: Some(scratch), root: true, devices: true, mounts };
    Isolation { pids: true, hostname: b"h".to_vec(), files: Some(files), ..Isolation::default() }
}

fn frames<M: Message>(messages: &[M], size: u8) -> Vec<u8> {
    let mut bytes = vec![size];
    messages.iter().for_each(|message| frame::write(message, &mut bytes));
    bytes
}

fn entry(time_ns: u64, ends: [u64; 2], stream: Stream) -> [u8; 32] {
    Entry { time_ns, ends, stream }.to_bytes()
}

#[test]
#[ignore = "writes the corpus anew: after a change of the format, to be added to what is there"]
fn write_the_corpus() {
    write("frame", "from-shim", &frames(&from_shim(), 255));
    write("frame", "to-shim", &frames(&to_shim(), 7));
    let mut too_long = frames(&[ToShim::Go], 1);
    too_long[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    write("frame", "claims-too-much", &too_long);
    let mut newer = frames(&[FromShim::Stopping], 3);
    newer[5..9].copy_from_slice(&[2, 0, 180, 0]);
    newer.extend(&frames(&[FromShim::Stopping], 3)[1..]);
    write("frame", "of-a-newer-version", &newer);
    for message in from_shim() {
        let kind = message.kind();
        write(
            "wire",
            &format!("from-shim-{kind}"),
            &[&[kind as u8], &message.payload()[..]].concat(),
        );
    }
    for message in to_shim() {
        let kind = message.kind();
        write(
            "wire",
            &format!("to-shim-{kind}"),
            &[&[kind as u8], &message.payload()[..]].concat(),
        );
    }
    write("launch", "search", &launch(None).to_bytes());
    write("launch", "binary", &launch(Some(Program::Binary)).to_bytes());
    let isolated = Launch { isolation: Some(isolation()), ..launch(Some(Program::Binary)) };
    write("launch", "isolated", &isolated.to_bytes());
    write("launch", "script", &launch(Some(Program::Script)).to_bytes());
    write("launch", "of-another-version", &[9, 0, 1, 1]);
    exits();
    let entries = [
        entry(1, [5, 0], Stream::Stdout),
        entry(2, [5, 1 << 40], Stream::Stderr),
        entry(u64::MAX, [u64::MAX; 2], Stream::Stderr),
    ];
    write("index", "three", &entries.concat());
    write("index", "torn", &entries.concat()[..70]);
    write("index", "zeros", &[0; 64]);
}

fn exits() {
    let boot = [7; 16];
    let ended = record::ended_record(&Ended { progress: progress() }, &boot);
    let ran = Duration::from_nanos(12_000_000_001);
    let outcomes = [
        ("exited", Outcome::Exited(exited())),
        ("failed", Outcome::Failed(Failed { step: Step::Chdir, errno: 13 })),
        ("longest-name", Outcome::Exited(Exited { by: "x".repeat(63), ..exited() })),
    ];
    for (name, outcome) in outcomes {
        let first = record::outcome_record(&outcome, ran, &boot);
        write("exit", name, &[first, ended].concat());
    }
    let first = record::outcome_record(&Outcome::Exited(exited()), ran, &boot);
    write("exit", "running", &[first, [0; RECORD]].concat());
    write("exit", "torn", &[&first[..], &ended[..100]].concat());
    write("exit", "preallocated", &[0; FILE_LENGTH]);
}
