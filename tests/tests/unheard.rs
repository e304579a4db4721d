//! A broker to whom nobody listens, neither whoever reads its log nor the service manager: jobs
//! notice nothing of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use job_tests::{Env, PATIENCE, until};

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
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = [0; 1024];
    loop {
        let length = manager.recv(&mut heard).expect("it says that it is ready");
        if heard[..length].starts_with(b"READY=1\nSTATUS=") {
            return;
        }
    }
}
