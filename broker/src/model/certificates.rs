//! What is told of certificates. Reads and judges none.

use std::time::SystemTime;

/// The certificates that are in force, for admins.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsReport {
    /// Since when.
    pub(crate) loaded: Option<SystemTime>,
    /// The end of the broker's own certificate.
    pub(crate) expires: Option<SystemTime>,
    /// The authorities of clients.
    pub(crate) authorities: Vec<AuthorityReport>,
    /// Why the files on disk are not in force, if they are not.
    pub(crate) fault: Option<String>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthorityReport {
    /// Its subject.
    pub(crate) subject: String,
    /// Its trust domain.
    pub(crate) trust_domain: String,
    /// What stands before its names; empty for the main domain.
    pub(crate) prefix: String,
    /// Its end.
    pub(crate) expires: Option<SystemTime>,
    /// The end of its revocation list; `None`: it has none, and nothing is checked.
    pub(crate) list_until: Option<SystemTime>,
    /// How many certificates the list revokes.
    pub(crate) revoked: usize,
}
