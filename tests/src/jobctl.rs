//! A client's process: what it writes is captured while it runs.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::TIMEOUT;

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All of it.
    pub stdout: Vec<u8>,
    /// All of it.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub took: Duration,
}

impl Finished {
    /// Its exit status.
    ///
    /// # Panics
    /// When a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{}: {}", self.status, self.err()))
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The first word of standard output, of a command that has to succeed: a job's id.
    ///
    /// # Panics
    /// When it did not, with what it wrote.
    pub fn id(&self) -> String {
        self.expect(0);
        self.out().trim().to_owned()
    }

    /// Standard output as JSON, of a command that has to succeed.
    ///
    /// # Panics
    /// When it did not, or wrote something else.
    pub fn json(&self) -> serde_json::Value {
        self.expect(0);
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.out()))
    }

    /// Asserts the exit status.
    ///
    /// # Panics
    /// When it was another, with what it wrote.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Finished {
        let (out, err) = (self.out(), self.err());
        assert_eq!(self.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
        self
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    began: Instant,
}

impl Running {
    /// Runs a command, what it writes captured.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn spawn(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().expect("the program can be executed");
        let stdout = Captured::of(child.stdout.take().expect("it is piped"));
        let stderr = Captured::of(child.stderr.take().expect("it is piped"));
        Running { child, stdout, stderr, began }
    }

    /// Answers when standard output contains `text`.
    ///
    /// # Panics
    /// When it ended or [`TIMEOUT`] did before.
    pub fn wait_for_stdout(&self, text: &str) {
        self.wait_for(&self.stdout, text);
    }

    /// Answers when standard error contains `text`.
    ///
    /// # Panics
    /// When it ended or [`TIMEOUT`] did before.
    pub fn wait_for_stderr(&self, text: &str) {
        self.wait_for(&self.stderr, text);
    }

    fn wait_for(&self, stream: &Captured, text: &str) {
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        if !stream.wait(has) {
            let (out, err) = (self.stdout.text(), self.stderr.text());
            panic!("{text:?} did not come\nstdout: {out}\nstderr: {err}");
        }
    }

    /// Answers when this many bytes have come on standard output.
    ///
    /// # Panics
    /// When it ended or [`TIMEOUT`] did before.
    pub fn wait_for_bytes(&self, count: usize) {
        let came = self.stdout.wait(|bytes| bytes.len() >= count);
        assert!(came, "{count} bytes did not come\nstderr: {}", self.stderr.text());
    }

    /// Its standard input.
    ///
    /// # Panics
    /// When it is taken already, or is not a pipe.
    pub fn stdin(&mut self) -> impl Write + use<> {
        self.child.stdin.take().expect("standard input is a pipe, and taken once")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("pids are small");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When somebody else has waited for it.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After [`TIMEOUT`]; it is killed then.
    pub fn finish(self) -> Finished {
        self.finish_within(TIMEOUT)
    }

    /// The same for what may take longer.
    ///
    /// # Panics
    /// After that time; it is killed then.
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        drop(self.child.stdin.take());
        let streams = [&self.stdout, &self.stderr];
        let ended = streams.into_iter().all(|stream| stream.wait_for_end(limit));
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("it is our child");
        let took = self.began.elapsed();
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let said = String::from_utf8_lossy(&stderr);
        assert!(ended, "it had not ended after {limit:?}; stderr: {said}");
        Finished { status, stdout, stderr, took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // of a test that has failed; finish() has reaped it otherwise
        let _ = self.child.wait();
    }
}

/// What has come on a pipe so far.
#[derive(Debug)]
struct Captured {
    shared: Arc<(Mutex<Seen>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

impl Captured {
    fn of(mut pipe: impl Read + Send + 'static) -> Captured {
        let shared = Arc::<(Mutex<Seen>, Condvar)>::default();
        let writer = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            loop {
                let count = pipe.read(&mut piece).unwrap_or(0);
                let mut seen = writer.0.lock().unwrap_or_else(PoisonError::into_inner);
                seen.bytes.extend_from_slice(&piece[..count]);
                seen.ended = count == 0;
                writer.1.notify_all();
                if seen.ended {
                    return;
                }
            }
        });
        Captured { shared, reader: Some(reader) }
    }

    /// Whether `has` came true before the end of the pipe and of [`TIMEOUT`].
    fn wait(&self, has: impl Fn(&[u8]) -> bool) -> bool {
        let seen = self.wait_while(TIMEOUT, |seen| !seen.ended && !has(&seen.bytes));
        seen.is_some_and(|bytes| has(&bytes))
    }

    fn wait_for_end(&self, limit: Duration) -> bool {
        self.wait_while(limit, |seen| !seen.ended).is_some()
    }

    fn wait_while(&self, limit: Duration, waits: impl Fn(&Seen) -> bool) -> Option<Vec<u8>> {
        let seen = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, timeout) = self
            .shared
            .1
            .wait_timeout_while(seen, limit, |seen| waits(seen))
            .unwrap_or_else(PoisonError::into_inner);
        (!timeout.timed_out()).then(|| seen.bytes.clone())
    }

    fn text(&self) -> String {
        let seen = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen.bytes).into_owned()
    }

    fn take(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let mut seen = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut seen.bytes)
    }
}
