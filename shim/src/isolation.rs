//! What a shim is told of its job's isolation: which namespaces, which files, which filter. It must not decide
//! anything: who may see what is the broker's decision.

use serde::{Deserialize, Serialize};

use crate::filter::Filter;

/// A mount namespace, nsfs's descriptor, whose files the job gets a copy of. Only where [`Isolation::files`] is.
pub const VIEW_FD: i32 = 10;
/// The root where there is one ([`Root`]); then the sources of [`Source::Inherited`], in the order of [`Files::mounts`],
/// from this number on. Opened for reading by the job's user.
pub const FIRST_SOURCE_FD: i32 = 11;
/// The most of them: a root, whose it is, its layer on disk, the job's directory, what the operator shares, and what the
/// user names.
pub const MAX_SOURCES: usize = 1 + 1 + 1 + 1 + 8 + 16;

/// Where a job that has files of its own finds its directory.
pub const JOB_DIR: &str = "/run/job";

/// How a job is kept from the rest of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The shim is process 1 of a pid namespace: the broker has cloned it so.
    pub pids: bool,
    /// Its own System V IPC, message queues, host name and cgroup root.
    pub ipc: bool,
    /// Its own network: nothing but a loopback interface.
    pub network: bool,
    /// Its name, where it has its own; empty: the host's.
    pub hostname: Vec<u8>,
    /// Which system calls it may make.
    pub filter: Filter,
    /// The calls that the filter refuses are logged, and made.
    pub filter_logs: bool,
    /// Its own mount namespace. `None`: that of the shim.
    pub files: Option<Files>,
}

/// What a job has in its mount namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// All that the view has is read-only.
    pub read_only: bool,
    /// `/tmp`, `/var/tmp` and `/dev/shm` of its own, in memory.
    pub scratch: Option<Scratch>,
    /// A root directory of its own, in memory, that the view's directories are attached to: a mount that has no place
    /// there gets one. Only root may write to it, and only with [`Files::read_only`].
    pub root: bool,
    /// `/proc`, `/dev/pts` and `/dev/mqueue` are its own.
    pub devices: bool,
    /// Attached in this order, over what is there. With [`Files::read_only`] a missing place is made in memory.
    pub mounts: Vec<Mount>,
}

/// A directory that is the job's root, in the place of what the view has. The shim keeps its descriptor open as long as
/// the job lives, and with it the lock that says that the directory is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What the job writes there, in memory. `None`: it is read-only, but for [`Root::on_disk`].
    pub overlay: Option<Scratch>,
    /// What is root's there is the job's: the next descriptor is a user namespace that says whose what is. Only under an
    /// overlay. Not among the bytes of a `Root`: see [`crate::launch::Launch::to_bytes`].
    #[serde(skip)]
    pub owned: bool,
    /// What the job writes there is in a directory, the next descriptor: empty, only root's, and limited by its file
    /// system. Not with [`Root::overlay`], and not among the bytes either.
    #[serde(skip)]
    pub on_disk: bool,
}

impl Root {
    /// How many descriptors it has: itself, and what it speaks of.
    pub fn sources(&self) -> usize {
        1 + usize::from(self.owned) + usize::from(self.on_disk)
    }
}

/// How much a tmpfs may hold; it counts as the job's memory as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Something that is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where: absolute, as the job sees it.
    pub target: Vec<u8>,
    /// What.
    pub source: Source,
}

/// What is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The next inherited descriptor, with all that is mounted below it.
    Inherited {
        /// Else as the file system is.
        read_only: bool,
        /// A file, whose place is a file.
        file: bool,
    },
    /// An empty directory in memory.
    Empty(Scratch),
}

impl Isolation {
    /// How many descriptors there are from [`FIRST_SOURCE_FD`] on.
    pub fn sources(&self) -> usize {
        let mounts = self.files.iter().flat_map(|files| &files.mounts);
        mounts.filter(|mount| matches!(mount.source, Source::Inherited { .. })).count()
    }
}
