//! The pieces, and the profiles as sets of them.

use serde::{Deserialize, Serialize};

/// How much a job is kept from the host, from the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// As its account: files, processes and network of the host.
    #[default]
    Host,
    /// The host's files as its account sees them, read-only; temporary files, processes and devices of its own.
    Private,
    /// A base system, and what is named.
    Strict,
}

impl Profile {
    /// All, from the weakest.
    pub const ALL: [Profile; 3] = [Profile::Host, Profile::Private, Profile::Strict];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Host => "host",
            Profile::Private => "private",
            Profile::Strict => "strict",
        }
    }
}

/// Whose something is, from the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// The host's.
    #[default]
    Host,
    /// The job's own.
    Own,
}

/// Which system calls a job may make, from the weakest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// All.
    #[default]
    None,
    /// Those that programs need.
    Default,
    /// Fewer.
    Strict,
}

/// A directory or file of the host, or an empty directory, that a job sees besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// Of the host.
    Bind {
        /// On the host, absolute.
        source: String,
        /// In the job, absolute.
        target: String,
        /// The job cannot change it, whatever its account may.
        read_only: bool,
    },
    /// In memory, and gone with the job.
    Tmpfs {
        /// In the job, absolute.
        target: String,
        /// Most bytes; `None` in a request: the operator's maximum.
        bytes: Option<u64>,
    },
}

impl Mount {
    /// Where it is in the job.
    pub fn target(&self) -> &str {
        match self {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
        }
    }
}

/// What a job gets, every piece decided. The default is that of a job of an earlier broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// Files, System V IPC, host name.
    pub profile: Profile,
    /// Processes.
    pub pids: Share,
    /// Network interfaces; its own are loopback only.
    pub network: Share,
    /// System calls.
    pub seccomp: Seccomp,
    /// Refused calls are logged, and made.
    pub seccomp_log: bool,
    /// `/tmp`, `/var/tmp` and `/dev/shm` of its own.
    pub private_tmp: bool,
    /// Most bytes in these three together.
    pub tmp_bytes: u64,
    /// Empty: the host's.
    pub hostname: String,
    /// In this order.
    pub mounts: Vec<Mount>,
    /// The directory of the host that is its root; empty: what the profile has.
    pub rootfs: String,
    /// Most bytes that it writes there, in memory; 0: none.
    pub root_bytes: u64,
}

impl Isolation {
    /// A profile as it is.
    pub fn of(profile: Profile) -> Isolation {
        let (own, seccomp) = match profile {
            Profile::Host => (Share::Host, Seccomp::None),
            Profile::Private => (Share::Own, Seccomp::Default),
            Profile::Strict => (Share::Own, Seccomp::Strict),
        };
        let network = if profile == Profile::Strict { Share::Own } else { Share::Host };
        let private_tmp = profile != Profile::Host;
        Isolation { profile, pids: own, network, seccomp, private_tmp, ..Isolation::default() }
    }

    /// Whether the job has a mount namespace of its own.
    pub fn has_files(&self) -> bool {
        self.profile != Profile::Host
            || self.private_tmp
            || self.pids == Share::Own // of which `/proc` must tell
            || !self.mounts.is_empty()
    }

    /// Whether its root is a directory of its own.
    pub fn has_root(&self) -> bool {
        !self.rootfs.is_empty()
    }

    /// Whether it shares everything with the host.
    pub fn is_none(&self) -> bool {
        *self == Isolation { tmp_bytes: self.tmp_bytes, ..Isolation::default() }
    }
}

/// What a request says of its isolation. A field that is `None` or empty takes what the profile has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of `Isolation`, before the checks")]
pub struct IsolationRequest {
    pub profile: Option<Profile>,
    pub pids: Option<Share>,
    pub network: Option<Share>,
    pub seccomp: Option<Seccomp>,
    pub seccomp_log: bool,
    pub private_tmp: bool,
    pub tmp_bytes: Option<u64>,
    pub hostname: String,
    pub mounts: Vec<Mount>,
    pub rootfs: String,
    pub root_bytes: u64,
}

impl IsolationRequest {
    /// Whether it names a root of its own.
    pub fn has_root(&self) -> bool {
        !self.rootfs.is_empty()
    }
}
