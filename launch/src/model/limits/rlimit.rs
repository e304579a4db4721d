//! Limits of each process, getrlimit(2): names and ranges. Sets none; the shim does.

use job_grammar::echo::echo;
use serde::{Deserialize, Serialize};

/// A limit of each process, getrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "RLIMIT_ and the name")]
pub enum Rlimit {
    Core,
    Cpu,
    Fsize,
    Memlock,
    Nofile,
    Nproc,
    Stack,
}

impl Rlimit {
    const ALL: [Rlimit; 7] = [
        Rlimit::Core,
        Rlimit::Cpu,
        Rlimit::Fsize,
        Rlimit::Memlock,
        Rlimit::Nofile,
        Rlimit::Nproc,
        Rlimit::Stack,
    ];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Rlimit::Core => "core",
            Rlimit::Cpu => "cpu",
            Rlimit::Fsize => "fsize",
            Rlimit::Memlock => "memlock",
            Rlimit::Nofile => "nofile",
            Rlimit::Nproc => "nproc",
            Rlimit::Stack => "stack",
        }
    }

    /// As the kernel numbers it.
    pub fn number(self) -> u32 {
        match self {
            Rlimit::Core => libc::RLIMIT_CORE,
            Rlimit::Cpu => libc::RLIMIT_CPU,
            Rlimit::Fsize => libc::RLIMIT_FSIZE,
            Rlimit::Memlock => libc::RLIMIT_MEMLOCK,
            Rlimit::Nofile => libc::RLIMIT_NOFILE,
            Rlimit::Nproc => libc::RLIMIT_NPROC,
            Rlimit::Stack => libc::RLIMIT_STACK,
        }
    }

    /// By its name.
    ///
    /// # Errors
    /// A sentence with all names.
    pub fn parse(name: &str) -> Result<Rlimit, String> {
        let all = || Rlimit::ALL.map(Rlimit::name).join(", ");
        let found = Rlimit::ALL.into_iter().find(|limit| limit.name() == name);
        found.ok_or_else(|| format!("{} is none of {}", echo(name), all()))
    }

    /// The most that the kernel takes: `fs.nr_open` for descriptors is at least this.
    pub(crate) fn check(self, (soft, hard): (u64, u64)) -> Result<(), String> {
        if soft > hard {
            return Err(format!(
                "{}: the soft limit {soft} is above the hard one {hard}",
                self.name()
            ));
        }
        const NR_OPEN: u64 = 1 << 20;
        if self == Rlimit::Nofile && hard > NR_OPEN {
            return Err(format!("nofile: {hard} is above {NR_OPEN}, the kernel's fs.nr_open"));
        }
        Ok(())
    }
}
