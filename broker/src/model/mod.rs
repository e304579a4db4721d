//! Pure words. TODO

pub(crate) mod abridged;
pub(crate) mod account;
pub(crate) mod id;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod request;
pub(crate) mod spec;
pub(crate) mod state;
