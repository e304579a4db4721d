//! A small certificate authority for operators of the job broker who have none of their own.
//!
//! One directory is one authority: `ca.crt` (public) and `ca.key` (0600). From it come
//! - the broker's certificate: names and addresses, extended key usage serverAuth alone;
//! - users' certificates: one SAN URI `job://<trust-domain>/<name>` and the name as Common Name,
//!   extended key usage clientAuth alone.
//!
//! The trust domain is kept in the CA certificate itself, as its only SAN URI
//! `job://<trust-domain>` (as SPIFFE does it, X509-SVID section 4.2), so there is no second file
//! that could disagree. Keys are ECDSA P-256. Nothing is ever overwritten, but for what says so: a certificate that is
//! renewed in its place, and the revocation list.
//!
//! `issued.jsonl` records what was issued and revoked; an authority without one works, too.
//!
//! [`Authority`] does in-process what the command line does. Certificates that no authority
//! should issue (expired, two identities, no usage) are for tests: describe them as a [`Leaf`].
//!
//! Errors say what failed, on which file, and what to do: [`Error`].

#![forbid(unsafe_code)]

mod authority;
mod cli;
mod clock;
mod database;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod issued;
mod leaf;
mod names;
mod revocation;
mod show;
mod validity;

pub use authority::{Authority, Issued, ServerNames, Signed};
pub use cli::{command, run};
pub use error::{AuthorityError, CertificateError, Error, NameError};
pub use leaf::{Leaf, Usage};
pub use revocation::{Crl, Reason, Revocation};
pub use validity::{CA_VALIDITY, SERVER_VALIDITY, USER_VALIDITY, days};
