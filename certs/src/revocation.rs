//! Revoking certificates, and the list that tells brokers of it. Nothing here takes a revocation back.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use x509_parser::certificate::X509Certificate;

use crate::authority::{Authority, crypto};
use crate::clock::{self, CLOCK_SKEW};
use crate::database::{self, Database, Record};
use crate::error::Error;
use crate::files;
use crate::issued;

/// Why a certificate is revoked (RFC 5280, section 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum Reason {
    /// No reason is given
    Unspecified,
    /// Somebody else may have its key
    KeyCompromise,
    /// Its holder has left, or does something else now
    AffiliationChanged,
    /// Another one has taken its place
    Superseded,
    /// It is not needed any more
    CessationOfOperation,
    /// Its holder may not do any more what it allowed
    PrivilegeWithdrawn,
}

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Whose it is, where that is known.
    pub name: Option<String>,
    /// It had been revoked before.
    pub is_known: bool,
}

/// A revocation list on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// The file, PEM.
    pub path: PathBuf,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// By when another must be made.
    pub next_update: SystemTime,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Unspecified => "unspecified",
            Reason::KeyCompromise => "keyCompromise",
            Reason::AffiliationChanged => "affiliationChanged",
            Reason::Superseded => "superseded",
            Reason::CessationOfOperation => "cessationOfOperation",
            Reason::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    fn of_name(name: &str) -> Option<RevocationReason> {
        match name {
            "keyCompromise" => Some(RevocationReason::KeyCompromise),
            "affiliationChanged" => Some(RevocationReason::AffiliationChanged),
            "superseded" => Some(RevocationReason::Superseded),
            "cessationOfOperation" => Some(RevocationReason::CessationOfOperation),
            "privilegeWithdrawn" => Some(RevocationReason::PrivilegeWithdrawn),
            // RFC 5280: unspecified is said by saying nothing.
            _ => None,
        }
    }
}

impl Authority {
    /// Revokes a certificate by its file or serial number, or all certificates of a name that are still valid. It
    /// takes effect with the next list that brokers read.
    ///
    /// # Errors
    /// Nothing of that name or number, a file of another authority; I/O. Nothing is revoked then.
    pub fn revoke(&self, which: &str, reason: Reason) -> Result<Vec<Revocation>, Error> {
        let mut database = Database::open(self.dir())?;
        let chosen = self.chosen(&database, which)?;
        let at = database::now();
        let mut revoked = Vec::new();
        let mut records = Vec::new();
        for (serial, name, not_after) in chosen {
            let is_known = database.revoked(&serial).is_some();
            if !is_known {
                let (serial, reason) = (serial.clone(), reason.name().to_owned());
                records.push(Record::Revoked { serial, at, reason, not_after });
            }
            revoked.push(Revocation { serial, name, is_known });
        }
        if !records.is_empty() {
            database.add(records)?;
        }
        Ok(revoked)
    }

    /// Serial number, name and end of what somebody has named.
    fn chosen(&self, database: &Database, which: &str) -> Result<Vec<Chosen>, Error> {
        let now = database::now();
        let of_name: Vec<Chosen> = database
            .entries()
            .filter(|entry| entry.name == which && entry.not_after >= now)
            .map(|entry| (entry.serial.clone(), Some(entry.name.clone()), Some(entry.not_after)))
            .collect();
        let is_named = database.entries().any(|entry| entry.name == which);
        let serial = database::typed_serial(which);
        let known = serial.as_deref().and_then(|serial| database.find(serial));
        let path = Path::new(which);
        if is_named && known.is_some() {
            return Err(Error::NameOrSerial(which.into()));
        }
        if is_named {
            return if of_name.is_empty() {
                Err(Error::AllExpired(which.into()))
            } else {
                Ok(of_name)
            };
        }
        if path.is_file() {
            let der = issued::read(path)?;
            return Ok(vec![self.of_this_authority(path, &der, |x509| {
                let name = issued::name(x509);
                let serial = database::serial(x509.raw_serial());
                (serial, name, Some(x509.validity().not_after.timestamp()))
            })?]);
        }
        match (serial, known) {
            (Some(serial), Some(entry)) => {
                Ok(vec![(serial, Some(entry.name.clone()), Some(entry.not_after))])
            }
            // An authority that is older than its database. A short number is a slip of the hand.
            (Some(serial), None) if serial.len() >= 16 => Ok(vec![(serial, None, None)]),
            _ => Err(Error::NothingToRevoke(which.into())),
        }
    }

    /// Writes a revocation list to `out`, or to `ca.crl` in the authority's directory, in the place of the one before.
    ///
    /// # Errors
    /// An authority that has expired; I/O.
    pub fn write_crl(&self, validity: Duration, out: Option<&Path>) -> Result<Crl, Error> {
        let mut database = Database::open(self.dir())?;
        let now = SystemTime::now();
        let next_update = now.checked_add(validity).ok_or(Error::Date)?;
        let (number, at) = (database.next_crl(), database::now());
        let (pem, revoked) = self.crl_pem(&database, number, now, next_update)?;
        database.add([Record::Crl { number, at }])?;
        let path = out.map_or_else(|| self.dir().join("ca.crl"), Path::to_owned);
        files::replace(&path, pem.as_bytes(), files::CERTIFICATE_MODE)?;
        Ok(Crl { path, revoked, next_update })
    }

    fn crl_pem(
        &self,
        database: &Database,
        number: u64,
        now: SystemTime,
        next_update: SystemTime,
    ) -> Result<(String, usize), Error> {
        let mut revoked_certs = Vec::new();
        // One that has expired is refused for that, and is left out a day later, for clocks that differ.
        let is_needed = |end: Option<i64>| end.is_none_or(|end| end + 86_400 > clock::seconds(now));
        for (serial, at, reason, _) in
            database.revocations().filter(|(.., not_after)| is_needed(*not_after))
        {
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&database::octets(serial)),
                revocation_time: clock::to_asn1(clock::from_seconds(at))?.to_datetime(),
                reason_code: Reason::of_name(reason),
                invalidity_date: None,
            });
        }
        let revoked = revoked_certs.len();
        let params = CertificateRevocationListParams {
            this_update: clock::to_asn1(now - CLOCK_SKEW)?.to_datetime(),
            next_update: clock::to_asn1(next_update)?.to_datetime(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list =
            params.signed_by(self.issuer()).map_err(crypto("signing the revocation list"))?;
        Ok((list.pem().map_err(crypto("encoding the revocation list"))?, revoked))
    }

    /// What the database says, a line for each certificate; `now` tells what has expired.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub fn list(&self, now: SystemTime) -> Result<String, Error> {
        let database = Database::open(self.dir())?;
        let now = clock::seconds(now);
        let mut text = String::new();
        let mut line = |cells: [&str; 5]| {
            let [serial, kind, name, until, status] = cells;
            // Infallible: the target is a String.
            let _ = writeln!(text, "{serial:<32}  {kind:<6}  {name:<20}  {until:<23}  {status}");
        };
        line(["SERIAL", "KIND", "NAME", "VALID UNTIL", "STATUS"]);
        for entry in database.entries() {
            let until = clock::to_asn1(clock::from_seconds(entry.not_after))?;
            let status = match database.revoked(&entry.serial) {
                Some((at, reason)) => {
                    let at = clock::readable(clock::to_asn1(clock::from_seconds(at))?);
                    format!("revoked {at}, {reason}")
                }
                None if entry.not_after < now => "expired".to_owned(),
                None => "valid".to_owned(),
            };
            let until = clock::readable(until);
            line([&entry.serial, &entry.kind, &entry.name, &until, &status]);
        }
        Ok(text)
    }

    /// Reads a fact from a certificate that this authority has signed.
    pub(crate) fn of_this_authority<T>(
        &self,
        path: &Path,
        der: &[u8],
        read: impl FnOnce(&X509Certificate<'_>) -> T,
    ) -> Result<T, Error> {
        let (_, x509) =
            x509_parser::parse_x509_certificate(der).map_err(|_| Error::Certificate {
                path: path.to_owned(),
                source: crate::error::CertificateError::NotACertificate,
            })?;
        if !self.has_signed(&x509) {
            return Err(Error::NotIssuedHere { path: path.to_owned(), dir: self.dir().to_owned() });
        }
        Ok(read(&x509))
    }
}

/// Serial number, name, end.
type Chosen = (String, Option<String>, Option<i64>);
