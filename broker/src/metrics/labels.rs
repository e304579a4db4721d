//! The labels: enums, so that the number of series is known when the program is compiled. None may hold text from
//! outside.

/// A set of label values: each has an index and a name.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "its name in the text says it")]
        pub enum $name { $($(#[$note])* $variant,)+ }

        #[allow(dead_code, reason = "each set uses some of it")]
        impl $name {
            /// All of them, in the order of their indexes.
            pub(crate) const NAMES: [&'static str; $name::COUNT] = [$($text),+];
            /// How many there are.
            pub(crate) const COUNT: usize = [$($text),+].len();

            /// As in the text.
            pub(crate) fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }

            /// Its place in a family.
            pub(crate) fn index(self) -> usize {
                self as usize
            }
        }

        impl From<$name> for usize {
            fn from(label: $name) -> usize {
                label as usize
            }
        }
    };
}

labels! {
    /// The phases of a start, in their order. Together they are the whole time of a start.
    Phase {
        /// The request is decoded, known or new, and there is room on the disk.
        Admission = "admission",
        /// The account, the name and the disks are resolved.
        Account = "account",
        /// The start waits until it is its turn.
        Queue = "queue",
        /// The job is in the registry.
        Register = "register",
        /// `spec.json` is written.
        Spec = "spec",
        Cgroup = "cgroup",
        Limits = "limits",
        /// The shim is cloned into the cgroup, and `spawn.json` is written.
        Shim = "shim",
        /// `spec.json` is on the disk.
        Sync = "sync",
        /// GO is said, and the shim has answered with HELLO.
        Go = "go",
        /// execve(2) has succeeded.
        Started = "started",
    }
}

labels! {
    /// The causes of an end, as the contract names them.
    EndCause {
        Exited = "exited",
        Stopped = "stopped",
        Signaled = "signaled",
        TimedOut = "timed_out",
        OutOfMemory = "out_of_memory",
        OutputLimit = "output_limit",
        StartFailed = "start_failed",
        Lost = "lost",
    }
}

labels! {
    /// The direction of a stream, seen from the host.
    Direction {
        Out = "out",
        In = "in",
    }
}

labels! {
    /// Why a connection ended before it was admitted.
    TlsFailure {
        NoCertificate = "no_certificate",
        UnknownIssuer = "unknown_issuer",
        Expired = "expired",
        NotValidYet = "not_valid_yet",
        Revoked = "revoked",
        /// Any other fault of the client's certificate.
        BadCertificate = "bad_certificate",
        /// The certificate is good and names nobody.
        NoIdentity = "no_identity",
        /// The client does not trust the broker, or says another alert.
        ClientAlert = "client_alert",
        /// No TLS 1.3, no h2, or no TLS at all.
        Protocol = "protocol",
        Timeout = "timeout",
        /// The client has closed the connection.
        Closed = "closed",
        /// There were too many connections without a completed handshake.
        Evicted = "evicted",
        /// The identity, or all of them, have too many connections.
        TooMany = "too_many",
        Other = "other",
    }
}

labels! {
    /// What was tried on a job's cgroup.
    CgroupOperation {
        Create = "create",
        Limit = "limit",
        Freeze = "freeze",
        Kill = "kill",
        Remove = "remove",
    }
}

labels! {
    /// What a line of the log is for.
    LogPurpose {
        Report = "report",
        Audit = "audit",
    }
}

labels! {
    /// What became of the spans of a start.
    Export {
        Sent = "sent",
        Dropped = "dropped",
    }
}

labels! {
    /// How a reload ended.
    Reload {
        Done = "done",
        Failed = "failed",
    }
}
