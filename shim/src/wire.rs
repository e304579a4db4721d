//! The messages between broker and shim. Each direction is a type, so that a shim that sends a broker's
//! message does not compile. [`crate::codec`] says how they may change; the golden bytes at the end of
//! this file must decode for ever.

use serde::{Deserialize, Serialize};

use crate::codec::{Decoded, decode, encode};
pub use crate::step::Step;

/// One direction of the conversation: kinds 1.. are the broker's messages, 101.. the shim's.
pub trait Message: Sized {
    /// The number in the frame's header.
    fn kind(&self) -> u16;
    /// The payload after it.
    fn payload(&self) -> Vec<u8>;
    /// Decodes both; `None` for a kind that this build does not know.
    ///
    /// # Errors
    /// A payload that is not of its kind.
    fn from_parts(kind: u16, payload: &[u8]) -> Decoded<Option<Self>>;
    /// The same; a message with much data has it in `spare`, whose memory is there already.
    ///
    /// # Errors
    /// As [`Message::from_parts`].
    fn from_parts_with(kind: u16, payload: &[u8], _: &mut Vec<u8>) -> Decoded<Option<Self>> {
        Self::from_parts(kind, payload)
    }
}

/// Messages from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToShim {
    /// First on an accepted connection; the shim closes it if the nonce is not its own.
    Hello(BrokerHello),
    /// Run the program now.
    Go,
    /// End the job: stop signal to all, kill after the grace period.
    Stop(Stop),
    /// One signal to the main process's group.
    Signal(Signal),
    /// Answer with [`FromShim::Progress`] once there is more than this. One answer each.
    Watch(Watch),
    /// Bytes for standard input.
    Input(Input),
    /// New limits, in place of those it has. Answered with [`FromShim::Limits`].
    Limits(Limits),
    /// The only message on an accepted connection: who are you? Answered with [`FromShim::Hello`]; the
    /// shim keeps its current broker.
    Probe(Probe),
}

/// Messages from the shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromShim {
    /// First on every connection: who it is, and all that a broker that knows nothing needs.
    Hello(Box<ShimHello>),
    /// execve(2) succeeded.
    Started(Started),
    /// The start failed; the shim exits.
    Failed(Failed),
    /// More output, as asked for with WATCH; unasked, when the reason for blocking has changed.
    Progress(Progress),
    /// The job has read more input.
    InputAck(InputAck),
    /// The main process has ended; the rest is being drained.
    Exited(Exited),
    /// Nothing is left and all output is in the log.
    Ended(Ended),
    /// A limit is ending the job: the processes have the stop signal, or are being killed.
    Stopping,
    /// The limits that it has now, in answer to [`ToShim::Limits`].
    Limits(Limits),
}

/// See [`ToShim::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerHello {
    /// From the job's `spawn.json`.
    pub nonce: [u8; 16],
    /// How often the state directory was opened; a shim refuses an older broker than its last.
    pub epoch: u64,
}

/// See [`ToShim::Probe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// From the job's `spawn.json`.
    pub nonce: [u8; 16],
}

/// See [`ToShim::Stop`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Until the kill; 0: at once.
    pub grace_ms: u64,
    /// Who asked.
    pub source: Source,
    /// By name, at most 63 bytes.
    pub by: String,
}

/// See [`ToShim::Signal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// 1 to 64.
    pub number: i32,
    /// Who asked.
    pub source: Source,
    /// By name, at most 63 bytes.
    pub by: String,
}

/// See [`ToShim::Watch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The progress that the broker has seen.
    pub seen: Progress,
}

/// See [`ToShim::Input`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Of the first byte; what is accepted already is skipped.
    pub offset: u64,
    /// At most [`INPUT_PIECE`] bytes.
    #[serde(serialize_with = "crate::codec::bytes")]
    pub data: Vec<u8>,
    /// End of file after them.
    pub end: bool,
}

/// An [`Input`] whose data is where it came.
#[derive(Deserialize)]
struct InputInPlace<'a> {
    offset: u64,
    data: &'a [u8],
    end: bool,
}

impl Input {
    fn decode(payload: &[u8], spare: &mut Vec<u8>) -> Decoded<Input> {
        let InputInPlace { offset, data: came, end } = decode(payload)?;
        let mut data = std::mem::take(spare);
        data.clear();
        data.extend_from_slice(came);
        Ok(Input { offset, data, end })
    }
}

/// The limits that the shim enforces, not the kernel. The launch sets them; a broker may change them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock deadline from the start of the program, in milliseconds.
    pub time_ms: Option<u64>,
    /// CPU time of all processes together, in microseconds.
    pub cpu_time_us: Option<u64>,
    /// How many CPUs the workload can use at once at the most, in thousandths: how soon its CPU
    /// time can be over.
    pub cpus_milli: u32,
    /// Bytes of output kept, both streams together.
    pub output: Option<u64>,
}

/// The kind of [`ToShim::Input`].
pub(crate) const INPUT: u16 = 6;
/// The most input in one frame: with its header it stays below the frame's limit.
pub const INPUT_PIECE: usize = 60 * 1024;
/// The most input past [`InputAck::accepted`]: a shim keeps what the job has not read yet in
/// memory, and closes the connection of a broker that sends more.
pub const INPUT_WINDOW: u64 = 1 << 20;

/// See [`FromShim::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimHello {
    /// The job's id.
    pub job: [u8; 16],
    /// The nonce of its launch.
    pub nonce: [u8; 16],
    /// Its pid.
    pub pid: u32,
    /// Set once the program runs.
    pub started: Option<Started>,
    /// The output so far.
    pub progress: Progress,
    /// The input so far.
    pub input: InputAck,
    /// Set once the main process has ended.
    pub exited: Option<Exited>,
    /// A stop, the deadline, the CPU time or the output limit is ending the job.
    pub stopping: bool,
    /// The limits in force.
    pub limits: Limits,
}

/// See [`FromShim::Started`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The main process.
    pub pid: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
}

/// See [`FromShim::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What did not work.
    pub step: Step,
    /// Why, as errno(3).
    pub errno: i32,
}

/// The lengths of the files on disk, and why they do not grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes in `stdout.log`.
    pub stdout: u64,
    /// Bytes in `stderr.log`.
    pub stderr: u64,
    /// Entries in `output.idx`.
    pub entries: u64,
    /// Bytes that were read and not kept: past the output limit, or at the end of a job for which the
    /// disk had no room.
    pub dropped: u64,
    /// Why the job blocks on its output; at its end, why output is missing.
    pub blocked: Option<Blocked>,
}

/// Why output is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blocked {
    /// write(2) to the log failed with this errno, ENOSPC for one; tried again each second.
    Disk(i32),
    /// The output limit with policy `block`.
    Limit,
}

/// See [`FromShim::InputAck`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputAck {
    /// Bytes in the job's pipe since its start.
    pub accepted: u64,
    /// End of file has been passed on, or nobody reads any more.
    pub closed: bool,
}

/// See [`FromShim::Exited`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// As wait(2) gives it.
    pub wait_status: i32,
    /// Why.
    pub cause: Cause,
    /// Whose doing.
    pub source: Source,
    /// By name, or empty.
    pub by: String,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
}

/// See [`FromShim::Ended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The last word on the output.
    pub progress: Progress,
}

impl Ended {
    /// Whether the disk did not take all of the output.
    pub fn is_incomplete(&self) -> bool {
        matches!(self.progress.blocked, Some(Blocked::Disk(_)))
    }
}

/// Why a job ended, as far as the shim can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Cause {
    /// By itself.
    Exited = 1,
    /// Somebody stopped it.
    Stopped = 2,
    /// A signal that was not the shim's doing.
    Signaled = 3,
    /// Its deadline passed.
    TimedOut = 4,
    /// It wrote more than it may.
    OutputLimit = 5,
    /// It never ran.
    StartFailed = 6,
    /// The kernel killed it for lack of memory.
    OutOfMemory = 7,
}

/// Whose doing the end was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Source {
    /// Its own.
    None = 0,
    /// Its owner's.
    User = 1,
    /// An admin's.
    Admin = 2,
    /// The kernel's, the shim's or the broker's.
    System = 3,
    /// The deadline's.
    Timeout = 4,
    /// The kernel's, for lack of memory.
    Oom = 5,
    /// The limit of its CPU time.
    CpuTime = 6,
}

impl Cause {
    /// Decodes the number in a record.
    pub fn from_number(number: u8) -> Option<Cause> {
        use Cause::*;
        [Exited, Stopped, Signaled, TimedOut, OutputLimit, StartFailed, OutOfMemory]
            .into_iter()
            .find(|cause| *cause as u8 == number)
    }
}

impl Source {
    /// Decodes the number in a record.
    pub fn from_number(number: u8) -> Option<Source> {
        use Source::*;
        [None, User, Admin, System, Timeout, Oom, CpuTime]
            .into_iter()
            .find(|source| *source as u8 == number)
    }
}

impl Message for ToShim {
    fn kind(&self) -> u16 {
        match self {
            ToShim::Hello(_) => 1,
            ToShim::Go => 2,
            ToShim::Stop(_) => 3,
            ToShim::Signal(_) => 4,
            ToShim::Watch(_) => 5,
            ToShim::Input(_) => INPUT,
            ToShim::Limits(_) => 7,
            ToShim::Probe(_) => 8,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            ToShim::Hello(m) => encode(m),
            ToShim::Go => Vec::new(),
            ToShim::Stop(m) => encode(m),
            ToShim::Signal(m) => encode(m),
            ToShim::Watch(m) => encode(m),
            ToShim::Input(m) => encode(m),
            ToShim::Limits(m) => encode(m),
            ToShim::Probe(m) => encode(m),
        }
    }

    fn from_parts(kind: u16, payload: &[u8]) -> Decoded<Option<Self>> {
        Ok(Some(match kind {
            1 => ToShim::Hello(decode(payload)?),
            2 => ToShim::Go,
            3 => ToShim::Stop(decode(payload)?),
            4 => ToShim::Signal(decode(payload)?),
            5 => ToShim::Watch(decode(payload)?),
            INPUT => ToShim::Input(Input::decode(payload, &mut Vec::new())?),
            7 => ToShim::Limits(decode(payload)?),
            8 => ToShim::Probe(decode(payload)?),
            _ => return Ok(None),
        }))
    }

    fn from_parts_with(kind: u16, payload: &[u8], spare: &mut Vec<u8>) -> Decoded<Option<Self>> {
        match kind {
            INPUT => Ok(Some(ToShim::Input(Input::decode(payload, spare)?))),
            _ => Self::from_parts(kind, payload),
        }
    }
}

impl Message for FromShim {
    fn kind(&self) -> u16 {
        match self {
            FromShim::Hello(_) => 101,
            FromShim::Started(_) => 102,
            FromShim::Failed(_) => 103,
            FromShim::Progress(_) => 104,
            FromShim::InputAck(_) => 105,
            FromShim::Exited(_) => 106,
            FromShim::Ended(_) => 107,
            FromShim::Stopping => 108,
            FromShim::Limits(_) => 109,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            FromShim::Hello(m) => encode(m),
            FromShim::Started(m) => encode(m),
            FromShim::Failed(m) => encode(m),
            FromShim::Progress(m) => encode(m),
            FromShim::InputAck(m) => encode(m),
            FromShim::Exited(m) => encode(m),
            FromShim::Ended(m) => encode(m),
            FromShim::Stopping => Vec::new(),
            FromShim::Limits(m) => encode(m),
        }
    }

    fn from_parts(kind: u16, payload: &[u8]) -> Decoded<Option<Self>> {
        Ok(Some(match kind {
            101 => FromShim::Hello(decode(payload)?),
            102 => FromShim::Started(decode(payload)?),
            103 => FromShim::Failed(decode(payload)?),
            104 => FromShim::Progress(decode(payload)?),
            105 => FromShim::InputAck(decode(payload)?),
            106 => FromShim::Exited(decode(payload)?),
            107 => FromShim::Ended(decode(payload)?),
            108 => FromShim::Stopping,
            109 => FromShim::Limits(decode(payload)?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(all(test, not(feature = "next-version")))]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_these_bytes() {
        let hello = FromShim::Hello(Box::new(ShimHello {
            job: [1; 16],
            nonce: [2; 16],
            pid: 3,
            started: None,
            progress: Progress::default(),
            input: InputAck::default(),
            exited: None,
            stopping: true,
            limits: Limits { output: Some(4), ..Limits::default() },
        }));
        let mut bytes = [[1; 16], [2; 16]].concat();
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 4]);
        assert_eq!(hello.payload(), bytes);
        assert_eq!(FromShim::from_parts(101, &bytes), Ok(Some(hello)));
    }

    fn exited() -> Exited {
        Exited {
            wait_status: 7 << 8,
            cause: Cause::Stopped,
            source: Source::Admin,
            by: "root".into(),
            time_ns: 1,
        }
    }

    /// What version 1 sent. These bytes never change; a new version adds its own.
    #[test]
    fn the_bytes_of_version_1_decode_for_ever() {
        let golden: &[(u16, &[u8], FromShim)] = &[
            (102, &[42, 1], FromShim::Started(Started { pid: 42, time_ns: 1 })),
            (103, &[18, 4], FromShim::Failed(Failed { step: Step::Exec, errno: 2 })),
            (
                104,
                &[5, 6, 2, 0, 1, 0, 56],
                FromShim::Progress(Progress {
                    stdout: 5,
                    stderr: 6,
                    entries: 2,
                    dropped: 0,
                    blocked: Some(Blocked::Disk(28)),
                }),
            ),
            (105, &[9, 1], FromShim::InputAck(InputAck { accepted: 9, closed: true })),
            (106, &[251, 0, 14, 1, 2, 4, b'r', b'o', b'o', b't', 1], FromShim::Exited(exited())),
        ];
        for (kind, bytes, message) in golden {
            assert_eq!(FromShim::from_parts(*kind, bytes), Ok(Some(message.clone())));
            assert_eq!((message.kind(), message.payload().as_slice()), (*kind, *bytes));
        }
        let stop = ToShim::Stop(Stop { grace_ms: 10, source: Source::User, by: "a".into() });
        assert_eq!(stop.payload(), [10, 1, 1, b'a']);
        let input = ToShim::Input(Input { offset: 1, data: vec![2, 3], end: true });
        assert_eq!(input.payload(), [1, 2, 2, 3, 1]);
        assert_eq!(ToShim::from_parts(6, &[1, 2, 2, 3, 1]), Ok(Some(input)));
        let limits =
            Limits { time_ms: Some(1), cpu_time_us: None, cpus_milli: 200, output: Some(3) };
        assert_eq!(ToShim::Limits(limits).payload(), [1, 1, 0, 200, 1, 3]);
    }

    #[test]
    fn words_of_one_direction_are_not_understood_in_the_other() {
        let started = FromShim::Started(Started { pid: 1, time_ns: 1 });
        assert_eq!(ToShim::from_parts(started.kind(), &started.payload()), Ok(None));
    }

    #[test]
    fn causes_and_sources_are_found_by_their_numbers() {
        assert_eq!(Cause::from_number(7), Some(Cause::OutOfMemory));
        assert_eq!(Source::from_number(5), Some(Source::Oom));
        assert_eq!(Source::from_number(6), Some(Source::CpuTime));
        assert_eq!(Source::from_number(9), None);
    }
}
