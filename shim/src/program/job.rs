//! Steps 9 to 12: the loop, and the end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Duration;

use job_shim::crash::{self, Point};
use job_shim::launch::{Launch, TIED_NAME};
use job_shim::record::Outcome;
use job_shim::wire::{
    Ended, Exited, Failed, FromShim, Limits, ShimHello, Signal, Source, Started, Step, Stop, ToShim,
};

use super::alarm::{Alarm, since_boot, wall_clock_ns};
use super::buffers::Buffers;
use super::cgroup::Cgroup;
use super::child::{Child, GO, fault};
use super::connection::Connection;
use super::control::Control;
use super::ending::{Action, Ending};
use super::failure::Failure;
use super::files::{ExitRecord, Logs};
use super::input::Input;
use super::orphans::Orphans;
use super::output::{Output, OverLimit};
use super::pipes::Pipes;
use super::poll::{Interest, Ready, Slot};
use super::privileges;
use crate::sys;

/// What steps 4 to 9 have made.
pub(crate) struct Prepared {
    pub(crate) cgroup: Cgroup,
    pub(crate) pipes: Pipes,
    pub(crate) child: Child,
    pub(crate) orphans: Option<Orphans>,
    pub(crate) listener: UnixListener,
    pub(crate) alarm: Alarm,
    pub(crate) buffers: Buffers,
}

/// A job whose child waits to be told.
pub(crate) struct Job {
    id: [u8; 16],
    nonce: [u8; 16],
    /// This process, as HELLO says it: found out here, since the filter lets nothing be looked up later.
    pid: u32,
    stop_signal: i32,
    /// The job ends with the connection.
    tied: bool,
    /// The limits in force.
    limits: Limits,
    child: Child,
    orphans: Option<Orphans>,
    cgroup: Cgroup,
    control: Control,
    input: Input,
    output: Output,
    ending: Ending,
    alarm: Alarm,
    buffers: Buffers,
    go: Option<File>,
    /// Open until the exec has succeeded or failed.
    fault: Option<File>,
    started: Option<Started>,
    /// The start by the boot clock: the wall clock may be set meanwhile.
    began: Option<Duration>,
    exited: Option<Exited>,
    /// The main process has ended and nothing is left in the cgroup.
    empty: bool,
}

/// The program could not be run.
struct NeverRan;

/// As the host counts: `/proc` is the host's, whatever pid namespace this is in.
fn own_pid() -> u32 {
    let link = std::fs::read_link("/proc/self").unwrap_or_default();
    link.to_str().and_then(|pid| pid.parse().ok()).unwrap_or(0)
}

/// By the name that this process was started with.
fn is_tied() -> bool {
    std::env::args_os().next().is_some_and(|name| name.as_bytes() == TIED_NAME.to_bytes())
}

impl Job {
    /// Puts the parts together.
    pub(crate) fn new(launch: &Launch, broker: Connection, logs: Logs, parts: Prepared) -> Job {
        let Prepared { cgroup, pipes, child, orphans, listener, alarm, buffers } = parts;
        Job {
            id: launch.job,
            nonce: launch.nonce,
            pid: own_pid(),
            stop_signal: launch.stop_signal,
            tied: is_tied(),
            limits: launch.limits,
            child,
            orphans,
            cgroup,
            control: Control::new(launch, listener, broker),
            input: Input::new(pipes.stdin),
            output: Output::new(launch, pipes.outputs, logs),
            ending: Ending::new(launch),
            alarm,
            buffers,
            go: Some(pipes.go),
            fault: Some(pipes.fault),
            started: None,
            began: None,
            exited: None,
            empty: false,
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self, exit: &ExitRecord) -> ExitCode {
        self.control.send(&self.hello());
        crash::at(Point::HelloSaid);
        // While the broker reads HELLO: it costs the start nothing.
        if let Err(Failure { step, errno }) = privileges::filter_calls() {
            self.go = None; // the child leaves
            self.fail(Failed { step, errno: errno as i32 }, exit);
            return ExitCode::FAILURE;
        }
        let Some(limits) = self.control.await_go(self.limits) else {
            self.go = None;
            self.child.abandon(&self.cgroup);
            crash::at(Point::Abandoned);
            // A later broker must not take this for a lost job.
            exit.never_ran(Failed { step: Step::Abandoned, errno: libc::ECANCELED });
            return ExitCode::SUCCESS;
        };
        crash::at(Point::GoHeard);
        self.limit(limits);
        self.go();
        crash::at(Point::GoPassed);
        self.handle_all(); // what came together with GO makes no descriptor ready any more
        loop {
            if self.tied && self.control.is_alone() {
                self.end_without_broker();
            }
            let ready = self.wait();
            if self.turn(&ready, exit).is_err() {
                return ExitCode::FAILURE;
            }
            if self.empty && self.output.drain(self.buffers.output(), self.ending.is_over()) {
                return self.end(exit);
            }
        }
    }

    fn hello(&self) -> FromShim {
        FromShim::Hello(Box::new(ShimHello {
            job: self.id,
            nonce: self.nonce,
            pid: self.pid,
            started: self.started,
            progress: self.output.progress(),
            input: self.input.ack(),
            exited: self.exited.clone(),
            stopping: self.ending.has_begun(),
            limits: self.limits,
        }))
    }

    /// One byte, and the pipe's end. A child that has failed before does not read it; its pipe
    /// `fault` says so.
    fn go(&mut self) {
        if let Some(mut pipe) = self.go.take() {
            let _ = pipe.write_all(&[GO]);
        }
    }

    fn wait(&mut self) -> Ready {
        self.control.report(self.output.progress());
        if self.buffers.turn(since_boot(), self.output.needs_buffer()) {
            self.control.release();
            self.input.release();
        }
        let orphans = self.orphans.as_ref().and_then(Orphans::next);
        let times = [self.ending.next(), self.output.next(), self.buffers.next(), orphans];
        self.alarm.set(times.into_iter().flatten().min());
        let mut interest = Interest::new();
        interest.add(Slot::Alarm, &self.alarm, libc::POLLIN);
        if let Some(fault) = &self.fault {
            interest.add(Slot::Fault, fault, libc::POLLIN);
        }
        if self.exited.is_none() {
            interest.add(Slot::Main, &self.child.pidfd, libc::POLLIN);
        } else if !self.empty {
            interest.add(Slot::Cgroup, self.cgroup.events(), libc::POLLPRI);
        }
        if let Some(signals) = self.orphans.as_ref().and_then(Orphans::signals) {
            interest.add(Slot::Children, signals, libc::POLLIN);
        }
        self.output.register(&mut interest);
        self.input.register(&mut interest);
        self.control.register(&mut interest);
        interest.wait(-1)
    }

    /// The exec comes first and the exit after the orders, so that what is told is told in order;
    /// that the exec is seen whenever something is that follows from it is [`Slot`]'s doing.
    fn turn(&mut self, ready: &Ready, exit: &ExitRecord) -> Result<(), NeverRan> {
        if ready.has(Slot::Fault) {
            self.exec_done(exit)?;
        }
        if ready.has(Slot::Alarm) {
            self.alarm.expired();
            self.output.resume_reads(since_boot());
            if let Some(orphans) = &mut self.orphans {
                orphans.resume(since_boot());
            }
            if self.output.needs_buffer() {
                self.output.due(since_boot(), self.buffers.output());
            }
            self.keep_time();
        }
        if ready.has_output() && self.output.turn(ready, self.buffers.output()) == Err(OverLimit) {
            self.end_by_limit(Ending::output_limit);
        }
        if ready.has_control() {
            self.listen(ready);
        }
        if ready.has(Slot::Stdin) {
            self.acknowledging(Input::pass_on);
        }
        if ready.has(Slot::Main) {
            self.main_ended(exit);
        }
        if ready.has(Slot::Children) {
            self.reap_orphans();
        }
        if ready.has(Slot::Cgroup) {
            self.check_populated();
        }
        Ok(())
    }

    fn exec_done(&mut self, exit: &ExitRecord) -> Result<(), NeverRan> {
        let Some(mut pipe) = self.fault.take() else { return Ok(()) };
        let mut report = Vec::new();
        // It fails for nothing but a signal, which `read_to_end` begins again after.
        let _ = pipe.read_to_end(&mut report);
        if let Some(failed) = fault(&report) {
            self.fail(failed, exit);
            return Err(NeverRan);
        }
        let started =
            Started { pid: self.child.host_pid.as_raw().unsigned_abs(), time_ns: wall_clock_ns() };
        crash::at(Point::ExecDone);
        self.started = Some(started);
        let now = since_boot();
        self.began = Some(now);
        self.ending.started(now);
        self.control.send(&FromShim::Started(started));
        self.keep_time();
        Ok(())
    }

    /// The child leaves by itself after its report; once it is reaped, the cgroup can be removed.
    fn fail(&mut self, failed: Failed, exit: &ExitRecord) {
        let _ = sys::wait(self.child.pid, true);
        exit.never_ran(failed);
        self.control.send(&FromShim::Failed(failed));
        self.control.linger();
    }

    fn listen(&mut self, ready: &Ready) {
        self.buffers.touch();
        if self.control.turn(ready) {
            self.control.send(&self.hello());
        }
        self.handle_all();
    }

    fn handle_all(&mut self) {
        for mut peer in self.control.probes() {
            let _ = peer.send(&self.hello()); // one short message: a new socket takes it at once
        }
        let mut has_input = false;
        while let Some(message) = self.control.next() {
            has_input |= matches!(message, ToShim::Input(_));
            self.handle(message);
        }
        if has_input {
            self.control.send(&FromShim::InputAck(self.input.ack()));
        }
    }

    fn handle(&mut self, message: ToShim) {
        match message {
            ToShim::Hello(hello) if self.control.recognize(&hello) => {}
            // GO comes once; HELLO and PROBE come on a new connection only.
            ToShim::Go | ToShim::Hello(_) | ToShim::Probe(_) => self.control.hang_up(),
            ToShim::Stop(stop) => self.end_by(|ending, now| ending.stop(now, stop)),
            ToShim::Signal(signal) => self.signal(signal),
            ToShim::Limits(limits) => {
                self.control.send(&FromShim::Limits(limits));
                self.limit(limits);
            }
            ToShim::Watch(watch) => self.control.watch(watch.seen),
            ToShim::Input(piece) => {
                if self.input.take(&piece).is_err() {
                    return self.control.hang_up();
                }
                self.control.reuse(piece.data);
            }
        }
    }

    /// To the group of the main process, which leads a session. Until it is reaped, its number
    /// cannot be somebody else's.
    fn signal(&mut self, signal: Signal) {
        let group = -self.child.pid.as_raw();
        self.check_oom_kills();
        if self.exited.is_none() && sys::kill(group, signal.number).is_ok() {
            self.ending.signaled(signal);
        }
    }

    fn acknowledging(&mut self, change: impl FnOnce(&mut Input)) {
        let before = self.input.ack();
        change(&mut self.input);
        if self.input.ack() != before {
            self.control.send(&FromShim::InputAck(self.input.ack()));
        }
    }

    fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.ending.limit(&limits);
        if self.output.limit(limits.output) == Err(OverLimit) {
            self.end_by_limit(Ending::output_limit);
        }
        self.keep_time();
    }

    fn keep_time(&mut self) {
        self.end_by_limit(Ending::due);
        if self.ending.asks_for_cpu_time(since_boot()) {
            let used = self.cgroup.cpu_time();
            self.end_by_limit(|ending, now| ending.cpu_time(now, used));
        }
    }

    /// Ends the job by one of its limits, and reports STOPPING: the broker did not ask for it.
    fn end_by_limit(&mut self, how: impl FnOnce(&mut Ending, Duration) -> Action) {
        let before = self.ending.has_begun();
        self.end_by(how);
        if !before && self.ending.has_begun() && self.exited.is_none() {
            self.control.send(&FromShim::Stopping);
        }
    }

    fn end_without_broker(&mut self) {
        self.tied = false; // once
        let stop = Stop { grace_ms: 0, source: Source::System, by: String::new() };
        self.end_by(|ending, now| ending.stop(now, stop));
    }

    fn end_by(&mut self, how: impl FnOnce(&mut Ending, Duration) -> Action) {
        self.check_oom_kills();
        match how(&mut self.ending, since_boot()) {
            Action::Nothing => {}
            Action::Ask => {
                self.cgroup.signal_all(self.stop_signal);
                // A frozen process does not act on a signal. It has it before it goes on, and
                // while all are frozen nobody forks away from under the list of them.
                self.cgroup.thaw();
            }
            Action::Kill => self.cgroup.kill(),
        }
    }

    /// The kernel may have been first.
    fn check_oom_kills(&mut self) {
        if self.cgroup.killed_for_memory() {
            self.ending.killed_for_memory();
        }
    }

    fn main_ended(&mut self, exit: &ExitRecord) {
        let Ok(Some(status)) = sys::wait(self.child.pid, false) else { return };
        crash::at(Point::MainEnded);
        self.check_oom_kills();
        let now = since_boot();
        let ran = self.began.map_or(Duration::ZERO, |began| now.saturating_sub(began));
        let exited = self.ending.exited(now, status, wall_clock_ns());
        // In the page cache it survives this process and the broker; the disk comes at the end.
        // The broker gets the same by message, so that a failed write is not lost.
        let _ = exit.outcome(&Outcome::Exited(exited.clone()), ran);
        crash::at(Point::OutcomeRecorded);
        self.exited = Some(exited.clone());
        self.control.send(&FromShim::Exited(exited));
        crash::at(Point::ExitSaid);
        self.check_populated();
        self.end_by(Ending::due);
        self.reap_orphans(); // it may have been in their way
    }

    fn reap_orphans(&mut self) {
        let main = self.exited.is_none().then_some(self.child.pid);
        if let Some(orphans) = &mut self.orphans {
            orphans.reap(since_boot(), main);
        }
    }

    fn check_populated(&mut self) {
        if !self.cgroup.populated() {
            self.empty = true;
            self.ending.emptied();
        }
    }

    /// Step 12. The broker gets ENDED at once; the disk may take its time.
    fn end(mut self, exit: &ExitRecord) -> ExitCode {
        let ended = Ended { progress: self.output.progress() };
        self.control.send(&FromShim::Ended(ended.clone()));
        crash::at(Point::EndSaid);
        self.output.close();
        // The second record says that the logs are durable: without that it is not written.
        let written = self.output.sync();
        crash::at(Point::LogsSynced);
        let durable = written.and_then(|()| exit.ended(&ended));
        crash::at(Point::TotalsRecorded);
        let synced = exit.sync();
        crash::at(Point::ExitSynced);
        self.control.linger();
        if durable.and(synced).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
