//! Checks the certificate files before a client connects, for `check-config` and for the log at each start and reload. It
//! must not change what is in force.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use job_api::pem;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::config;
use crate::model::certificates::AuthorityReport;
use crate::serve::tls::Tls;

/// The number of days before expiry from which on a warning is given: longer than an operator's holiday.
const SOON_DAYS: i64 = 30;
/// The same of a revocation list, in hours: many authorities make a new one each day.
const LIST_SOON_HOURS: i64 = 6;
const DAY: i64 = 24 * 60 * 60;

/// The findings, each in a sentence for an operator.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// No client could connect, or the broker could not start.
    pub(super) faults: Vec<String>,
    /// The broker works today.
    pub(super) warnings: Vec<String>,
}

/// Checks all files now.
pub(super) fn check(files: &config::Tls) -> Findings {
    let mut found = Findings::default();
    // Each file is valid by itself; then they must fit together.
    if check_files(&mut found, files) {
        match Tls::load(files) {
            Ok(tls) => lists(&mut found, &tls.trust.report(), ASN1Time::now()),
            Err(e) => found.faults.push(e.to_string()),
        }
    }
    found
}

/// The same of files that were loaded just now: lists may be large, and are not read twice.
pub(super) fn check_loaded(files: &config::Tls, tls: &Tls) -> Findings {
    let mut found = Findings::default();
    check_files(&mut found, files);
    lists(&mut found, &tls.trust.report(), ASN1Time::now());
    found
}

impl Findings {
    /// Logs the findings. The broker runs even with a certificate that no client accepts: its jobs need it.
    pub(super) fn log(&self) {
        self.faults.iter().for_each(|fault| tracing::error!("{fault}"));
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    fn fault(&mut self, key: &str, path: &Path, what: impl std::fmt::Display) {
        self.faults.push(format!("{key}: {} {what}", path.display()));
    }

    fn warn(&mut self, key: &str, path: &Path, what: impl std::fmt::Display) {
        self.warnings.push(format!("{key}: {} {what}", path.display()));
    }
}

/// Checks certificates and key, each by itself. Returns whether all could be read.
fn check_files(found: &mut Findings, files: &config::Tls) -> bool {
    let now = ASN1Time::now();
    let server = server(found, &files.cert, now);
    let mut authorities = authorities(found, "tls.client_ca", &files.client_ca, now);
    for one in &files.authority {
        authorities &= self::authorities(found, "tls.authority.ca", &one.ca, now);
    }
    let key = key(found, &files.key);
    server && authorities && key
}

/// Checks the broker's certificates. Returns whether the file could be read.
fn server(found: &mut Findings, path: &Path, now: ASN1Time) -> bool {
    const KEY: &str = "tls.cert";
    let Some(chain) = read(found, KEY, path) else { return false };
    for (n, der) in chain.iter().enumerate() {
        let Some(certificate) = parse(found, KEY, path, der) else { return false };
        match validity(&certificate, now) {
            Validity::Fine => {}
            Validity::Early(date) => found.fault(KEY, path, early(&date, now)),
            Validity::Soon(date, left) => found.warn(KEY, path, expires(&date, left)),
            Validity::Over(date) => {
                found.fault(KEY, path, format!("has expired on {date}; no client connects"));
            }
        }
        if n == 0 {
            leaf(found, path, &certificate);
        }
    }
    true
}

/// Checks what a client verifies in the broker's certificate.
fn leaf(found: &mut Findings, path: &Path, certificate: &X509Certificate<'_>) {
    const KEY: &str = "tls.cert";
    // An absent extension is no restriction: RFC 5280, 4.2.1.12.
    let usage = certificate.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        found.fault(KEY, path, "lacks the extended key usage serverAuth; no client connects");
    }
    if !matches!(certificate.subject_alternative_name(), Ok(Some(_))) {
        found.fault(
            KEY,
            path,
            "names no host (it has no subject alternative name); no client connects",
        );
    }
}

/// Checks the revocation lists: one that was not renewed refuses everybody.
fn lists(found: &mut Findings, authorities: &[AuthorityReport], now: ASN1Time) {
    for AuthorityReport { subject, list_until, .. } in authorities {
        let until = list_until.and_then(|until| until.duration_since(UNIX_EPOCH).ok());
        let Some(until) = until.and_then(|until| i64::try_from(until.as_secs()).ok()) else {
            continue;
        };
        let date = ASN1Time::from_timestamp(until).map(|until| until.to_string());
        let date = date.unwrap_or_default();
        let left = until - now.timestamp();
        if left <= 0 {
            found.faults.push(format!(
                "tls.crl: the revocation list of {subject:?} was to be renewed by {date}: no client \
                 of that authority connects until it is (\"job-certs crl\")"
            ));
        } else if left < LIST_SOON_HOURS * 60 * 60 {
            found.warnings.push(format!(
                "tls.crl: the revocation list of {subject:?} is to be renewed by {date}; then no \
                 client of that authority connects (\"job-certs crl\")"
            ));
        }
    }
}

/// Checks the client authorities. Returns whether the file could be read.
fn authorities(found: &mut Findings, key: &str, path: &Path, now: ASN1Time) -> bool {
    let Some(all) = read(found, key, path) else { return false };
    let (mut count, mut over) = (0, Vec::new());
    for der in &all {
        let Some(certificate) = parse(found, key, path, der) else { return false };
        if !certificate.is_ca() {
            let subject = certificate.subject().to_string();
            found.warn(key, path, format!("holds {subject:?}, which is no CA certificate"));
            continue;
        }
        count += 1;
        match validity(&certificate, now) {
            Validity::Fine => {}
            Validity::Early(date) => over.push(early(&date, now)),
            Validity::Over(date) => over.push(format!("has expired on {date}")),
            Validity::Soon(date, left) => found.warn(key, path, expires(&date, left)),
        }
    }
    if count == 0 {
        found.fault(
            key,
            path,
            "holds no CA certificate (basic constraints: CA); nobody can connect",
        );
    } else if over.len() == count {
        found.fault(key, path, format!("is not valid today: it {}", over.join("; another ")));
    } else if !over.is_empty() {
        // An old authority beside a new one, while certificates of both are in use.
        found.warn(key, path, format!("holds one that {}", over.join(", and one that ")));
    }
    true
}

/// Checks the private key. Returns whether the file could be read.
fn key(found: &mut Findings, path: &Path) -> bool {
    const KEY: &str = "tls.key";
    if let Err(e) = PrivateKeyDer::from_pem_file(path) {
        found.fault(KEY, path, format!("cannot be used: {}{HOW}", pem::fault(&e)));
        return false;
    }
    match fs::metadata(path).map(|file| file.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => {
            let path_shown = path.display();
            let advice = format!(
                "is open to others than its owner (mode {mode:04o}): chmod 600 {path_shown}"
            );
            found.warn(KEY, path, advice);
        }
        _ => {}
    }
    true
}

const HOW: &str = "; \"job-certs init\" and \"job-certs issue\" make certificates";

fn read(found: &mut Findings, key: &str, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    match all {
        Ok(all) if !all.is_empty() => return Some(all),
        Ok(_) => found.fault(key, path, format!("holds no certificate{HOW}")),
        Err(e) => found.fault(key, path, format!("cannot be used: {}{HOW}", pem::fault(&e))),
    }
    None
}

fn parse<'a>(
    found: &mut Findings,
    key: &str,
    path: &Path,
    der: &'a CertificateDer<'_>,
) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Some(certificate),
        Err(e) => {
            found.fault(key, path, format!("cannot be read as X.509: {e}"));
            None
        }
    }
}

/// A certificate's validity at a given day, with dates in a readable form.
#[derive(Debug, PartialEq, Eq)]
enum Validity {
    Early(String),
    Fine,
    /// The date, and the number of days left.
    Soon(String, i64),
    Over(String),
}

fn validity(certificate: &X509Certificate<'_>, now: ASN1Time) -> Validity {
    let validity = certificate.validity();
    let date = |time: ASN1Time| time.to_datetime().date().to_string();
    let left = validity.not_after.timestamp() - now.timestamp();
    if left < 0 {
        Validity::Over(date(validity.not_after))
    } else if now.timestamp() < validity.not_before.timestamp() {
        Validity::Early(date(validity.not_before))
    } else if left < SOON_DAYS * DAY {
        Validity::Soon(date(validity.not_after), left / DAY)
    } else {
        Validity::Fine
    }
}

fn early(date: &str, now: ASN1Time) -> String {
    let today = now.to_datetime().date();
    format!("is not valid before {date}, and this host's clock says {today}")
}

fn expires(date: &str, left: i64) -> String {
    match left {
        0 => format!("expires on {date}, within a day"),
        1 => format!("expires on {date}, in 1 day"),
        left => format!("expires on {date}, in {left} days"),
    }
}
