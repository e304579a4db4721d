//! Jobs, without the network. [`supervisor::Supervisor`] is the face: each of its calls is a line that leads
//! to the room that does it. Nothing here knows gRPC, TLS or a configuration file.

pub(crate) mod channel;
pub(crate) mod cleanup;
pub(crate) mod commands;
pub mod decide;
pub(crate) mod events;
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
