//! The program from startup to end, in the order of `README.md`.

mod alarm;
mod buffers;
mod cgroup;
mod child;
mod connection;
mod control;
mod cpu_time;
mod ending;
mod failure;
mod files;
mod input;
mod isolation;
mod job;
mod keeper;
mod orphans;
mod output;
mod pipes;
mod poll;
mod privileges;
mod reserve;
mod rlimits;
mod root;
mod startup;

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use job_shim::crash::{self, Point};
use job_shim::launch::Launch;
use job_shim::wire::{Failed, FromShim, Step};
use nix::sys::stat::{Mode, umask};

use alarm::Alarm;
use buffers::Buffers;
use cgroup::Cgroup;
use child::Workload;
use connection::Connection;
use failure::{At, Failure};
use files::{ExitRecord, Logs};
use isolation::Isolator;
use job::{Job, Prepared};
use orphans::Orphans;
use pipes::Pipes;
use startup::{Inherited, InheritedProgram, InheritedView};

/// Runs one job; or keeps the jobs' scope, if started as that.
pub(crate) fn run() -> ExitCode {
    if keeper::is_wanted() {
        let Err(error) = keeper::keep();
        eprintln!("job-keeper: {error}");
        return ExitCode::FAILURE;
    }
    let Ok(Inherited { control, state, work, listener, launch, program, view }) = Inherited::take()
    else {
        eprintln!("job-shim: not to be run by hand: job-broker starts one for each job");
        return ExitCode::from(2);
    };
    let mut broker = Connection::new(control);
    let (launch, logs, exit) = match open(launch, state) {
        Ok(opened) => opened,
        Err(failure) => return give_up(failure, &mut broker, None),
    };
    // The root stays open, and locked, until this process ends.
    let (ready, _root) = match prepare(&launch, work, listener, (program, view)) {
        Ok(ready) => ready,
        Err(failure) => return give_up(failure, &mut broker, Some(&exit)),
    };
    let job = Job::new(&launch, broker, logs, ready);
    drop(launch); // its environment is not to stay resident
    job.run(&exit)
}

/// Steps 1 to 3.
fn open(memory: OwnedFd, state: OwnedFd) -> Result<(Launch, Logs, ExitRecord), Failure> {
    let launch = startup::read_launch(memory)?;
    arm(&launch);
    crash::at(Point::LaunchRead);
    startup::never_kill_for_memory()?;
    umask(Mode::from_bits_truncate(0o077));
    let logs = Logs::create(&state)?;
    crash::at(Point::LogsMade);
    let exit = ExitRecord::create(&state, launch.boot_id)?;
    crash::at(Point::ExitMade);
    Ok((launch, logs, exit))
}

/// Arms a crash point from the job's environment: a shim has none of its own.
fn arm(launch: &Launch) {
    let entries = launch.env.iter().filter_map(|entry| std::str::from_utf8(entry).ok());
    entries
        .filter_map(|entry| entry.split_once('='))
        .for_each(|(name, value)| crash::arm(name, value));
}

/// Steps 4 to 9.
fn prepare(
    launch: &Launch,
    work: OwnedFd,
    listener: OwnedFd,
    (program, view): (InheritedProgram, InheritedView),
) -> Result<(Prepared, Option<OwnedFd>), Failure> {
    let cgroup = Cgroup::open(&work)?;
    let (pipes, ends) = Pipes::make(launch)?;
    let alarm = Alarm::new().at(Step::MakePipes)?;
    let buffers = Buffers::new().at(Step::MakePipes)?;
    // Before the clone: once for both. What is held stays held until the change of uid.
    privileges::empty_bounding_set().at(Step::Capabilities)?;
    let isolator = |isolation| Isolator::new(isolation, launch.root, view);
    let isolation = launch.isolation.clone().map(isolator).transpose()?;
    let root = isolation.as_ref().map(Isolator::root_to_hold).transpose()?.flatten();
    let orphans = Orphans::of(launch)?;
    let workload = Workload::new(launch, program.checked(launch.program)?, isolation)?;
    let child = workload.clone_into(work.as_fd(), &ends)?;
    crash::at(Point::ChildCloned);
    drop((ends, work, workload)); // the workload's ends of the pipes, and its program, are its own now
    match privileges::become_shim(launch).and_then(|()| control::start_listening(listener)) {
        Ok(listener) => {
            crash::at(Point::Listening);
            let ready = Prepared { cgroup, pipes, child, orphans, listener, alarm, buffers };
            Ok((ready, root))
        }
        Err(failure) => {
            child.abandon(&cgroup);
            Err(failure)
        }
    }
}

/// Records and reports that the program never ran.
fn give_up(failure: Failure, broker: &mut Connection, exit: Option<&ExitRecord>) -> ExitCode {
    let failed = Failed { step: failure.step, errno: failure.errno as i32 };
    if let Some(exit) = exit {
        exit.never_ran(failed);
    }
    // A broker that is gone finds it in the record.
    let _ = broker.send(&FromShim::Failed(failed));
    broker.linger();
    ExitCode::FAILURE
}
