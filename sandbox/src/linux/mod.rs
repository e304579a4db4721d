//! The sandbox where there are cgroups and namespaces. It launches as the broker does, by `job-launch` and its shim, and
//! plays the broker's part for one command at a time; limits and isolation are not made here.

mod held;
mod inner;
mod place;
mod request;
mod running;
mod session;
mod shim;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use job_launch::errors::SpawnError;
use job_launch::handshake::Shim;
use job_launch::host;
use job_launch::model::spec::{JobRequest, JobSpec};
use job_launch::model::usage;
use job_launch::sync::lock;
use job_shim::index::Stream;
use job_shim::wire::{Cause, Source, Step};
use nix::errno::Errno;
use nix::unistd::geteuid;
use tokio::runtime::{self, Handle};
use tokio::task::spawn_blocking;

use crate::builder::{Builder, Streams};
use crate::error::{Error, Refusal};
use crate::outcome::{Outcome, Usage};
use inner::Inner;
use running::{Launched, Running};
use session::End;

/// A place to run commands in, with everything that was asked for found to be enforceable. What runs in it ends with it,
/// and with this process.
#[derive(Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
    request: JobRequest,
    /// Until the one run that uses them.
    streams: Option<Mutex<Option<Streams>>>,
}

impl Builder {
    /// Opens the sandbox: for any number of runs, at once or one after the other; with streams of the caller's for one.
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Error::Refused`] names everything that cannot be had here, with the reason; or [`Error::Setup`].
    pub fn build(mut self) -> Result<Sandbox, Error> {
        let accounts = request::accounts(&self)?;
        let not_utf8 =
            |field: &&'static str| Refusal { field, reason: "a path is not UTF-8".into() };
        let mut refusals: Vec<_> = self.unreadable.iter().map(not_utf8).collect();
        if !geteuid().is_root() {
            refusals.extend(request::only_for_root(&self, &accounts.command));
        }
        if !refusals.is_empty() {
            return Err(Error::Refused(refusals));
        }
        let rules = request::rules(&self);
        let defaults = request::defaults(rules, &accounts.command, self.grace);
        let request = request::request(&self);
        let spec = JobSpec::check(with_command(&request, vec!["true".into()]), &defaults);
        let spec = spec.map_err(request::refused)?;
        let program = shim::open(&self)?;
        let inner = Inner::open(&self, program, accounts, defaults)?;
        inner.check(&spec)?;
        let streams = std::mem::take(&mut self.streams);
        let streams = streams.are_any().then(|| Mutex::new(Some(streams)));
        Ok(Sandbox { inner: Arc::new(inner), request, streams })
    }
}

fn with_command(request: &JobRequest, argv: Vec<String>) -> JobRequest {
    JobRequest { argv, ..request.clone() }
}

impl Sandbox {
    /// Asks for one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs a command to its end: the program, looked up in `PATH` of its environment, and its arguments. No shell. If
    /// this is dropped before it is ready, the command and all its processes are killed.
    ///
    /// # Errors
    /// [`Error`]: it was not run, or was killed. How it ended by itself, or by a limit, is an [`Outcome`].
    pub async fn run<I>(&self, command: I) -> Result<Outcome, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let argv = command.into_iter().map(Into::into).collect();
        let request = with_command(&self.request, argv);
        let spec = JobSpec::check(request, &self.inner.defaults).map_err(request::refused)?;
        let streams = self.take_streams()?;
        let inner = Arc::clone(&self.inner);
        let launch = move || {
            let launched = Running::launch(&inner, &spec);
            launched.map_err(|error| not_started(error, &spec)).map(|launched| (launched, spec))
        };
        let turn = self.inner.launches.acquire().await; // never closed
        let (launched, spec) = spawn_blocking(launch).await.map_err(panicked)??;
        drop(turn);
        finish(launched, &spec, streams, &self.inner.boot_id).await
    }

    /// As [`Sandbox::run`], for a program without a runtime.
    ///
    /// # Errors
    /// As [`Sandbox::run`]; `Refused` within a runtime, whose thread this would block.
    pub fn run_blocking<I>(&self, command: I) -> Result<Outcome, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        if Handle::try_current().is_ok() {
            let reason = "would block a thread of this program's runtime; await `run` there";
            return Err(Error::refused("run_blocking", reason));
        }
        let made = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = made.map_err(|source| Error::Setup { step: "make a runtime", source })?;
        runtime.block_on(self.run(command))
    }

    fn take_streams(&self) -> Result<Streams, Error> {
        let Some(streams) = &self.streams else { return Ok(Streams::default()) };
        let used = || {
            let reason = "the streams of this sandbox were used by a run before: build another";
            Error::refused("run", reason)
        };
        lock(streams).take().ok_or_else(used)
    }
}

/// From GO to the outcome.
async fn finish(
    launched: Launched,
    spec: &JobSpec,
    streams: Streams,
    boot_id: &host::BootId,
) -> Result<Outcome, Error> {
    let Launched { running, mut shim, id, nonce, directory } = launched;
    let failed = |error| not_started(error, spec);
    shim.expect_hello(id, nonce).await.map_err(failed)?;
    shim.expect_started().await.map_err(failed)?;
    let is_kept = [streams.stdout.is_none(), streams.stderr.is_none()];
    let Shim { control, reader, pidfd } = shim;
    drop(pidfd); // `running` has one
    let control = (control, reader);
    let end = session::follow(control, streams, &directory, boot_id).await?;
    let collect = move || {
        let outcome = outcome(&end, &running, &directory, is_kept);
        let cleaned = running.clean();
        cleaned.map_err(|source| Error::Setup { step: "end what the command has left", source })?;
        outcome
    };
    spawn_blocking(collect).await.map_err(panicked)?
}

fn outcome(
    end: &End,
    running: &Running,
    directory: &std::path::Path,
    is_kept: [bool; 2],
) -> Result<Outcome, Error> {
    let End { exited, progress, duration } = end;
    let used = running.usage();
    let status = exited.wait_status;
    let lengths = [progress.stdout, progress.stderr];
    let kept = |stream: Stream| match is_kept[stream.index()] {
        true => session::kept(stream, directory, lengths[stream.index()]),
        false => Ok(Vec::new()),
    };
    let is_timeout = exited.cause == Cause::TimedOut;
    let by_kernel = used.memory_oom_kills.is_some_and(|kills| kills > 0);
    Ok(Outcome {
        exit_code: nix::libc::WIFEXITED(status).then(|| nix::libc::WEXITSTATUS(status)),
        signal: nix::libc::WIFSIGNALED(status).then(|| nix::libc::WTERMSIG(status)),
        duration: *duration,
        timed_out: is_timeout && exited.source != Source::CpuTime,
        cpu_time_exceeded: is_timeout && exited.source == Source::CpuTime,
        memory_exceeded: exited.cause == Cause::OutOfMemory || by_kernel,
        stdout: kept(Stream::Stdout)?,
        stderr: kept(Stream::Stderr)?,
        dropped: progress.dropped,
        usage: usage(&used),
    })
}

fn usage(used: &usage::Usage) -> Usage {
    let sum =
        |part: fn(&usage::IoUsage) -> u64| used.has_io.then(|| used.io.iter().map(part).sum());
    Usage {
        cpu_time: used.cpu_usage_usec.map(Duration::from_micros),
        cpu_throttled: used.cpu_throttled_usec.map(Duration::from_micros),
        memory_peak: used.memory_peak_bytes,
        processes_peak: used.pids_peak,
        processes_refused: used.pids_max_events,
        disk_read: sum(|disk| disk.rbytes),
        disk_written: sum(|disk| disk.wbytes),
    }
}

/// A start that failed, in words.
fn not_started(error: SpawnError, spec: &JobSpec) -> Error {
    let (step, errno) = (error.step(), error.errno());
    let why = Errno::from_raw(errno).desc();
    let message = match &error {
        SpawnError::Shim(failed) => match failed.step {
            Step::Exec => {
                format!("cannot execute {:?}: {why}", spec.argv.first().map_or("", |name| name))
            }
            Step::Chdir => format!("cannot enter {:?}: {why}", spec.working_directory),
            Step::ReadLaunch if errno == Errno::EBADMSG as i32 => {
                "job-shim is not of the release of this library".into()
            }
            step => format!("the shim failed at {}: {why}", step.name()),
        },
        other => other.to_string(),
    };
    Error::Start { step, errno, message }
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::Setup { step: "finish a task", source: io::Error::other(error) }
}
