//! A small certificate authority for operators of the job broker who have none of their own.
//!
//! One directory is one authority: `ca.crt` (public) and `ca.key` (0600). From it come
//! - the broker's certificate: names and addresses, extended key usage serverAuth alone;
//! - users' certificates: one SAN URI `job://<trust-domain>/<name>` and the name as Common Name,
//!   extended key usage clientAuth alone.
//!
//! The trust domain is kept in the CA certificate itself, as its only SAN URI
//! `job://<trust-domain>` (as SPIFFE does it, X509-SVID section 4.2), so there is no second file
//! that could disagree. Keys are ECDSA P-256. Nothing is ever overwritten.
//!
//! [`Authority`] does in-process what the command line does. Certificates that no authority
//! should issue (expired, two identities, no usage) are for tests: describe them as a [`Leaf`].

#![forbid(unsafe_code)]

mod authority;
mod cli;
mod clock;
mod files;
mod leaf;
mod names;
mod show;

pub use authority::{Authority, Issued, ServerNames, Signed};
pub use cli::{command, run};
pub use leaf::{Leaf, Usage};

use std::time::Duration;

/// Lifetime of a CA unless told otherwise: long enough to outlive many leaves, short enough that
/// its replacement is practised.
pub const CA_VALIDITY: Duration = days(365);
/// Lifetime of a broker's certificate unless told otherwise.
pub const SERVER_VALIDITY: Duration = days(90);
/// Lifetime of a user's certificate unless told otherwise.
pub const USER_VALIDITY: Duration = days(30);

/// A validity of `n` days of 24 hours.
#[must_use]
pub const fn days(n: u32) -> Duration {
    Duration::from_secs(n as u64 * 24 * 60 * 60)
}
