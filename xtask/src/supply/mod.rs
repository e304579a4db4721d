//! What comes from others: the tools that judge it, the list of crates that root runs, the bill of materials. It must not
//! change Cargo.lock.

pub(crate) mod auditable;
pub(crate) mod deny;
#[cfg(test)]
mod linked;
pub(crate) mod sbom;
pub(crate) mod tools;
