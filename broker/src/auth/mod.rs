//! Who may do what. One pure function decides, and what it has allowed is proven by a type: every call
//! of [`Supervisor`](crate::Supervisor) that touches a job takes an [`Authorized`] for its own action.
//! Nothing here knows how anything is done.
//!
//! It is below `jobs` and not above: the rooms that act demand the proof, so they must know it.

pub mod action;
mod authorize;
mod caller;
mod decide;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod policy;
mod start;
#[cfg(test)]
mod tests;

pub(crate) use action::{
    Action, Delete, Input, Logs, Pause, Signal, Start, Stop, Update, Verb, View,
};
pub use authorize::{Authorized, Denied};
pub(crate) use authorize::{Refused, Resource, authorize, authorize_of_broker, authorize_recorded};
pub use caller::{Caller, Role};
pub(crate) use decide::{Question, StartQuestion, Verdict, decide};
pub(crate) use policy::scope::ListScope;
#[cfg(test)]
pub(crate) use policy::scope::Scope;
pub(crate) use policy::{Host, PolicyError, PolicyRole, load};
pub use policy::{Policy, Rule};
pub use start::{StartPlan, StartRefusal};
