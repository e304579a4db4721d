//! Certificates that an authority has issued: recorded, recognized, renewed. Nothing here extends one that was revoked.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, signature};
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::authority::{Authority, Issued, crypto, later, new_key};
use crate::clock::{self, CLOCK_SKEW};
use crate::database::{self, Database, Entry, Record};
use crate::error::{CertificateError, Error};
use crate::files::{self, Pair, io_error};
use crate::leaf::{Leaf, Usage};
use crate::names::SCHEME;
use crate::show;

impl Authority {
    /// The record of a certificate that is about to be written.
    pub(crate) fn record(&self, der: &[u8]) -> Result<Record, Error> {
        let (_, x509) = x509_parser::parse_x509_certificate(der).map_err(|_| Error::Date)?;
        let usage = x509.extended_key_usage().ok().flatten();
        let is_server = usage.is_some_and(|usage| usage.value.server_auth);
        Ok(Record::Issued(Entry {
            serial: database::serial(x509.raw_serial()),
            kind: if is_server { "server" } else { "user" }.to_owned(),
            name: name(&x509).unwrap_or_default(),
            sha256: fingerprint(der),
            not_before: x509.validity().not_before.timestamp(),
            not_after: x509.validity().not_after.timestamp(),
            at: database::now(),
        }))
    }

    /// Whether the key of this authority has signed the certificate.
    pub(crate) fn has_signed(&self, x509: &X509Certificate<'_>) -> bool {
        let key = self.issuer().key().der_bytes();
        let signed = x509.tbs_certificate.as_ref();
        let signature = x509.signature_value.data.as_ref();
        // Every authority of this program has a P-256 key.
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, key)
            .verify(signed, signature)
            .is_ok()
    }

    /// Issues a certificate with the names and usages of the one in `file`, in its place or at `out`. The key stays, or
    /// a new one is made. `validity`: as long as the old one, unless given.
    ///
    /// # Errors
    /// A certificate of another authority, one that has expired or was revoked; a file at `out` that exists; I/O.
    pub fn renew(
        &self,
        file: &Path,
        out: Option<&Path>,
        validity: Option<Duration>,
        with_new_key: bool,
    ) -> Result<Issued, Error> {
        let der = read(file)?;
        let (old, serial, key) = self.of_this_authority(file, &der, |x509| {
            (leaf_of(x509), database::serial(x509.raw_serial()), x509.public_key().raw.to_vec())
        })?;
        let old = old.map_err(|what| Error::Certificate {
            path: file.to_owned(),
            source: CertificateError::Damaged(what),
        })?;
        let now = SystemTime::now();
        if now > old.not_after {
            return Err(Error::TooLate(file.to_owned()));
        }
        let mut database = Database::open(self.dir())?;
        if let Some((_, reason)) = database.revoked(&serial) {
            let (path, reason) = (file.to_owned(), reason.to_owned());
            return Err(Error::WasRevoked { path, reason });
        }
        let lifetime = old.not_after.duration_since(old.not_before).unwrap_or_default();
        let validity = validity.unwrap_or_else(|| lifetime.saturating_sub(CLOCK_SKEW));
        let leaf = Leaf {
            not_before: now - CLOCK_SKEW,
            not_after: later(now, validity)?.min(self.not_after()),
            ..old
        };
        let params = leaf.params(self.domain())?;
        let (certificate, key_pem) = if with_new_key {
            let key = new_key()?;
            let signed = params.signed_by(&key, self.issuer());
            (signed, Some(key.serialize_pem()))
        } else {
            let key = SubjectPublicKeyInfo::from_der(&key).map_err(crypto("reading the key"))?;
            (params.signed_by(&key, self.issuer()), None)
        };
        let certificate = certificate.map_err(crypto("signing the certificate"))?;
        let record = self.record(certificate.der())?;
        let pair = match out {
            Some(out) => Pair::at(out)?,
            None => Pair { certificate: file.to_owned(), key: file.with_extension("key") },
        };
        let pem = certificate.pem();
        let record = || database.add([record]);
        match (out, key_pem) {
            (Some(_), Some(key)) => pair.write(&pem, &key, OTHER_PLACE, record)?,
            (Some(_), None) => pair.write_certificate(&pem, OTHER_PLACE, record)?,
            (None, key) => {
                record()?;
                if let Some(key) = key {
                    files::replace(&pair.key, key.as_bytes(), files::KEY_MODE)?;
                }
                files::replace(&pair.certificate, pem.as_bytes(), files::CERTIFICATE_MODE)?;
            }
        }
        Ok(Issued { certificate: pair.certificate, key: pair.key, not_after: leaf.not_after })
    }
}

const OTHER_PLACE: &str = "move it away, or name another place with --out PREFIX";

/// The first certificate of a file, PEM or DER.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(io_error("reading", path))?;
    let all = show::certificates(&bytes);
    let first = all.map(|all| all.into_iter().next());
    first
        .and_then(|first| first.ok_or(CertificateError::Absent))
        .map_err(|source| Error::Certificate { path: path.to_owned(), source })
}

/// The user of a certificate, or the first name of its server.
pub(crate) fn name(x509: &X509Certificate<'_>) -> Option<String> {
    let san = x509.subject_alternative_name().ok().flatten();
    let names = san.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let of_uri = |uri: &str| Some(uri.strip_prefix(SCHEME)?.split_once('/')?.1.to_owned());
    let user = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => of_uri(uri),
        _ => None,
    });
    let common = x509.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    let host = names.iter().find_map(|name| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(octets) => Some(show::address(octets)),
        _ => None,
    });
    user.or(common.map(str::to_owned)).or(host)
}

/// Names, usages and dates of a certificate; what cannot be carried over is an error.
fn leaf_of(x509: &X509Certificate<'_>) -> Result<Leaf, &'static str> {
    let san = x509.subject_alternative_name().map_err(|_| "alternative names")?;
    let mut leaf = Leaf {
        common_name: None,
        uris: Vec::new(),
        dns: Vec::new(),
        ips: Vec::new(),
        usages: Vec::new(),
        not_before: clock::from_asn1(x509.validity().not_before),
        not_after: clock::from_asn1(x509.validity().not_after),
    };
    for name in san.map(|san| san.value.general_names.as_slice()).unwrap_or_default() {
        match name {
            GeneralName::URI(uri) => leaf.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => leaf.dns.push((*dns).to_owned()),
            GeneralName::IPAddress(octets) => {
                leaf.ips.push(show::address(octets).parse().map_err(|_| "alternative names")?);
            }
            _ => return Err("alternative names"),
        }
    }
    let mut common = x509.subject().iter_common_name();
    if let Some(name) = common.next() {
        leaf.common_name = Some(name.as_str().map_err(|_| "subject")?.to_owned());
    }
    let usage = x509.extended_key_usage().map_err(|_| "key usages")?;
    if let Some(usage) = usage {
        leaf.usages.extend(usage.value.server_auth.then_some(Usage::Server));
        leaf.usages.extend(usage.value.client_auth.then_some(Usage::Client));
    }
    Ok(leaf)
}

fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    digest.as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}
