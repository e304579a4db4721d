//! What a job sees of the host: the profiles, the pieces that they are made of, and the operator's rules for both. Pure;
//! `launch/isolation` makes it so, with the shim.

mod pieces;
mod rules;

pub(crate) use pieces::Place;
pub use pieces::{Isolation, IsolationRequest, Mount, Profile, Seccomp, Share};
pub use rules::IsolationRules;
