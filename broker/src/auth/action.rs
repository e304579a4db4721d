//! The verbs of the policy, and a type for each: a proof for one verb is none for another. Decides nothing.

use std::fmt;
use std::str::FromStr;

use job_api::echo::echo;

macro_rules! verbs {
    ($($(#[$doc:meta])* $verb:ident $name:literal,)*) => {
        /// What a caller wants to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verb {
            $($(#[$doc])* $verb,)*
        }

        impl Verb {
            /// All of them.
            pub const ALL: &[Verb] = &[$(Verb::$verb),*];

            /// Its name in the policy and in errors.
            pub fn name(self) -> &'static str {
                match self {
                    $(Verb::$verb => $name,)*
                }
            }
        }
    };
}

verbs! {
    /// Start a job.
    Start "start",
    /// See a job: its request, state and usage, and wait for its end.
    View "view",
    /// Read a job's output.
    Logs "logs",
    /// Write to a job's standard input.
    Input "input",
    /// Stop a job.
    Stop "stop",
    /// Send a signal to a job.
    Signal "signal",
    /// Change a job's limits.
    Update "update",
    /// Pause a job, or let it go on.
    Pause "pause",
    /// Delete a job that has ended, with its output.
    Delete "delete",
    /// Attach to the terminal of a job.
    Attach "attach",
    /// Run a further program in a job.
    Exec "exec",
    /// See what only operators need, such as the quarantine and the audit; have places that are kept for admins.
    Admin "admin",
}

impl Verb {
    /// What it lets one do, after "you may" or "you may not".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Verb::Logs => "read the output",
            Verb::Input => "write to the standard input",
            Verb::Exec => "run another program in this job",
            Verb::Attach => "attach to the terminal",
            Verb::Admin => "do what is for admins",
            Verb::Update => "change the limits",
            verb => verb.name(),
        }
    }

    /// Whether it changes anything: then its entry in the audit is durable before it is done.
    pub(crate) fn is_change(self) -> bool {
        !matches!(self, Verb::View | Verb::Logs | Verb::Admin)
    }

    /// Whether it is done even if the audit cannot be written: nothing else gives a full disk back.
    pub(crate) fn is_done_in_any_case(self) -> bool {
        matches!(self, Verb::Stop | Verb::Delete)
    }

    /// Whether it is about a job that exists.
    pub fn is_of_a_job(self) -> bool {
        !matches!(self, Verb::Start | Verb::Admin)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(name: &str) -> Result<Verb, String> {
        let found = Verb::ALL.iter().copied().find(|verb| verb.name() == name);
        found.ok_or_else(|| {
            let all: Vec<_> = Verb::ALL.iter().map(|verb| verb.name()).collect();
            format!("{} is no verb; verbs are {}", echo(name), all.join(", "))
        })
    }
}

/// Some of the verbs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verbs(u16);

impl Verbs {
    /// All of them.
    pub fn all() -> Verbs {
        Verb::ALL.iter().copied().collect()
    }

    /// Whether this one is among them.
    pub fn has(self, verb: Verb) -> bool {
        self.0 & 1 << verb as u16 != 0
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, others: Verbs) -> Verbs {
        Verbs(self.0 | others.0)
    }

    /// Those that the others are not among.
    #[must_use]
    pub fn without(self, others: Verbs) -> Verbs {
        Verbs(self.0 & !others.0)
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Verbs {
        verbs.into_iter().fold(Verbs::default(), |all, verb| Verbs(all.0 | 1 << verb as u16))
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Verb::ALL.iter().filter(|verb| self.has(**verb)).map(|verb| verb.name()).collect();
        if names.is_empty() { f.write_str("nothing") } else { f.write_str(&names.join(", ")) }
    }
}

/// A verb as a type.
pub trait Action: fmt::Debug + Send + Sync + 'static {
    /// Which.
    const VERB: Verb;
}

macro_rules! actions {
    ($($name:ident)*) => {$(
        #[doc = concat!("[`Verb::", stringify!($name), "`].")]
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl Action for $name {
            const VERB: Verb = Verb::$name;
        }
    )*};
}

actions! { Start View Logs Input Stop Signal Update Pause Delete }
