//! What a shim is given at startup: five descriptors, one [`Launch`], and the [`Program`] where the broker has
//! checked it. It must not decide anything.

use std::ffi::CStr;

use serde::{Deserialize, Serialize};

use crate::codec::{Decoded, FrameError, VERSION, decode_launch, encode};
use crate::isolation::{self, Isolation, Root};
use crate::wire::Limits;

/// The name of a shim whose job ends with its connection: what started it is no broker, and has no successor.
pub const TIED_NAME: &CStr = c"job-sandbox";
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
/// The file to execute, where [`Launch::program`] says that there is one. O_PATH is enough.
pub const PROGRAM_FD: i32 = 8;
/// The script that it interprets, if that says so. O_PATH is enough.
pub const SCRIPT_FD: i32 = 9;
/// The first descriptor that must not exist when a shim starts; those from [`isolation::VIEW_FD`] on are below it.
pub const FIRST_FREE_FD: i32 = isolation::FIRST_SOURCE_FD + isolation::MAX_SOURCES as i32;

/// The number that the workload has for its script. Its interpreter opens [`SCRIPT_PATH`] once; scripts that use
/// the descriptor for something else lose nothing.
pub const WORKLOAD_SCRIPT_FD: i32 = 5;
/// What an interpreter is told instead of a script's name.
pub const SCRIPT_PATH: &str = "/dev/fd/5";

/// Set in the version of a launch with a program that the broker has checked. A shim that knows nothing of this
/// refuses it; without a program the bytes are those of ever.
const WITH_PROGRAM: u16 = 1 << 15;
/// Set, beside, in that of a job that is isolated.
const WITH_ISOLATION: u16 = 1 << 14;
const BOTH: u16 = WITH_PROGRAM | WITH_ISOLATION;
/// Set, with [`WITH_ISOLATION`], in that of a job that has a root of its own; never with a checked program, which is the
/// host's.
const WITH_ROOT: u16 = 1 << 13;
/// Set, with [`WITH_ROOT`], where the root is [`Root::owned`].
const WITH_OWNED_ROOT: u16 = 1 << 12;
/// Set, with [`WITH_ROOT`], where the root is [`Root::on_disk`].
const WITH_ROOT_ON_DISK: u16 = 1 << 11;
const ISOLATION_AND_ROOT: u16 = WITH_ISOLATION | WITH_ROOT;

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
    /// What is executed in place of the program that `argv` names; `argv` is passed to it as it is.
    #[serde(skip)]
    pub program: Option<Program>,
    /// What the job has of its own; `None` where it shares everything with the host.
    #[serde(skip)]
    pub isolation: Option<Isolation>,
    /// What is its root in the place of the host's; only with `isolation` that has files, and without a `program`.
    #[serde(skip)]
    pub root: Option<Root>,
}

/// A program that the broker has opened and checked: nothing is looked up by name any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// [`PROGRAM_FD`]. The kernel refuses to have it interpreted by anything else (ENOENT), since the descriptor
    /// is close-on-exec: see execveat(2).
    Binary,
    /// [`PROGRAM_FD`], an interpreter, which has [`SCRIPT_FD`] as [`WORKLOAD_SCRIPT_FD`].
    Script,
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
    /// The bytes for the memory file: [`VERSION`], little endian, and what there is besides; that, and the launch.
    pub fn to_bytes(&self) -> Vec<u8> {
        if let Some(root) = &self.root {
            let isolation = self.isolation.clone().unwrap_or_default();
            let bytes = encode(&(root, isolation, self));
            let owned = if root.owned { WITH_OWNED_ROOT } else { 0 };
            let on_disk = if root.on_disk { WITH_ROOT_ON_DISK } else { 0 };
            let version = VERSION | ISOLATION_AND_ROOT | owned | on_disk;
            return [&version.to_le_bytes(), bytes.as_slice()].concat();
        }
        let (besides, bytes) = match (&self.program, &self.isolation) {
            (None, None) => (0, encode(self)),
            (Some(program), None) => (WITH_PROGRAM, encode(&(program, self))),
            (None, Some(isolation)) => (WITH_ISOLATION, encode(&(isolation, self))),
            (Some(program), Some(isolation)) => (BOTH, encode(&(program, isolation, self))),
        };
        [&(VERSION | besides).to_le_bytes(), bytes.as_slice()].concat()
    }

    /// Reads what [`Launch::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are not a `Launch`, or of another version: that of a broker of another
    /// release.
    pub fn from_bytes(bytes: &[u8]) -> Decoded<Self> {
        let Some((version, launch)) = bytes.split_first_chunk() else {
            return Err(FrameError("no launch".into()));
        };
        let version = u16::from_le_bytes(*version);
        Ok(match version ^ VERSION {
            0 => decode_launch(launch)?,
            WITH_PROGRAM => {
                let (program, launch) = decode_launch::<(Program, Launch)>(launch)?;
                Launch { program: Some(program), ..launch }
            }
            WITH_ISOLATION => {
                let (isolation, launch) = decode_launch::<(Isolation, Launch)>(launch)?;
                Launch { isolation: Some(isolation), ..launch }
            }
            BOTH => {
                let (program, isolation, launch) =
                    decode_launch::<(Program, Isolation, Launch)>(launch)?;
                Launch { program: Some(program), isolation: Some(isolation), ..launch }
            }
            besides if besides & !(WITH_OWNED_ROOT | WITH_ROOT_ON_DISK) == ISOLATION_AND_ROOT => {
                let (root, isolation, launch) = decode_launch::<(Root, Isolation, Launch)>(launch)?;
                let root = Root {
                    owned: besides & WITH_OWNED_ROOT != 0,
                    on_disk: besides & WITH_ROOT_ON_DISK != 0,
                    ..root
                };
                Launch { isolation: Some(isolation), root: Some(root), ..launch }
            }
            _ => {
                let fault =
                    format!("a launch of version {version}, for a shim of version {VERSION}");
                return Err(FrameError(fault));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::Scratch;

    fn launch(program: Option<Program>) -> Launch {
        Launch {
            job: [1; 16],
            nonce: [2; 16],
            boot_id: [3; 16],
            argv: vec![b"a".to_vec()],
            env: vec![],
            working_directory: b"/".to_vec(),
            uid: 1,
            gid: 2,
            groups: vec![3],
            shim_uid: 4,
            shim_gid: 5,
            stdin: true,
            limits: Limits::default(),
            rlimits: vec![],
            stop_signal: 15,
            stop_timeout_ms: 6,
            leftover_grace_ms: 7,
            output_policy: OutputPolicy::Kill,
            program,
            isolation: None,
            root: None,
        }
    }

    #[test]
    fn a_launch_is_read_as_it_was_written() {
        let isolation = Isolation { hostname: b"h".to_vec(), ..Isolation::default() };
        for program in [None, Some(Program::Binary), Some(Program::Script)] {
            for isolation in [None, Some(isolation.clone())] {
                let launch = Launch { isolation, ..launch(program) };
                assert_eq!(Launch::from_bytes(&launch.to_bytes()), Ok(launch));
            }
        }
    }

    #[test]
    fn a_checked_program_changes_nothing_for_jobs_without_one_and_is_never_overlooked() {
        let (without, with) = (launch(None), launch(Some(Program::Binary)));
        assert_eq!(without.to_bytes()[..2], VERSION.to_le_bytes());
        assert_eq!(without.to_bytes()[2..], encode(&without));
        // A shim from before this compares the version, and refuses.
        assert_ne!(with.to_bytes()[..2], VERSION.to_le_bytes());
        let isolated = Launch { isolation: Some(Isolation::default()), ..launch(None) };
        assert_ne!(isolated.to_bytes()[..2], VERSION.to_le_bytes());
        assert!(Launch::from_bytes(&[0, 0x80]).is_err());
    }

    #[test]
    fn a_root_is_read_as_it_was_written_and_never_overlooked() {
        let on_disk = Root { on_disk: true, ..Root::default() };
        let in_memory = Root { overlay: Some(Scratch { bytes: 1, inodes: 2 }), ..Root::default() };
        let owned = |root| Root { owned: true, ..root };
        for root in [Root::default(), in_memory, owned(in_memory), on_disk, owned(on_disk)] {
            let isolation = Some(Isolation::default());
            let launch = Launch { isolation, root: Some(root), ..launch(None) };
            let bytes = launch.to_bytes();
            assert_ne!(bytes[..2], (VERSION | WITH_ISOLATION).to_le_bytes());
            assert_eq!(Launch::from_bytes(&bytes), Ok(launch));
        }
    }

    #[test]
    fn the_path_of_a_script_is_that_of_its_descriptor() {
        assert_eq!(SCRIPT_PATH, format!("/dev/fd/{WORKLOAD_SCRIPT_FD}"));
    }
}
