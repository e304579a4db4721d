//! The life of jobs, behind one public type: [`supervisor::Supervisor`] delegates each call to a submodule.
//! Nothing here knows gRPC, TLS or the configuration file.

pub(crate) mod channel;
pub(crate) mod cleanup;
pub(crate) mod commands;
pub(crate) mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod job;
pub(crate) mod monitor;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod query;
pub(crate) mod recovery;
pub mod recovery_rules;
pub(crate) mod registry;
pub(crate) mod scope_watch;
pub(crate) mod shared;
pub(crate) mod stats;
pub(crate) mod stop_request;
pub(crate) mod supervisor;
