//! A broker process: started until it is ready, ended in every way.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{TIMEOUT, until};

/// See `job_shim::crash`; for a shim, a variable of its job.
pub const CRASH_AT: &str = "JOB_CRASH_AT";
/// The same: where a thread of the broker waits.
pub const HOLD_AT: &str = "JOB_HOLD_AT";

/// What brokers have written to standard error, all of one environment together.
pub(crate) type Log = Arc<Mutex<String>>;

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    child: Child,
}

impl Broker {
    /// Starts one and answers when it accepts connections. `told` is one of the variables above.
    ///
    /// # Errors
    /// What it wrote, when it ended instead.
    pub(crate) fn start(
        mut command: Command,
        config: &Path,
        told: Option<&(&'static str, String)>,
        log: &Log,
    ) -> Result<Broker, String> {
        command.envs(told.map(|(name, at)| (name, at)));
        command.arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("job-broker can be executed");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        let log = Arc::clone(log);
        thread::spawn(move || keep(stderr, &log, &sender));
        let mut said = String::new();
        loop {
            match lines.recv_timeout(TIMEOUT) {
                // As text and as JSON.
                Ok(line) if line.contains("ready") && line.contains("addr") => {
                    return Ok(Broker { child });
                }
                Ok(line) => said += &line,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let _ = child.wait();
                    return Err(said);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("the broker was not ready after {TIMEOUT:?}; it said:\n{said}");
                }
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids are small")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the broker is our child");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After [`TIMEOUT`]; it is killed then.
    pub fn wait(mut self) -> ExitStatus {
        until("the broker ends", || self.child.try_wait().expect("the broker is our child"))
    }

    /// Whether it is gone; if so, it has been waited for.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the broker is our child").is_some()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn keep(stderr: ChildStderr, log: &Log, lines: &Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let line = line + "\n";
        log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
        let _ = lines.send(line); // nobody listens any more once it is ready
    }
}
