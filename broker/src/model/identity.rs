//! The identity of a caller, from the leaf certificate that TLS has verified. Verifies no certificate and
//! decides no access.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use job_api::echo::echo;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The name of a person or program, as its certificate gives it; owner of what it starts. Shared: one
/// owner may have a million jobs.
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

impl Borrow<str> for Identity {
    fn borrow(&self) -> &str {
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

/// How the certificates of one trust domain name identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Naming {
    /// The domain in `job://<trust-domain>/<name>`.
    pub(crate) trust_domain: String,
    /// What stands before each name, with a dot; none in the main domain.
    pub(crate) prefix: Option<String>,
    /// The prefixes of all domains: the names behind them are no other domain's.
    pub(crate) reserved: Vec<String>,
    /// Whether and how SPIFFE ids are names.
    pub(crate) spiffe: Option<SpiffeNames>,
}

/// How the path of a SPIFFE id becomes a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpiffeNames {
    /// The last segment.
    Last,
    /// All segments, with dots between them.
    Dotted,
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
    #[error("SAN URI {} is not of the form {scheme}{trust_domain}/<name>", echo(uri))]
    Foreign {
        /// As in the certificate.
        uri: String,
        /// `job://` or `spiffe://`.
        scheme: &'static str,
        /// As configured.
        trust_domain: String,
    },
    /// A SPIFFE id whose path has a segment with a dot would be the name of another path.
    #[error("SPIFFE id {} has a dot in a segment of its path; this broker joins segments by dots", echo(.0))]
    Dot(String),
    /// SPIFFE ids are expected, and there is none.
    #[error("the client certificate has no SAN URI spiffe://{0}/<path>")]
    NoSpiffeId(String),
    /// The name begins with the prefix of another trust domain.
    #[error(
        "the name {} begins with {prefix}., and such names are of another trust domain than {trust_domain}",
        echo(name)
    )]
    Reserved {
        /// As in the certificate.
        name: String,
        /// Of the other domain.
        prefix: String,
        /// Whose authority has signed it.
        trust_domain: String,
    },
    /// The name is not of the form that identities have.
    #[error("{0}")]
    Malformed(String),
}

/// Reads the identity from a leaf certificate (DER): exactly one SAN URI
/// `job://<trust-domain>/<name>` if there is any such URI, else the one common name of the subject.
/// Where SPIFFE ids are accepted, exactly one `spiffe://<trust-domain>/<path>` or `job://` URI.
///
/// # Errors
/// [`IdentityError`]: no clientAuth, none or more than one, or not ours.
pub(crate) fn peer(der: &[u8], naming: &Naming) -> Result<Peer, IdentityError> {
    let (_, leaf) =
        X509Certificate::from_der(der).map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    let usage = leaf.extended_key_usage().map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    if !usage.is_some_and(|usage| usage.value.client_auth) {
        return Err(IdentityError::NotForClients);
    }
    let name = match uris(&leaf, naming.spiffe.is_some())?.as_slice() {
        [] if naming.spiffe.is_some() => {
            return Err(IdentityError::NoSpiffeId(naming.trust_domain.clone()));
        }
        [] => common_name(&leaf, &naming.trust_domain)?,
        [uri] => naming.name_of(uri)?,
        _ => return Err(IdentityError::Ambiguous),
    };
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Peer {
        identity: naming.identity(&name)?,
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

/// Whether a prefix and a dot stand before the name; no prefix stands before every name.
fn is_behind(name: &str, prefix: &str) -> bool {
    prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

fn uris(leaf: &X509Certificate<'_>, with_spiffe: bool) -> Result<Vec<String>, IdentityError> {
    let names =
        leaf.subject_alternative_name().map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    let names = names.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let is_ours = |uri: &str| uri.starts_with(JOB) || (with_spiffe && uri.starts_with(SPIFFE));
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if is_ours(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(uris.collect())
}

const JOB: &str = "job://";
const SPIFFE: &str = "spiffe://";

impl Naming {
    /// The name in a URI of this trust domain, without the domain's prefix.
    fn name_of(&self, uri: &str) -> Result<String, IdentityError> {
        let scheme = if uri.starts_with(SPIFFE) { SPIFFE } else { JOB };
        let path = uri
            .strip_prefix(scheme)
            .and_then(|rest| rest.split_once('/'))
            .filter(|(domain, _)| *domain == self.trust_domain)
            .map(|(_, path)| path);
        let path = path.ok_or_else(|| IdentityError::Foreign {
            uri: uri.into(),
            scheme,
            trust_domain: self.trust_domain.clone(),
        })?;
        if scheme == JOB {
            return Ok(path.to_owned());
        }
        match self.spiffe {
            Some(SpiffeNames::Last) => {
                Ok(path.rsplit_once('/').map_or(path, |(_, last)| last).to_owned())
            }
            _ if path.contains('.') => Err(IdentityError::Dot(uri.into())),
            _ => Ok(path.replace('/', ".")),
        }
    }

    /// Whether this domain names it: no other domain's prefix stands before it.
    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        let (name, own) = (identity.as_str(), self.prefix.as_deref().unwrap_or_default());
        let mut longer = self.reserved.iter().filter(|other| other.len() > own.len());
        is_behind(name, own) && !longer.any(|other| is_behind(name, other))
    }

    /// The identity of a name: with the domain's prefix, and none behind another domain's.
    fn identity(&self, name: &str) -> Result<Identity, IdentityError> {
        let whole = match &self.prefix {
            Some(prefix) => format!("{prefix}.{name}"),
            None => name.to_owned(),
        };
        // An empty name or segment would be nobody, or somebody else by another spelling.
        if name.is_empty() || (self.spiffe.is_some() && name.split('.').any(str::is_empty)) {
            let fault = format!("identity {} has an empty part", echo(&whole));
            return Err(IdentityError::Malformed(fault));
        }
        let own = self.prefix.as_ref().map_or(0, String::len);
        // The longest prefix has the name: of "a" and "a.b" the second has "a.b.c".
        let other =
            self.reserved.iter().find(|prefix| prefix.len() > own && is_behind(&whole, prefix));
        match other {
            Some(prefix) => Err(IdentityError::Reserved {
                name: whole,
                prefix: prefix.clone(),
                trust_domain: self.trust_domain.clone(),
            }),
            None => Identity::new(&whole).map_err(IdentityError::Malformed),
        }
    }
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

    fn naming(prefix: Option<&str>, spiffe: Option<SpiffeNames>) -> Naming {
        let reserved = ["partner", "a", "a.b"].map(str::to_owned).to_vec();
        let prefix = prefix.map(str::to_owned);
        Naming { trust_domain: "prod".into(), prefix, reserved, spiffe }
    }

    #[test]
    fn a_uri_names_one_in_its_own_trust_domain() {
        let main = naming(None, None);
        assert_eq!(main.name_of("job://prod/ci").as_deref(), Ok("ci"));
        for foreign in ["job://test/ci", "job://prod", "job://prod.evil/ci"] {
            assert!(matches!(main.name_of(foreign), Err(IdentityError::Foreign { .. })));
        }
    }

    #[test]
    fn names_of_another_trust_domain_have_its_prefix_and_nobody_else_has_it() {
        let name = |prefix, name: &str| {
            naming(prefix, None).identity(name).map(|identity| identity.to_string())
        };
        assert_eq!(name(None, "alice").as_deref(), Ok("alice"));
        assert_eq!(name(Some("partner"), "alice").as_deref(), Ok("partner.alice"));
        assert_eq!(name(Some("a.b"), "c").as_deref(), Ok("a.b.c"));
        assert_eq!(name(None, "partners.alice").as_deref(), Ok("partners.alice"));
        for (prefix, taken) in [(None, "partner.alice"), (None, "a.b.c"), (Some("a"), "b.c")] {
            assert!(matches!(name(prefix, taken), Err(IdentityError::Reserved { .. })), "{taken}");
        }
        assert!(name(Some("partner"), "").is_err());
        assert!(name(Some("partner"), &"x".repeat(60)).is_err());
    }

    #[test]
    fn a_spiffe_id_becomes_a_name_that_no_other_id_has() {
        use SpiffeNames::{Dotted, Last};
        let name = |spiffe, uri: &str| {
            let naming = naming(None, Some(spiffe));
            let name = naming.name_of(uri)?;
            naming.identity(&name).map(|identity| identity.to_string())
        };
        assert_eq!(name(Dotted, "spiffe://prod/ns/ci/sa/b").as_deref(), Ok("ns.ci.sa.b"));
        assert_eq!(name(Last, "spiffe://prod/ns/ci/sa/b.c").as_deref(), Ok("b.c"));
        assert_eq!(name(Dotted, "job://prod/b.c").as_deref(), Ok("b.c"));
        for refused in [
            "spiffe://prod",
            "spiffe://prod/",
            "spiffe://prod/a//b",
            "spiffe://prod/a/",
            "spiffe://other/a",
            "spiffe://prod/a.b/c",
            "spiffe://prod/partner/alice",
            "spiffe://prod/a%2fb",
            "spiffe://prod/../a",
        ] {
            assert!(name(Dotted, refused).is_err(), "{refused}");
        }
        for refused in ["spiffe://prod/a/", "spiffe://prod/", "spiffe://other/a"] {
            assert!(name(Last, refused).is_err(), "{refused}");
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
