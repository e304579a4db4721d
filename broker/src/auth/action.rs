//! The verbs of the policy, and a type for each: a proof for one verb is none for another. Decides nothing.

use std::fmt;

/// What a caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start a job.
    Start,
    /// See a job: its request, state and usage, and wait for its end.
    View,
    /// Read a job's output.
    Logs,
    /// Write to a job's standard input.
    Input,
    /// Stop a job.
    Stop,
    /// Send a signal to a job.
    Signal,
    /// Change a job's limits.
    Update,
    /// Pause a job, or let it go on.
    Pause,
    /// Delete a job that has ended, with its output.
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Start => "start",
            Verb::View => "view",
            Verb::Logs => "logs",
            Verb::Input => "input",
            Verb::Stop => "stop",
            Verb::Signal => "signal",
            Verb::Update => "update",
            Verb::Pause => "pause",
            Verb::Delete => "delete",
        })
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
