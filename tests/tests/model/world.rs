//! The state of the model: the disk with its page cache, shims, cgroups, brokers, one client. It must be a plain
//! value: its changes are in `broker.rs`, `shim.rs` and `faults.rs`.

use crate::known::{End, Known, Outcome, Status, Why, exit_file};
use crate::plan::Do;
use job_broker::decisions::State;
use job_shim::record::ExitFile;

/// The state of a file, as far as it matters at a host crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum File {
    Absent,
    /// Name and bytes are only in the page cache.
    Cached,
    /// The bytes are on the disk, and the name is in the page cache.
    Renamed,
    Durable,
    /// The name without its bytes, after a crash.
    Torn,
}

/// `jobs/<uuid>/`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) directory: bool,
    pub(crate) spec: File,
    pub(crate) spawn: File,
    /// The two records of `exit`: preallocated; a torn record counts as absent.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) ended: bool,
    pub(crate) exit_synced: bool,
    pub(crate) logs_synced: bool,
    pub(crate) last: File,
    pub(crate) last_says: Option<Known>,
    /// `stop.json`. Its loss in a host crash has no effect.
    pub(crate) stop: bool,
}

/// The workload's main process, in the cgroup `work`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    None,
    /// Cloned, and waits.
    Waiting,
    /// GO is in its pipe.
    Told,
    Running,
    /// execve(2) failed, and the child reported it.
    Faulted,
    Gone,
}

/// A shim's progress, by the steps of `shim/README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shim {
    None,
    /// Steps 1 to 9.
    Preparing,
    /// Step 10.
    AwaitingGo,
    /// GO is passed on to the child; the pipe `fault` is still open.
    Going,
    /// The program never ran: the shim records it, then reports it.
    Failing(Why),
    Failed(Why),
    /// Step 11.
    Running,
    /// At this step of the plan of its end.
    Ending(usize),
    Dead,
}

/// The last message that a shim has sent; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Said {
    Nothing,
    Started,
    Exited,
    Ended,
}

/// A broker's current step for a job: this entry of a list of its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Task {
    pub(crate) list: &'static [Do],
    pub(crate) at: usize,
}

/// A job in a broker's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Memory {
    pub(crate) known: Known,
    /// The state to write first and to show then.
    pub(crate) verdict: Option<Known>,
    pub(crate) task: Task,
    pub(crate) heard: Said,
    pub(crate) stop_asked: bool,
    pub(crate) stop_call: StopCall,
}

/// The progress of a call to stop a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StopCall {
    None,
    Asked,
    Recorded,
}

/// A job: its state in the kernel, on disk, and in each broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub(crate) boot: u8,
    pub(crate) disk: Disk,
    pub(crate) cgroup: bool,
    pub(crate) socket: bool,
    pub(crate) work: Work,
    pub(crate) shim: Shim,
    pub(crate) said: Said,
    /// The main process's exit, once the shim has reaped it.
    pub(crate) waited: Option<Status>,
    pub(crate) said_failed: Option<Why>,
    /// The epoch of the broker that the shim is connected to.
    pub(crate) link: Option<u8>,
    /// GO is queued in the connection.
    pub(crate) go: bool,
    /// The latest epoch that the shim has accepted.
    pub(crate) shim_epoch: u8,
    /// Brokers that have connected and sent HELLO, by epoch.
    pub(crate) strangers: Vec<u8>,
    /// The shim has received a stop.
    pub(crate) stopping: bool,
    /// A process other than the shim killed the main process.
    pub(crate) killed: bool,
    pub(crate) memory: [Option<Memory>; 2],
    // For the invariants only: no process knows these.
    pub(crate) execs: u8,
    pub(crate) go_said: bool,
    pub(crate) shown: Option<End>,
    pub(crate) quarantined: bool,
    pub(crate) stop_acknowledged: bool,
}

/// A broker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Broker {
    Down,
    /// Has examined `seen` jobs, with this epoch.
    Adopting {
        epoch: u8,
        seen: usize,
    },
    Ready {
        epoch: u8,
    },
}

/// The faults and requests that are still allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) broker_crashes: u8,
    pub(crate) shim_crashes: u8,
    pub(crate) host_crashes: u8,
    pub(crate) second_brokers: u8,
    pub(crate) requests: u8,
    pub(crate) stops: u8,
    pub(crate) failures: u8,
}

/// The client's last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Runs(usize),
    Failed(usize, Why),
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) boot: u8,
    pub(crate) brokers: [Broker; 2],
    /// The broker with the flock on the state directory.
    pub(crate) lock: Option<usize>,
    /// The file `epoch`.
    pub(crate) epoch: u8,
    /// Oldest first; all have the same request id.
    pub(crate) jobs: Vec<Job>,
    /// A pending call: its broker, its job, and whether it created the job.
    pub(crate) call: Option<(usize, usize, bool)>,
    pub(crate) answer: Option<Answer>,
    pub(crate) left: Left,
}

impl File {
    pub(crate) fn is_there(self) -> bool {
        self != File::Absent
    }

    /// The possible states after a host crash.
    pub(crate) fn after_crash(self) -> &'static [File] {
        match self {
            File::Absent => &[File::Absent],
            File::Cached => &[File::Absent, File::Torn, File::Durable],
            File::Renamed => &[File::Absent, File::Durable],
            File::Durable => &[File::Durable],
            File::Torn => &[File::Torn],
        }
    }
}

impl Disk {
    pub(crate) fn exit(&self) -> ExitFile {
        exit_file(self.outcome, self.ended)
    }
}

impl Job {
    pub(crate) fn new(boot: u8, broker: usize, task: Task) -> Job {
        let disk = Disk {
            directory: false,
            spec: File::Absent,
            spawn: File::Absent,
            outcome: None,
            ended: false,
            exit_synced: false,
            logs_synced: false,
            last: File::Absent,
            last_says: None,
            stop: false,
        };
        let mut memory = [None, None];
        memory[broker] = Some(Memory::new(Known::starting(), task));
        Job {
            boot,
            disk,
            cgroup: false,
            socket: false,
            work: Work::None,
            shim: Shim::None,
            said: Said::Nothing,
            waited: None,
            said_failed: None,
            link: None,
            go: false,
            shim_epoch: 0,
            strangers: Vec::new(),
            stopping: false,
            killed: false,
            memory,
            execs: 0,
            go_said: false,
            shown: None,
            quarantined: false,
            stop_acknowledged: false,
        }
    }

    pub(crate) fn shim_lives(&self) -> bool {
        !matches!(self.shim, Shim::None | Shim::Dead)
    }

    pub(crate) fn has_processes(&self) -> bool {
        matches!(self.work, Work::Waiting | Work::Told | Work::Running | Work::Faulted)
    }

    /// cgroup.kill of `work`, by a process other than the shim.
    pub(crate) fn kill_work(&mut self) {
        if self.has_processes() {
            self.killed |= self.work != Work::Faulted;
            self.work = Work::Gone;
        }
    }

    /// The shim's end of the connection is closed; messages in it can still be read.
    pub(crate) fn shim_dies(&mut self) {
        self.shim = Shim::Dead;
        self.strangers.clear();
        if self.work == Work::Waiting {
            self.work = Work::Gone; // end of file on its pipe `go`
        }
    }
}

impl Memory {
    pub(crate) fn new(known: Known, task: Task) -> Memory {
        let (stop_asked, stop_call) = (false, StopCall::None);
        Memory { known, verdict: None, task, heard: Said::Nothing, stop_asked, stop_call }
    }
}

impl Broker {
    pub(crate) fn epoch(self) -> Option<u8> {
        match self {
            Broker::Down => None,
            Broker::Adopting { epoch, .. } | Broker::Ready { epoch } => Some(epoch),
        }
    }
}

impl World {
    pub(crate) fn new(left: Left) -> World {
        World {
            boot: 0,
            brokers: [Broker::Down; 2],
            lock: None,
            epoch: 0,
            jobs: Vec::new(),
            call: None,
            answer: None,
            left,
        }
    }

    /// Whether a broker of this epoch runs.
    pub(crate) fn is_open(&self, epoch: Option<u8>) -> bool {
        epoch.is_some() && self.brokers.iter().any(|broker| broker.epoch() == epoch)
    }

    /// The invariants of every state.
    pub(crate) fn fault(&self) -> Option<String> {
        let execs: u8 = self.jobs.iter().map(|job| job.execs).sum();
        if execs > 1 {
            return Some("one request was run twice".into());
        }
        if self.brokers.iter().filter(|broker| **broker != Broker::Down).count() > 1 {
            return Some("two brokers hold one state directory".into());
        }
        self.jobs.iter().enumerate().find_map(|(n, job)| {
            let fault = job.fault()?;
            Some(format!("job {n}: {fault}"))
        })
    }

    /// The invariants once no step is left.
    pub(crate) fn fault_at_rest(&self) -> Option<String> {
        let broker = self.brokers.iter().position(|broker| matches!(broker, Broker::Ready { .. }));
        let Some(broker) = broker else { return Some("no broker is ready".into()) };
        self.jobs.iter().enumerate().find_map(|(n, job)| {
            let fault = job.fault_at_rest(broker)?;
            Some(format!("job {n} at rest: {fault}"))
        })
    }

    /// Checks that a job's end, once shown to users, never changes. Remembers the end.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        for (n, job) in self.jobs.iter_mut().enumerate() {
            for (broker, memory) in self.brokers.iter().zip(&job.memory) {
                let (Broker::Ready { .. }, Some(memory)) = (broker, memory) else { continue };
                let Some(end) = memory.known.end() else { continue };
                match job.shown {
                    None => job.shown = Some(end),
                    Some(shown) if shown == end => {}
                    Some(shown) => {
                        return Err(format!("job {n} was shown as {shown:?}, and now as {end:?}"));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Job {
    /// Whether it runs under a living shim.
    fn runs(&self) -> bool {
        self.shim == Shim::Running && self.work == Work::Running
    }

    fn fault(&self) -> Option<String> {
        let fault = match () {
            () if self.execs > 0 && !self.go_said => "it was run without GO",
            () if self.execs > 0 && !self.cgroup && self.work == Work::Running => {
                "it runs without its cgroup"
            }
            () if self.disk.ended && !self.disk.logs_synced => {
                "its second record says that logs are durable, and they are not"
            }
            // Except for an abandoned job whose record was durable before the host crash.
            () if self.quarantined && self.disk.outcome.is_none() => "it was put aside for a crash",
            () if self.quarantined && self.go_said => "it may have run, and was put aside",
            () => return None,
        };
        Some(fault.into())
    }

    fn fault_at_rest(&self, broker: usize) -> Option<String> {
        let fault = match &self.memory[broker] {
            Some(memory) if self.runs() && memory.known.state == State::Running => {
                if !self.stop_acknowledged {
                    return None; // it may run forever
                }
                "an acknowledged stop has not happened".into()
            }
            _ if self.shim_lives() => "its shim lives".into(),
            _ if self.has_processes() => "a process of it lives".into(),
            _ if self.cgroup => "its cgroup is left".into(),
            _ if self.socket => "its socket is left".into(),
            None if !self.disk.directory || self.quarantined => return None,
            None => "its directory is left, and nobody knows it".into(),
            Some(memory) if memory.known.end().is_none() => {
                format!("nobody says how it ended: {:?}", memory.known)
            }
            // `Renamed`: the broker died before its last sync; the kernel writes the file later.
            Some(_) if !matches!(self.disk.last, File::Renamed | File::Durable) => {
                "its end is not on the disk".into()
            }
            Some(memory) if self.disk.last_says != Some(memory.known) => {
                "what is on record is not what is shown".into()
            }
            Some(_) => return None,
        };
        Some(fault)
    }
}
