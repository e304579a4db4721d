//! What a shim is given at startup: six descriptors and one [`Launch`].

use serde::{Deserialize, Serialize};

use crate::codec::{Decoded, FrameError, VERSION, decode, encode};
use crate::wire::Limits;

/// The first control connection, one end of a socket pair. When it closes before GO, the shim
/// leaves without running anything.
pub const CONTROL_FD: i32 = 3;
/// The job's state directory.
pub const STATE_FD: i32 = 4;
/// The cgroup directory `work` that the workload is cloned into.
pub const WORK_FD: i32 = 5;
/// A Unix stream socket, bound but not listening: credentials are taken at listen(2), which is
/// to happen after the change of uid (unix(7), SO_PEERCRED).
pub const LISTEN_FD: i32 = 6;
/// A memory file (memfd) with the encoded [`Launch`], read from offset 0.
pub const LAUNCH_FD: i32 = 7;
/// The first descriptor that must not exist when a shim starts.
pub const FIRST_FREE_FD: i32 = 8;

/// Everything a shim needs to know. It travels in memory and never to disk: the environment may
/// hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The job's id, RFC 9562 bytes.
    pub job: [u8; 16],
    /// Proves to the broker that it talks to this shim, and to the shim that it is its broker.
    pub nonce: [u8; 16],
    /// `/proc/sys/kernel/random/boot_id`, as bytes.
    pub boot_id: [u8; 16],
    /// The program and its arguments; a program without a slash is looked up in `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Entered as the workload's user.
    pub working_directory: Vec<u8>,
    /// The uid that the workload runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Real and saved uid of the shim once it has given up root.
    pub shim_uid: u32,
    /// Its gid.
    pub shim_gid: u32,
    /// A pipe as standard input instead of `/dev/null`.
    pub stdin: bool,
    /// Deadline, CPU time and output: the limits that the shim enforces.
    pub limits: Limits,
    /// Resource limits of each workload process, set while still root.
    pub rlimits: Vec<Rlimit>,
    /// The signal that asks the workload to end.
    pub stop_signal: i32,
    /// From the stop signal to the kill, in milliseconds.
    pub stop_timeout_ms: u64,
    /// Processes that outlive the main process are killed after this, in milliseconds.
    pub leftover_grace_ms: u64,
    /// What happens to output past its limit.
    pub output_policy: OutputPolicy,
}

/// See getrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// RLIMIT_NOFILE and the like, as this architecture numbers them.
    pub resource: u32,
    /// `u64::MAX` is RLIM_INFINITY, in both.
    pub soft: u64,
    /// Not below `soft`.
    pub hard: u64,
}

/// What happens to output past the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputPolicy {
    /// Keep reading and count.
    Discard,
    /// Stop reading.
    Block,
    /// End the job.
    Kill,
}

impl Launch {
    /// The bytes for the memory file: [`VERSION`], little endian, and the launch.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&VERSION.to_le_bytes(), encode(self).as_slice()].concat()
    }

    /// Reads what [`Launch::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are not a `Launch`, or of another version: that of a broker of another
    /// release.
    pub fn from_bytes(bytes: &[u8]) -> Decoded<Self> {
        match bytes.split_first_chunk() {
            Some((version, launch)) if *version == VERSION.to_le_bytes() => decode(launch),
            Some((version, _)) => Err(FrameError(format!(
                "a launch of version {}, for a shim of version {VERSION}",
                u16::from_le_bytes(*version)
            ))),
            None => Err(FrameError("no launch".into())),
        }
    }
}
