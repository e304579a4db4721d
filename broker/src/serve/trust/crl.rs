//! Certificate revocation lists: read, verified once, kept as a sorted table of serial numbers. A list that nobody in
//! force has signed must be an error: it would revoke nothing.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use rustls::DistinguishedName;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{BorrowedCertRevocationList, CertRevocationList, RevocationReason};
use x509_parser::asn1_rs::{Any, BitString, FromDer, Tag};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// One list whose signature was verified.
pub(crate) struct Crl {
    next_update: UnixTime,
    /// By serial number. 28 bytes each: a million of them take 28 MB.
    revoked: Vec<Revoked>,
}

/// One revoked certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revoked {
    serial: Serial,
    /// Seconds since 1970.
    date: u32,
    reason: Option<u8>,
}

/// A serial number without leading zeros, right-aligned. RFC 5280, 4.1.2.2: 20 octets at most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Serial([u8; 20]);

/// A list that was read and not verified yet.
pub(in crate::serve) struct Unverified {
    path: PathBuf,
    der: CertificateRevocationListDer<'static>,
}

/// What is wrong with a list, in words for an operator; the path stands before it.
pub(in crate::serve) type Fault = String;

impl Serial {
    /// From the contents of a DER INTEGER. `None` if it has more than 20 octets.
    pub(crate) fn new(octets: &[u8]) -> Option<Serial> {
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        let octets = &octets[zeros..];
        let mut serial = [0; 20];
        serial.get_mut(20_usize.checked_sub(octets.len())?..)?.copy_from_slice(octets);
        Some(Serial(serial))
    }

    /// From hexadecimal digits.
    pub(super) fn from_hex(digits: &str) -> Option<Serial> {
        let octet = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        let octets: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
        Serial::new(&octets?)
    }
}

/// As openssl and job-certs show it: `4f:0a`.
impl Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = self.0.iter().take_while(|octet| **octet == 0).count().min(19);
        for (n, octet) in self.0[zeros..].iter().enumerate() {
            write!(f, "{}{octet:02x}", if n == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Revoked {
    /// When the authority revoked it, in seconds since 1970.
    pub(crate) fn date(&self) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.date.into()))
    }

    /// The reason, by its name in RFC 5280, 5.3.1.
    pub(crate) fn reason(&self) -> &'static str {
        match self.reason {
            Some(1) => "key compromise",
            Some(2) => "compromise of the authority",
            Some(3) => "affiliation changed",
            Some(4) => "superseded",
            Some(5) => "cessation of operation",
            Some(6) => "on hold",
            Some(9) => "privilege withdrawn",
            Some(10) => "compromise of the attribute authority",
            _ => "no reason given",
        }
    }
}

impl Crl {
    /// The time from which on it says nothing any more.
    pub(crate) fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// The number of certificates that it revokes.
    pub(crate) fn len(&self) -> usize {
        self.revoked.len()
    }

    /// The entry of this serial number.
    pub(crate) fn find(&self, serial: Serial) -> Option<Revoked> {
        let at = self.revoked.binary_search_by_key(&serial, |entry| entry.serial).ok()?;
        self.revoked.get(at).copied()
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl({} revoked)", self.len())
    }
}

/// The lists in the bytes of a file: one in DER, or one or more in PEM.
pub(in crate::serve) fn parse_file(path: &Path, bytes: Vec<u8>) -> Result<Vec<Unverified>, Fault> {
    const DER_SEQUENCE: u8 = 0x30;
    let unverified = |der| Unverified { path: path.into(), der };
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![unverified(bytes.into())]);
    }
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it holds no revocation list (PEM: X509 CRL)".into()),
        Ok(all) => Ok(all.into_iter().map(unverified).collect()),
        Err(e) => Err(job_api::pem::fault(&e)),
    }
}

impl Unverified {
    /// Whether this authority has issued it, by name and signature.
    pub(in crate::serve) fn is_signed_by(
        &self,
        authority: &TrustAnchor<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let Some(parts) = Parts::of(&self.der) else { return false };
        let Some((key_algorithm, key)) = key_of(&authority.subject_public_key_info) else {
            return false;
        };
        parts.issuer == authority.subject.as_ref()
            && algorithms.all.iter().any(|algorithm| {
                algorithm.signature_alg_id().as_ref() == parts.algorithm
                    && algorithm.public_key_alg_id().as_ref() == key_algorithm
                    && algorithm.verify_signature(key, parts.signed, parts.signature).is_ok()
            })
    }

    /// The entries, after the signature was verified.
    pub(in crate::serve) fn into_crl(self) -> Result<Crl, Fault> {
        let list = BorrowedCertRevocationList::from_der(&self.der)
            .map_err(|e| format!("it cannot be used as a revocation list: {e}"))?;
        let next_update = Parts::of(&self.der)
            .and_then(|parts| parts.next_update)
            .ok_or("it cannot be read: it has no date of the next update")?;
        let mut revoked = Vec::new();
        for entry in &list {
            let entry = entry.map_err(|e| format!("entry {} of it: {e}", revoked.len() + 1))?;
            let serial = Serial::new(entry.serial_number)
                .ok_or_else(|| format!("entry {} of it is too long", revoked.len() + 1))?;
            let date = u32::try_from(entry.revocation_date.as_secs()).unwrap_or(u32::MAX);
            let reason = entry.reason_code.map(number);
            revoked.push(Revoked { serial, date, reason });
        }
        revoked.shrink_to_fit();
        revoked.sort_unstable();
        let list = CertRevocationList::from(list);
        if list.issuing_distribution_point().is_some_and(is_partial) {
            return Err("it covers only some certificates of its authority (issuing distribution \
                        point): a complete list is needed"
                .into());
        }
        Ok(Crl { next_update, revoked })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn number(reason: RevocationReason) -> u8 {
    match reason {
        RevocationReason::Unspecified => 0,
        RevocationReason::KeyCompromise => 1,
        RevocationReason::CaCompromise => 2,
        RevocationReason::AffiliationChanged => 3,
        RevocationReason::Superseded => 4,
        RevocationReason::CessationOfOperation => 5,
        RevocationReason::CertificateHold => 6,
        RevocationReason::RemoveFromCrl => 8,
        RevocationReason::PrivilegeWithdrawn => 9,
        RevocationReason::AaCompromise => 10,
    }
}

/// Whether an issuing distribution point says more than where the list can be had (RFC 5280, 5.2.5).
fn is_partial(point: &[u8]) -> bool {
    const WHERE: Tag = Tag(0);
    let Ok((_, Any { data, .. })) = Any::from_der(point) else { return true };
    let mut rest = data;
    while !rest.is_empty() {
        match Any::from_der(rest) {
            Ok((after, part)) if part.tag() == WHERE => rest = after,
            _ => return true,
        }
    }
    false
}

/// The outer structure of a list (RFC 5280, 5.1); its entries are not looked at.
struct Parts<'a> {
    signed: &'a [u8],
    /// The contents of the AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// The contents of the issuer's name.
    issuer: &'a [u8],
    next_update: Option<UnixTime>,
}

impl<'a> Parts<'a> {
    fn of(der: &'a [u8]) -> Option<Parts<'a>> {
        let (_, Any { data: whole, .. }) = Any::from_der(der).ok()?;
        let (after, Any { data: list, .. }) = Any::from_der(whole).ok()?;
        let signed = whole.get(..whole.len() - after.len())?;
        let (after, Any { data: algorithm, .. }) = Any::from_der(after).ok()?;
        let (_, signature) = BitString::from_der(after).ok()?;
        let (after, version) = Any::from_der(list).ok()?;
        let after = if version.tag() == Tag::Integer { after } else { list };
        let (after, _algorithm) = Any::from_der(after).ok()?;
        let (after, Any { data: issuer, .. }) = Any::from_der(after).ok()?;
        let (after, _this_update) = ASN1Time::from_der(after).ok()?;
        let next_update = ASN1Time::from_der(after).ok().and_then(|(_, time)| unix(time));
        Some(Parts { signed, algorithm, signature: data(signature), issuer, next_update })
    }
}

/// The contents of a key's AlgorithmIdentifier, and the key, from the contents of a SubjectPublicKeyInfo.
fn key_of(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let (after, Any { data: algorithm, .. }) = Any::from_der(info).ok()?;
    let (_, key) = BitString::from_der(after).ok()?;
    Some((algorithm, data(key)))
}

fn data(bits: BitString<'_>) -> &[u8] {
    match bits.data {
        std::borrow::Cow::Borrowed(data) => data,
        std::borrow::Cow::Owned(_) => &[],
    }
}

/// A date of a certificate; none before 1970.
pub(super) fn unix(time: ASN1Time) -> Option<UnixTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

/// A distinguished name, from its contents.
pub(in crate::serve) fn name_in_words(contents: &[u8]) -> String {
    let der = DistinguishedName::in_sequence(contents);
    X509Name::from_der(der.as_ref()).map_or_else(
        |_| "an authority whose name cannot be read".into(),
        |(_, name)| name.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_with_and_without_its_leading_zero() {
        assert_eq!(Serial::new(&[0, 0x9f, 1]), Serial::new(&[0x9f, 1]));
        assert_ne!(Serial::new(&[1]), Serial::new(&[1, 0]));
        assert_eq!(Serial::new(&[7; 21]), None);
        assert_eq!(Serial::new(&[0x4f, 0x0a]).unwrap().to_string(), "4f:0a");
        assert_eq!(Serial::new(&[0]).unwrap().to_string(), "00");
        assert_eq!(Serial::from_hex("4F0A"), Serial::new(&[0x4f, 0x0a]));
        assert_eq!(Serial::from_hex("4F0"), None);
    }

    #[test]
    fn what_is_no_list_is_refused_and_never_panics() {
        for bytes in [&b""[..], b"\n", b"hello", b"0", b"0\x82\xff\xff", &[0x30; 64]] {
            let parsed = parse_file(Path::new("x"), bytes.to_vec());
            assert!(parsed.is_err() || parsed.unwrap().remove(0).into_crl().is_err(), "{bytes:?}");
        }
    }
}
