//! Who may do what. One pure function decides, and what it has allowed is proven by a type: every call
//! of [`Supervisor`](crate::Supervisor) that touches a job takes an [`Authorized`] for its own action.
//! Nothing here knows how anything is done.
//!
//! It is below `jobs` and not above: the rooms that act demand the proof, so they must know it.

pub mod action;
mod authorize;
mod policy;

pub(crate) use action::{
    Action, Delete, Input, Logs, Pause, Signal, Start, Stop, Update, Verb, View,
};
pub use authorize::Authorized;
pub(crate) use authorize::{Resource, authorize};
pub use policy::{Caller, Policy, Role};
