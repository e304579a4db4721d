//! Jobs, without the network: [`Supervisor`] starts, stops, waits for, lists and follows them.

mod adopt;
mod attend;
mod contact;
mod core;
mod errors;
mod failure;
mod figures;
pub mod input;
pub mod job;
pub mod output;
mod pause;
mod recover;
mod scope;
pub mod spec;
pub mod state;
mod supervisor;
mod table;
pub mod terms;
pub mod update;

pub use errors::{DeleteError, PauseError, SignalError, StartError, SupervisorError, UpdateError};
pub use figures::Figures;
pub use supervisor::{Quarantined, Supervisor, Until};
pub use table::{Filter, Page};
