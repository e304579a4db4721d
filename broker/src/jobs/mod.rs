//! Jobs, without the network: [`Supervisor`] starts, stops, waits for, lists and follows them.

mod adopt;
mod attend;
mod contact;
mod core;
mod errors;
mod failure;
pub mod input;
pub mod job;
pub mod output;
mod recover;
pub mod spec;
pub mod state;
mod supervisor;
mod table;

pub use errors::{DeleteError, SignalError, StartError, SupervisorError};
pub use supervisor::{Quarantined, Supervisor, Until};
pub use table::{Filter, Page};
