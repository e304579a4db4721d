//! A broker to whom nobody listens, neither whoever reads its log nor the service manager, and one that
//! has very much to say: jobs notice nothing of it, and the log stays short.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use job_tests::{Env, TIMEOUT, api, trials, until};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// In the place of the environment's own, which listens to what its broker says.
struct Broker(Child);

impl Broker {
    fn start(env: &mut Env, prepare: impl FnOnce(&mut Command)) -> Broker {
        env.stop_broker();
        let mut command = Command::new(&env.programs().broker);
        command.arg("--config").arg(env.path("broker.toml")).stdin(Stdio::null());
        prepare(&mut command);
        let broker = Broker(command.spawn().unwrap());
        until("it listens", || TcpStream::connect(env.addr()).ok());
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn assert_serves(env: &Env) {
    let ran = env.jobctl("user-a", &["run", "--", "sh", "-c", "echo out; exit 7"]);
    assert_eq!((ran.code(), ran.out()), (7, "out\n".into()), "{}", ran.err());
}

#[test]
fn a_broker_whose_log_takes_nothing_serves_all_the_same() {
    let mut env = Env::start();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, abandoned) = io::pipe().unwrap();
    drop(reader);
    for log in [Stdio::from(full), Stdio::from(abandoned)] {
        let mut broker = Broker::start(&mut env, |command| _ = command.stderr(log));
        assert_serves(&env);
        assert_eq!(broker.0.try_wait().unwrap(), None, "and it goes on");
        drop(broker);
        env.start_broker();
    }
}

/// A pipe that takes nothing more. The flag is one of the open file, and so the broker's as well.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'.'; 1024]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

/// FAULTS 38.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_log_nobody_reads_answers_as_ever_and_says_later_how_many_lines_are_missing()
{
    let mut env = Env::start();
    let (reader, writer) = full_pipe();
    let _broker = Broker::start(&mut env, |command| {
        command.env("JOB_BROKER_LOG", "trace").stderr(writer); // much more than may wait
    });
    let mut client = env.client("user-a").await;
    let run = async || {
        let began = Instant::now();
        let job = api::start(&mut client, api::spec(&["true"])).await;
        api::ended(&mut client, &job.id).await;
        began.elapsed()
    };
    let took = trials(run, |took| *took < Duration::from_secs(1)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    (0..20).for_each(|_| assert_serves(&env));

    let lines = BufReader::new(reader).lines().map(Result::unwrap);
    let missing = tokio::task::spawn_blocking(move || {
        lines.into_iter().find(|line| line.contains("lines left out here")).unwrap()
    });
    let missing = tokio::time::timeout(TIMEOUT, missing).await.expect("it says so").unwrap();
    assert!(missing.contains("WARN"), "{missing}");
    assert_serves(&env);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_one_short_line_in_the_log_whatever_its_arguments_are() {
    let env = Env::start();
    let mut client = env.client("user-a").await;
    let chosen = "\n<0>kernel panic\r\u{1b}[2J".repeat(5_000);
    for _ in 0..10 {
        let job = api::start(&mut client, api::spec(&["true", &chosen, &chosen, &chosen])).await;
        api::ended(&mut client, &job.id).await;
    }
    until("all ends are told", || (env.log().matches(" ended ").count() == 10).then_some(()));
    let log = env.log();
    assert!(log.len() < 10 * 2048, "{} bytes", log.len());
    let starts = log.lines().filter(|line| line.contains("(315008 bytes, sha256 "));
    assert_eq!(starts.count(), 10, "{log}");
    assert!(log.lines().all(|line| line.len() < 1024 && !line.starts_with('<')), "{log}");
}

#[test]
fn a_flood_of_refused_handshakes_is_some_lines_in_the_log_and_a_count() {
    let env = Env::start();
    for _ in 0..400 {
        let mut stranger = TcpStream::connect(env.addr()).unwrap();
        stranger.write_all(b"this is no TLS record\n").unwrap();
        let _ = io::copy(&mut stranger, &mut io::sink()); // until it is refused
    }
    let counted = || env.log().contains(" more of this kind left out, the last: handshake failed");
    until("what was left out is told", || counted().then_some(()));
    let told = env.log().matches("handshake failed").count();
    assert!((100..350).contains(&told), "{told}");
    assert_serves(&env);
}

#[test]
fn a_broker_serves_while_its_service_manager_is_frozen_and_is_ready_for_it_later() {
    let mut env = Env::start();
    let path = env.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"X", &path).is_ok() {}

    let _broker = Broker::start(&mut env, |command| {
        command.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    });
    assert_serves(&env);
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut heard = [0; 1024];
    loop {
        let length = manager.recv(&mut heard).expect("it says that it is ready");
        if heard[..length].starts_with(b"READY=1\nSTATUS=") {
            return;
        }
    }
}
