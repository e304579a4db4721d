//! Jobs, without the network: [`Supervisor`] starts, stops, waits for, lists and follows them.

pub mod abridged;
mod adopt;
mod asked;
mod attend;
mod calls;
mod capacity;
mod contact;
mod core;
mod errors;
mod failure;
mod figures;
mod files;
mod filter;
mod ground;
pub mod input;
pub mod job;
mod keep;
mod launching;
mod leftovers;
mod link;
mod list;
pub mod output;
mod past;
mod pause;
pub mod preflight;
mod process;
mod quarantine;
mod reach;
pub mod recover;
pub mod request;
mod retention;
mod scope;
pub mod spec;
pub mod state;
mod stop;
mod supervisor;
mod table;
pub mod terms;
pub(crate) mod threads;
pub mod update;
mod validate;

pub use calls::{Busy, Call, Kind};
pub use errors::{
    DeleteError, FindError, PauseError, SignalError, StartError, StopError, SupervisorError,
    UpdateError,
};
pub use figures::Figures;
pub use filter::{Filter, Page, States};
pub use ground::NotKnown;
pub use list::Listed;
pub use request::Request;
pub use retention::NoRoom;
pub use supervisor::{Quarantined, Supervisor, Until};
