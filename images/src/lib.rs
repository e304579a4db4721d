//! Images: the roots of jobs that an operator has imported by name, as an OCI image layout or a plain tar archive.
//!
//! [`import()`] has an archive unpacked by a process that has no privilege, no network and no file but one directory
//! ([`unpack()`]), and makes of that directory an image; [`Store`] finds images by name. Nothing here knows jobs, callers
//! or policies.

mod archive;
mod confine;
mod extract;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod import;
mod oci;
mod seal;
mod store;
mod unpack;

pub use import::{import, remove};
pub use store::{Config, Image, OpenImage, Store};
pub use unpack::unpack;

/// How much an image may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of its files together.
    pub bytes: u64,
    /// Files, directories and links, of all layers together.
    pub files: u64,
}

/// Why an image cannot be had: a sentence without its end, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// A fault of this text.
pub(crate) fn fault<T>(text: impl Into<String>) -> Result<T> {
    Err(Fault(text.into()))
}

/// What was done when the kernel said no.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Fault(format!("{}: {e}", what())))
    }
}
