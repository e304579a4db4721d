//! The words of a launch: ids, accounts, specs, limits, isolation, usage. Pure data and rules; nothing here does I/O or
//! knows how anything is done.

pub mod abridged;
pub mod account;
pub mod glob;
pub mod id;
pub mod isolation;
pub mod limits;
pub mod spec;
pub mod usage;
