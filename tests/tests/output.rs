//! Output and input: complete, in order, at any offset, at any reader's speed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use job_api::client::Client;
use job_api::deflate::inflated;
use job_api::v1::{
    Cause, Compression, OutputPolicy, OutputStream, StartJobRequest, StreamOutputRequest,
    WriteInputRequest,
};
use job_tests::metrics::{ON_A_SOCKET, scrape};
use job_tests::oracle::{self, Sha256};
use job_tests::{Env, api, scaled, until};
use tokio_stream::{StreamExt, iter};

const MIB: u64 = 1 << 20;

#[test]
fn both_streams_come_whole_and_in_order() {
    let env = Env::start();
    let lines = scaled(20_000, 2_000);
    let ran = env.jobctl("user-a", &["run", "--", &env.oracle(), "lines", &lines.to_string()]);
    assert_eq!(ran.code(), 0, "{}", ran.status);
    oracle::assert_whole(&ran.stdout, &ran.stderr, lines);
}

/// A gibibyte, while the broker is killed three times on the way: nothing is lost or doubled.
#[test]
fn a_long_output_comes_whole_while_the_broker_is_killed_three_times() {
    let mut env = Env::start();
    let bytes = scaled(1024, 64) * MIB;
    let oracle = env.oracle();
    let id =
        env.jobctl("user-a", &["start", "--", &oracle, "random", &bytes.to_string(), "7"]).id();
    let mut command = env.command("user-a");
    command.args(["logs", "-f", &id]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut logs = command.spawn().unwrap();
    let mut stdout = logs.stdout.take().unwrap();

    let (mut hash, mut count, mut killed) = (Sha256::default(), 0, 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        let n = stdout.read(&mut piece).unwrap();
        if n == 0 {
            break;
        }
        hash.update(&piece[..n]);
        count += n as u64;
        if killed < 3 && count > (killed + 1) * bytes / 4 {
            env.restart_broker();
            killed += 1;
        }
    }
    let ended = logs.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert_eq!((killed, count), (3, bytes), "{said}");
    assert_eq!(hash.finish(), oracle::random_sha256(bytes, 7), "{said}");
    assert!(said.contains("going on at stdout byte"), "the client says so: {said}");
}

/// FAULTS 29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_of_one_job_see_identical_bytes_and_memory_stays_flat() {
    let env = Env::start();
    let (readers, lines) = scaled((1000, 1500), (100, 500));
    let mut client = env.client("user-a").await;
    let gate = env.gate();
    let text = format!("{}; exec {} lines {lines}", gate.wait(), env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    let before = peak(env.broker().pid());

    // A hundred to a connection: the broker limits streams, and clients share connections.
    let (mut tasks, mut opened) = (Vec::new(), Vec::new());
    for _ in 0..readers / 100 {
        let client = env.client("user-a").await;
        for _ in 0..100 {
            let (mut client, id) = (client.clone(), id.clone());
            let (ready, is_open) = tokio::sync::oneshot::channel();
            opened.push(is_open);
            tasks.push(tokio::spawn(async move {
                let request = StreamOutputRequest { id, follow: true, ..Default::default() };
                let stream = client.stream_output(request).await.unwrap().into_inner();
                ready.send(()).unwrap();
                collect(stream).await
            }));
        }
    }
    for is_open in opened {
        is_open.await.unwrap();
    }
    gate.open();
    for task in tasks {
        let (stdout, stderr) = task.await.unwrap();
        oracle::assert_whole(&stdout, &stderr, lines);
    }
    let grown = peak(env.broker().pid()).saturating_sub(before);
    // Flat: so much for a reader, however long the output is. Measured: 22 to 48 MB, and 56 MB for
    // ten times as many lines.
    assert!(grown < 100 << 10, "the broker has grown by {grown} kB");
}

/// FAULTS 29
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_does_not_read_does_not_block_the_job() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let bytes = scaled(128, 16) * MIB;
    let gate = env.gate();
    let text = format!("{}; exec {} random {bytes} 3", gate.wait(), env.oracle());
    let id = api::start(&mut client, api::script(&text)).await.id;
    let request = StreamOutputRequest { id: id.clone(), follow: true, ..Default::default() };
    let mut lazy = env.client("user-a").await;
    let stream = lazy.stream_output(request).await.unwrap().into_inner();
    let before = peak(env.broker().pid());
    gate.open();
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.exit_code, job.stdout_bytes, job.dropped_bytes), (Some(0), bytes, 0));
    let grown = peak(env.broker().pid()).saturating_sub(before);
    assert!(grown < 100 << 10, "the broker has grown by {grown} kB");
    let (stdout, _) = collect(stream).await;
    assert_eq!(oracle::sha256(stdout.as_slice()), oracle::random_sha256(bytes, 3));
}

/// kB that were resident at most so far.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn collect(
    mut stream: tonic::Streaming<job_api::v1::StreamOutputResponse>,
) -> (Vec<u8>, Vec<u8>) {
    use job_api::v1::stream_output_response::Kind;
    let (mut stdout, mut stderr, mut ended) = (Vec::new(), Vec::new(), false);
    while let Some(message) = stream.message().await.unwrap() {
        match message.kind.unwrap() {
            Kind::Chunk(chunk) => {
                let to =
                    if chunk.stream() == OutputStream::Err { &mut stderr } else { &mut stdout };
                assert_eq!(chunk.offset, to.len() as u64);
                to.extend_from_slice(&chunk.data);
            }
            Kind::Trailer(_) => ended = true,
            Kind::Started(_) => panic!("not of this call"),
        }
    }
    assert!(ended, "a stream that is whole has a trailer");
    (stdout, stderr)
}

/// Bytes of output that clients have got, less those that are known, after a call that had more. Not at once: an answer of
/// the metrics is good for a moment.
fn sent_besides(env: &Env, known: usize) -> usize {
    let so_far = || scrape(env).value("job_broker_stream_bytes_total{direction=\"out\"}") as usize;
    until("more is counted", || so_far().checked_sub(known).filter(|more| *more > 0))
}

/// What the broker sends, and what it stands for.
async fn sent(client: &mut Client, request: StreamOutputRequest) -> (usize, Vec<u8>) {
    use job_api::v1::stream_output_response::Kind;
    let mut stream = client.stream_output(request).await.unwrap().into_inner();
    let (mut length, mut whole) = (0, Vec::new());
    while let Some(message) = stream.message().await.unwrap() {
        let Some(Kind::Chunk(chunk)) = message.kind else { continue };
        length += chunk.data.len();
        match chunk.compression() {
            Compression::Unspecified => whole.extend_from_slice(&chunk.data),
            Compression::Deflate => whole.extend(inflated(&chunk.data).unwrap()),
        }
    }
    (length, whole)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_is_compressed_for_whoever_asks_and_where_that_makes_it_smaller() {
    let env = Env::builder().sections(ON_A_SOCKET).start();
    let mut client = env.client("user-a").await;
    let oracle = env.oracle();
    let (lines, noise) = (["lines", "5000"], ["random", "3000000", "3"]);
    let mut known = 0;
    for (words, becomes_smaller) in [(&lines[..], true), (&noise, false)] {
        let argv = [&[&*oracle], words].concat();
        let id = api::start(&mut client, api::spec(&argv)).await.id;
        api::ended(&mut client, &id).await;
        let plain = StreamOutputRequest {
            id: id.clone(),
            stream: OutputStream::Out.into(),
            ..Default::default()
        };
        let (length, whole) = sent(&mut client, plain.clone()).await;
        assert_eq!(length, whole.len(), "nobody has asked");
        let mut asked = plain;
        asked.set_compression(Compression::Deflate);
        let (less, same) = sent(&mut client, asked.clone()).await;
        assert!(same == whole && (less < length / 2) == becomes_smaller, "{less} of {length}");
        let from = StreamOutputRequest { stdout_offset: 777, ..asked };
        let (rest, same) = sent(&mut client, from).await;
        assert!(same == whole[777..], "{words:?}");
        known += length + less + rest;
        let logs = env.jobctl("user-a", &["logs", "-C", "--stream", "stdout", &id]);
        assert!(logs.expect(0).stdout == whole, "{words:?}");
        let by_logs = sent_besides(&env, known);
        assert_eq!(by_logs < length / 2, becomes_smaller, "{words:?}: {by_logs} of {length}");
        known += by_logs;
    }
    let script = "head -c 1000000 /dev/zero | tr '\\0' x"; // in writes of some kilobytes
    let ran = env.jobctl("user-a", &["run", "-C", "--", "sh", "-c", script]);
    assert!(ran.expect(0).stdout == [b'x'; 1_000_000]);
    let by_run = sent_besides(&env, known);
    assert!(by_run < 500_000, "{by_run}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_is_read_from_any_offset_by_stream_and_by_last_lines() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::spec(&[&env.oracle(), "lines", "300"])).await.id;
    api::ended(&mut client, &id).await;
    let whole = api::output(&mut client, &id).await;
    oracle::assert_whole(&whole.stdout, &whole.stderr, 300);
    let request = StreamOutputRequest { id, ..Default::default() };

    for (out, err) in [(0, 1), (1, 0), (777, 12_345), (whole.stdout.len(), whole.stderr.len())] {
        let (stdout_offset, stderr_offset) = (out as u64, err as u64);
        let from = StreamOutputRequest { stdout_offset, stderr_offset, ..request.clone() };
        let part = api::read(&mut client, from).await;
        assert!(part.stdout == whole.stdout[out..], "stdout from {out}");
        assert!(part.stderr == whole.stderr[err..], "stderr from {err}");
    }
    let only = StreamOutputRequest { stream: OutputStream::Err.into(), ..request.clone() };
    let part = api::read(&mut client, only.clone()).await;
    assert_eq!((part.stdout.len(), part.stderr == whole.stderr), (0, true));
    let last = StreamOutputRequest { tail_lines: Some(2), ..only };
    let part = api::read(&mut client, last).await;
    let expected = oracle::line('e', 298) + &oracle::line('e', 299);
    assert_eq!(String::from_utf8_lossy(&part.stderr), expected);
    let both = StreamOutputRequest { tail_lines: Some(3), ..request };
    let part = api::read(&mut client, both).await;
    let lines = [part.stdout, part.stderr].concat().iter().filter(|b| **b == b'\n').count();
    assert_eq!(lines, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_past_the_limit_is_dropped_and_counted() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&[&env.oracle(), "random", "1000000", "5"]);
    spec.output_limit_bytes = 100_000;
    let id = api::start(&mut client, spec.clone()).await.id;
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.job.exit_code, output.job.dropped_bytes), (Some(0), 900_000));
    assert_eq!(oracle::sha256(output.stdout.as_slice()), {
        let mut all = vec![0; 1_000_000];
        oracle::Random::new(5).read_exact(&mut all).unwrap();
        oracle::sha256(&all[..100_000])
    });
    spec.set_output_policy(OutputPolicy::Kill);
    let id = api::start(&mut client, spec).await.id;
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.job.cause(), output.stdout.len()), (Cause::OutputLimit, 100_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_past_a_blocking_limit_waits_and_says_so() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let mut spec = api::spec(&[&env.oracle(), "random", "9000000", "5"]);
    spec.output_limit_bytes = 100_000;
    spec.set_output_policy(OutputPolicy::Block);
    let id = api::start(&mut client, spec).await.id;
    let request = StreamOutputRequest { id: id.clone(), ..Default::default() };
    // Followed until all that is allowed has come.
    let mut stream = client
        .stream_output(StreamOutputRequest { follow: true, ..request.clone() })
        .await
        .unwrap()
        .into_inner();
    let mut count = 0;
    while count < 100_000 {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(job_api::v1::stream_output_response::Kind::Chunk(chunk)) = message.kind {
            count += chunk.data.len();
        }
    }
    assert_eq!(count, 100_000);
    let mut warned = Vec::new();
    while warned.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        warned = api::job(&mut client, &id).await.warnings;
    }
    assert!(warned[0].contains("output limit"), "{warned:?}");
    api::stop(&mut client, &id, Duration::ZERO).await;
    let job = api::ended(&mut client, &id).await;
    assert_eq!((job.cause(), job.stdout_bytes), (Cause::Stopped, 100_000));
}

#[test]
fn standard_input_passes_on_as_with_ssh() {
    let env = Env::start();
    let bytes = scaled(32, 4) * MIB;
    let mut running = env.pipe_jobctl("user-a", &["run", "-i", "--", "sha256sum"]);
    let mut stdin = running.stdin();
    std::io::copy(&mut oracle::Random::new(11).take(bytes), &mut stdin).unwrap();
    drop(stdin);
    let ran = running.finish();
    ran.expect(0);
    assert_eq!(ran.out().split(' ').next(), Some(hex(&oracle::random_sha256(bytes, 11)).as_str()));
}

#[test]
fn without_i_standard_input_is_empty() {
    let env = Env::start();
    let mut running = env.pipe_jobctl("user-a", &["run", "--", "wc", "-c"]);
    let mut stdin = running.stdin();
    let _ = stdin.write_all(b"not for you"); // nobody needs to read it
    let ran = running.finish();
    assert_eq!(ran.out().trim(), "0");
}

/// Input is not lost or doubled when the broker is killed in the middle of it.
#[test]
fn standard_input_survives_the_end_of_the_broker() {
    let mut env = Env::start();
    let mut running = env.pipe_jobctl("user-a", &["run", "-i", "--", "cat"]);
    let mut stdin = running.stdin();
    let mut expected = Vec::new();
    for n in 0..4 {
        let text: String = (n * 1000..(n + 1) * 1000).map(|n| oracle::line('o', n)).collect();
        stdin.write_all(text.as_bytes()).unwrap();
        expected.extend_from_slice(text.as_bytes());
        running.wait_for_bytes(expected.len() / 2);
        env.restart_broker();
    }
    drop(stdin);
    let ran = running.finish();
    ran.expect(0);
    assert_eq!(oracle::verify('o', &ran.stdout), Ok(4000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn input_is_taken_by_offset_and_acknowledged() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let spec = job_api::v1::JobSpec { stdin: true, ..api::spec(&["cat"]) };
    let request =
        StartJobRequest { spec: Some(spec), request_id: String::new(), ..Default::default() };
    let id = client.start_job(request).await.unwrap().into_inner().job.unwrap().id;
    let piece = |offset, data: &'static [u8], end| WriteInputRequest {
        id: id.clone(),
        offset,
        data: data.into(),
        end,
    };
    // The second repeats what the first has brought; the third overlaps.
    let pieces =
        vec![piece(0, b"hello ", false), piece(0, b"hello ", false), piece(3, b"lo world", false)];
    let acks = client.write_input(iter(pieces)).await.unwrap().into_inner();
    let accepted: Vec<_> = acks.map(|ack| ack.unwrap().accepted).collect().await;
    assert_eq!(accepted, [6, 6, 11]);
    let asks = client.write_input(iter(vec![piece(0, b"", false)])).await.unwrap();
    assert_eq!(asks.into_inner().message().await.unwrap().unwrap().accepted, 11);
    let end = client.write_input(iter(vec![piece(11, b"", true)])).await.unwrap();
    end.into_inner().message().await.unwrap();
    assert_eq!(api::output(&mut client, &id).await.stdout, b"hello world");
}

#[test]
fn a_follower_sees_a_line_when_it_is_written_and_not_at_the_end() {
    let env = Env::start();
    let gate = env.gate();
    let text = format!("printf first; {}; echo last", gate.wait());
    let running = env.spawn_jobctl("user-a", &["run", "--", "sh", "-c", &text]);
    running.wait_for_stdout("first");
    gate.open();
    running.wait_for_stdout("last");
    running.finish().expect(0);
}

#[test]
fn a_reader_that_goes_away_ends_the_job_as_in_a_pipeline() {
    let env = Env::start();
    let mut command = env.command("user-a");
    command.args(["run", "--", "sh", "-c", "while :; do echo y; done"]);
    let mut run = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    run.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(141));
    until("the job has ended", || env.cgroup().jobs().is_empty().then_some(()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
