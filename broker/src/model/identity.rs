//! The identity of a caller, from the leaf certificate that TLS has verified. Verifies no certificate and
//! decides no access.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use job_api::echo::echo;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name of a person or program, as its certificate gives it; owner of what it starts. Shared: one
/// owner may have 100,000 jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity(Arc<str>);

impl Identity {
    /// A name that did not come over TLS: of a program that uses the library, or of a test.
    ///
    /// # Errors
    /// Unless it is 1 to 63 letters, digits, `_`, `.` or `-`, a letter or digit first.
    pub fn new(name: &str) -> Result<Identity, String> {
        job_api::names::check_name(name)
            .map_err(|fault| format!("identity {} {fault}", echo(name)))?;
        Ok(Identity(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Identity {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Identity::new(&name)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> String {
        identity.0.as_ref().to_owned()
    }
}

/// A verified leaf certificate, as far as the broker cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Until when.
    pub expires: SystemTime,
    /// Its serial number in hexadecimal, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// SHA-256 of its DER in hexadecimal, upper case as the serial number.
    pub fingerprint: String,
    /// The distinguished name of who signed it; of a long one the beginning.
    pub issuer: String,
}

/// Bytes that are kept of the name of an issuer.
const MAX_ISSUER: usize = 256;
/// Bytes that are kept of a serial number; RFC 5280 allows 20.
const MAX_SERIAL: usize = 32;

/// Why a verified certificate names nobody. Every reason is UNAUTHENTICATED.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Not X.509 that can be read.
    #[error("the client certificate cannot be read: {0}")]
    Unreadable(String),
    /// rustls lets a certificate without any EKU pass; we do not.
    #[error("the client certificate lacks the extended key usage clientAuth")]
    NotForClients,
    /// More than one `job://` URI, or more than one common name.
    #[error("the client certificate names more than one identity")]
    Ambiguous,
    /// Neither a URI nor a common name.
    #[error("the client certificate has neither a SAN URI job://{0}/<name> nor a common name")]
    Nobody(String),
    /// A URI of another trust domain, or of another form.
    #[error("SAN URI {} is not of the form job://{trust_domain}/<name>", echo(uri))]
    Foreign {
        /// As in the certificate.
        uri: String,
        /// As configured.
        trust_domain: String,
    },
    /// The name is not of the form that identities have.
    #[error("{0}")]
    Malformed(String),
}

/// Reads the identity from a leaf certificate (DER): exactly one SAN URI
/// `job://<trust-domain>/<name>` if there is any such URI, else the one common name of the subject.
///
/// # Errors
/// [`IdentityError`]: no clientAuth, none or more than one, or not ours.
pub(crate) fn peer(der: &[u8], trust_domain: &str) -> Result<Peer, IdentityError> {
    let (_, leaf) =
        X509Certificate::from_der(der).map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    let usage = leaf.extended_key_usage().map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    if !usage.is_some_and(|usage| usage.value.client_auth) {
        return Err(IdentityError::NotForClients);
    }
    let name = match uris(&leaf)?.as_slice() {
        [] => common_name(&leaf, trust_domain)?,
        [uri] => name_of(uri, trust_domain)?,
        _ => return Err(IdentityError::Ambiguous),
    };
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Peer {
        identity: Identity::new(&name).map_err(IdentityError::Malformed)?,
        expires: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        serial: serial(leaf.raw_serial()),
        fingerprint: hex(digest(&SHA256, der).as_ref()),
        issuer: issuer(&leaf),
    })
}

/// Without the zero that keeps a number from being negative.
fn serial(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    match &bytes[zeros..] {
        [] => "00".to_owned(),
        bytes => hex(&bytes[..bytes.len().min(MAX_SERIAL)]),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn issuer(leaf: &X509Certificate<'_>) -> String {
    let name = leaf.issuer().to_string();
    let is_kept = |(at, c): &(usize, char)| at + c.len_utf8() <= MAX_ISSUER;
    name.char_indices().take_while(is_kept).map(|(_, c)| c).collect()
}

fn uris(leaf: &X509Certificate<'_>) -> Result<Vec<String>, IdentityError> {
    let names =
        leaf.subject_alternative_name().map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    let names = names.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("job://") => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(uris.collect())
}

fn name_of(uri: &str, trust_domain: &str) -> Result<String, IdentityError> {
    uri.strip_prefix("job://")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(domain, _)| *domain == trust_domain)
        .map(|(_, name)| name.to_owned())
        .ok_or_else(|| IdentityError::Foreign {
            uri: uri.into(),
            trust_domain: trust_domain.into(),
        })
}

fn common_name(leaf: &X509Certificate<'_>, trust_domain: &str) -> Result<String, IdentityError> {
    let mut names = leaf.subject().iter_common_name();
    let first = names.next().ok_or_else(|| IdentityError::Nobody(trust_domain.into()))?;
    if names.next().is_some() {
        return Err(IdentityError::Ambiguous);
    }
    first.as_str().map(str::to_owned).map_err(|e| IdentityError::Unreadable(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_one_in_its_own_trust_domain() {
        assert_eq!(name_of("job://prod/ci", "prod").as_deref(), Ok("ci"));
        for foreign in ["job://test/ci", "job://prod", "job://prod.evil/ci"] {
            assert!(matches!(name_of(foreign, "prod"), Err(IdentityError::Foreign { .. })));
        }
    }

    #[test]
    fn a_serial_number_is_written_as_openssl_does() {
        assert_eq!(serial(&[0, 0x8a, 0x01]), "8A01");
        assert_eq!(serial(&[0]), "00");
        assert_eq!(serial(&[1; 100]).len(), 2 * MAX_SERIAL);
    }

    #[test]
    fn a_name_with_a_slash_or_none_is_no_identity() {
        for name in ["", "a/b", "..", "a b"] {
            assert!(Identity::new(name).is_err(), "{name}");
        }
    }
}
