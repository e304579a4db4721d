//! Jobs, without the network: [`supervisor::Supervisor`] starts, stops, waits for, lists and follows them.

pub(crate) mod channel;
pub(crate) mod cleanup;
pub(crate) mod commands;
pub mod decide;
pub(crate) mod errors;
pub(crate) mod history;
pub(crate) mod job;
pub(crate) mod monitor;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod query;
pub(crate) mod recovery;
pub(crate) mod registry;
pub(crate) mod scope;
pub(crate) mod shared;
pub(crate) mod stats;
pub(crate) mod stop_request;
pub(crate) mod supervisor;
