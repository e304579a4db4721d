//! Ctrl-C and its like, for commands that must clean up behind themselves.
//!
//! [`watch`] takes the signals over. When one comes, the programs in [`Running`] are asked to end, and
//! every [`check`] from then on fails: the command returns early, and what it has made is removed as
//! it goes out of scope.

use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// The signal that came, 0: none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The programs that are to end with us.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Takes SIGINT, SIGTERM and SIGHUP over, from now to the end of the process. By handlers and not by
/// a signal mask, because programs that we start would inherit the mask.
///
/// # Errors
/// A thread or a handler could not be made.
pub(crate) fn watch() -> Result<()> {
    let (ready, is_ready) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let listen = || -> std::io::Result<_> {
                let [int, term, hup] =
                    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                Ok((signal(int)?, signal(term)?, signal(hup)?))
            };
            match listen() {
                Err(error) => drop(ready.send(Err(error))),
                Ok((mut int, mut term, mut hup)) => {
                    drop(ready.send(Ok(())));
                    loop {
                        tokio::select! {
                            _ = int.recv() => caught(Signal::SIGINT),
                            _ = term.recv() => caught(Signal::SIGTERM),
                            _ = hup.recv() => caught(Signal::SIGHUP),
                        }
                    }
                }
            }
        });
    })?;
    is_ready.recv()?.context("cannot handle signals")
}

fn caught(signal: Signal) {
    if SIGNAL.swap(signal as i32, Ordering::SeqCst) == 0 {
        eprintln!("xtask: {signal}: cleaning up");
    }
    for pid in running().iter() {
        // One that has just ended is as good.
        let _ = kill(*pid, Signal::SIGTERM);
    }
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Errors
/// A signal has come.
pub(crate) fn check() -> Result<()> {
    match Signal::try_from(SIGNAL.load(Ordering::SeqCst)) {
        Ok(signal) => bail!("ended by {signal}"),
        Err(_) => Ok(()),
    }
}

/// The exit status that says which signal came: 128 and its number.
pub(crate) fn status() -> Option<u8> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => u8::try_from(128 + signal).ok(),
    }
}

/// A program that is ended by a signal to us, and killed when this goes out of scope.
pub(crate) struct Running {
    pub(crate) child: Child,
    is_reaped: bool,
}

impl Running {
    /// # Errors
    /// As `Command::spawn`; or a signal has come already.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        // Under the lock: the program is in the list before the next signal looks there.
        let mut running = running();
        check()?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        running.push(pid(&child));
        Ok(Self { child, is_reaped: false })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// A signal has come meanwhile.
    pub(crate) fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("cannot wait for a program")?;
        self.is_reaped = true;
        drop(self);
        check()?;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let own = pid(&self.child);
        running().retain(|pid| *pid != own);
        if !self.is_reaped {
            // Both fail only for a program that is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn pid(child: &Child) -> Pid {
    // A pid is a positive i32 by its C type.
    Pid::from_raw(child.id() as i32)
}
