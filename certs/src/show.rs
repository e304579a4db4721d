//! Certificates in words.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::SystemTime;

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock;
use crate::error::CertificateError;
use crate::names::SCHEME;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Describes all certificates of a file, PEM or DER, one line per fact.
///
/// # Errors
/// Where there is no certificate in it, or a broken one.
pub(crate) fn file(bytes: &[u8], now: SystemTime) -> Result<String, CertificateError> {
    let ders = certificates(bytes)?;
    let described: Result<Vec<String>, _> = ders.iter().map(|der| describe(der, now)).collect();
    Ok(described?.join("\n"))
}

pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    const DER_SEQUENCE: u8 = 0x30;
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![bytes.to_vec()]);
    }
    let blocks: Vec<Pem> = Pem::iter_from_buffer(bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Format)?;
    let has_key = blocks.iter().any(|block| block.label.ends_with("PRIVATE KEY"));
    let certificates = blocks.into_iter().filter(|block| block.label == "CERTIFICATE");
    let ders: Vec<Vec<u8>> = certificates.map(|block| block.contents).collect();
    match (ders.is_empty(), has_key) {
        (false, _) => Ok(ders),
        (true, true) => Err(CertificateError::PrivateKey),
        (true, false) => Err(CertificateError::Absent),
    }
}

fn describe(der: &[u8], now: SystemTime) -> Result<String, CertificateError> {
    let (_, cert) =
        x509_parser::parse_x509_certificate(der).map_err(|_| CertificateError::NotACertificate)?;
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // Infallible: the target is a String.
        let _ = writeln!(text, "  {key:<12} {}", printable(value));
    };
    let names = alternative_names(&cert)?;
    let usages = usages(&cert)?;
    line("subject", &cert.subject().to_string());
    line("issuer", &cert.issuer().to_string());
    line("identity", &identity(&cert, &names, &usages));
    line("names", &or_none(&names.iter().map(name).collect::<Vec<_>>()));
    line("usage", &or_none(&usages));
    line("key", &key_type(cert.public_key()));
    line("serial", &cert.raw_serial_as_string());
    line("valid from", &clock::readable(cert.validity().not_before));
    line("valid until", &clock::readable(cert.validity().not_after));
    line("status", &status(&cert, now));
    line("sha256", &hex(digest::digest(&digest::SHA256, der).as_ref()));
    Ok(text)
}

fn alternative_names<'a>(
    cert: &'a X509Certificate<'a>,
) -> Result<Vec<GeneralName<'a>>, CertificateError> {
    let names = cert
        .subject_alternative_name()
        .map_err(|_| CertificateError::Damaged("alternative names"))?;
    Ok(names.map(|san| san.value.general_names.clone()).unwrap_or_default())
}

/// Extended key usages by their names in RFC 5280; for a CA, what it is.
fn usages(cert: &X509Certificate<'_>) -> Result<Vec<String>, CertificateError> {
    let mut usages = Vec::new();
    if cert.is_ca() {
        usages.push("certificate authority".to_owned());
    }
    let eku = cert.extended_key_usage().map_err(|_| CertificateError::Damaged("key usages"))?;
    let Some(eku) = eku else {
        return Ok(usages);
    };
    let known = [
        (eku.value.any, "any"),
        (eku.value.server_auth, "serverAuth"),
        (eku.value.client_auth, "clientAuth"),
        (eku.value.code_signing, "codeSigning"),
        (eku.value.email_protection, "emailProtection"),
        (eku.value.time_stamping, "timeStamping"),
        (eku.value.ocsp_signing, "OCSPSigning"),
    ];
    usages.extend(known.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    usages.extend(eku.value.other.iter().map(|oid| oid.to_id_string()));
    Ok(usages)
}

/// Who a broker would take the holder for, by the rule of the project: a client certificate's one
/// `job://` URI, else its Common Name.
fn identity(cert: &X509Certificate<'_>, names: &[GeneralName<'_>], usages: &[String]) -> String {
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        })
        .collect();
    if cert.is_ca() {
        return match uris.as_slice() {
            [uri] => format!("none: the authority of {uri}"),
            _ => "none: an authority".to_owned(),
        };
    }
    if !usages.iter().any(|usage| usage == "clientAuth") {
        return "none: not a user's certificate (no clientAuth)".to_owned();
    }
    let common_names: Vec<&str> =
        cert.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()).collect();
    match (uris.as_slice(), common_names.as_slice()) {
        ([uri], _) => (*uri).to_owned(),
        ([], [name]) => format!("{name} (by its Common Name)"),
        ([], []) => "none: neither a job:// URI nor a Common Name".to_owned(),
        _ => "none: ambiguous, a broker refuses it".to_owned(),
    }
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => format!("URI {uri}"),
        GeneralName::DNSName(dns) => format!("DNS {dns}"),
        GeneralName::IPAddress(octets) => format!("IP {}", address(octets)),
        GeneralName::RFC822Name(mail) => format!("email {mail}"),
        other => other.to_string(),
    }
}

pub(crate) fn address(octets: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    address.map_or_else(|_| format!("malformed ({})", hex(octets)), |ip| ip.to_string())
}

fn key_type(key: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = key.algorithm.algorithm.to_id_string();
    if algorithm == "1.3.101.112" {
        return "Ed25519".to_owned();
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
                Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
                Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
                other => format!("ECDSA on curve {}", other.unwrap_or("unknown")),
            }
        }
        _ => format!("algorithm {algorithm}"),
    }
}

fn status(cert: &X509Certificate<'_>, now: SystemTime) -> String {
    let now = clock::seconds(now);
    let until = cert.validity().not_after.timestamp();
    let from = cert.validity().not_before.timestamp();
    if now > until {
        format!("EXPIRED {} ago", span(now.abs_diff(until)))
    } else if now < from {
        format!("NOT VALID YET, in {}", span(from.abs_diff(now)))
    } else {
        format!("valid, {} left", span(until.abs_diff(now)))
    }
}

/// A number of seconds in its largest whole unit: `29 days`, `1 hour`.
fn span(seconds: u64) -> String {
    let (n, unit) = match seconds {
        DAY.. => (seconds / DAY, "day"),
        HOUR.. => (seconds / HOUR, "hour"),
        MINUTE.. => (seconds / MINUTE, "minute"),
        _ => (seconds, "second"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn or_none(values: &[String]) -> String {
    if values.is_empty() { "none".to_owned() } else { values.join(", ") }
}

/// A certificate is somebody else's text: no control character of it reaches the terminal.
fn printable(s: &str) -> String {
    let escape = |c: char| {
        if c.is_control() { c.escape_default().collect() } else { c.to_string() }
    };
    s.chars().map(escape).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, days};

    #[test]
    fn the_status_counts_to_the_end_and_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create(&dir.path().join("pki"), "local", days(9)).unwrap();
        let leaf = ca.user_leaf("ann", days(2)).unwrap();
        let pem = ca.sign(&leaf).unwrap().certificate_pem;
        let shown_at = |now| file(pem.as_bytes(), now).unwrap();
        assert!(shown_at(leaf.not_after - days(1)).contains("valid, 1 day left"));
        assert!(shown_at(leaf.not_after).contains("valid, 0 seconds left"));
        assert!(shown_at(leaf.not_after + days(3)).contains("EXPIRED 3 days ago"));
        assert!(shown_at(leaf.not_before - days(2)).contains("NOT VALID YET, in 2 days"));
    }

    #[test]
    fn a_span_is_told_in_its_largest_whole_unit() {
        assert_eq!(span(0), "0 seconds");
        assert_eq!(span(61), "1 minute");
        assert_eq!(span(2 * HOUR), "2 hours");
        assert_eq!(span(2 * DAY - 1), "1 day");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_never_panics() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(file(key.as_bytes(), SystemTime::now()).unwrap_err().to_string().contains(".crt"));
        for bytes in [&b""[..], b"\n", b"hello", b"0", b"0\x82\xff\xff", &[0xff; 64]] {
            assert!(file(bytes, SystemTime::now()).is_err(), "{bytes:?} was taken");
        }
    }
}
