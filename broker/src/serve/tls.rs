//! The TLS configuration: TLS 1.3 only, with client certificates. It must not resume sessions, since a resumed session
//! skips the verification of the client.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::config;
use crate::metrics::labels::TlsFailure;

/// The server side of TLS: certificates, keys and the client verifier.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) trust_domain: Arc<str>,
    /// When the broker's certificate ends, and the first of the authorities; seconds since 1970.
    pub(crate) expires: [Option<i64>; 2],
}

/// Invalid certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file is missing, or is not PEM of the expected kind.
    #[error(
        "cannot use {path} as {what}: {detail}; \
         \"job-certs init\" and \"job-certs issue\" make certificates"
    )]
    File {
        /// The configuration key: tls.cert, tls.key, tls.client_ca.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        detail: String,
    },
    /// The certificate and the key do not match.
    #[error("certificate {cert} and its key cannot be used: {detail}")]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The reason.
        detail: String,
    },
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`TlsError`], in a sentence for an operator.
    pub(crate) fn load(files: &config::Tls) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        let authorities = certificates("tls.client_ca", &files.client_ca)?;
        let first_of_authorities = authorities.iter().filter_map(not_after).min();
        for ca in authorities {
            roots.add(ca).map_err(|e| unusable("tls.client_ca", &files.client_ca, e))?;
        }
        let chain = certificates("tls.cert", &files.cert)?;
        let expires = [chain.first().and_then(not_after), first_of_authorities];
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|e| unusable("tls.key", &files.key, e))?;
        let provider = Arc::new(provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|e| unusable("tls.client_ca", &files.client_ca, e))?;
        let pair =
            |e: rustls::Error| TlsError::Pair { cert: files.cert.clone(), detail: e.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let trust_domain = files.trust_domain.as_str().into();
        Ok(Tls { config: Arc::new(config), trust_domain, expires })
    }
}

/// Why a handshake failed. If a client certificate is expired or not yet valid, the text has its dates and this
/// host's clock, since one of them is wrong.
pub(super) fn in_words(error: &io::Error) -> String {
    use CertificateError::{ExpiredContext, NotValidYetContext};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let (what, bound, now) = match cause {
        Some(rustls::Error::InvalidCertificate(NotValidYetContext { time, not_before })) => {
            ("is not valid yet: it is valid not before", not_before, time)
        }
        Some(rustls::Error::InvalidCertificate(ExpiredContext { time, not_after })) => {
            ("has expired: it is valid until", not_after, time)
        }
        _ => return error.to_string(),
    };
    let [bound, now] = [bound, now].map(|time| date(*time));
    format!("the client's certificate {what} {bound}, and this host's clock says {now}")
}

/// The kind of a failed handshake, for the metrics.
pub(super) fn failure_kind(error: &io::Error) -> TlsFailure {
    use CertificateError as Fault;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::NoCertificatesPresented) => TlsFailure::NoCertificate,
        Some(rustls::Error::InvalidCertificate(fault)) => match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => TlsFailure::Expired,
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => TlsFailure::NotValidYet,
            Fault::Revoked => TlsFailure::Revoked,
            Fault::UnknownIssuer => TlsFailure::UnknownIssuer,
            _ => TlsFailure::BadCertificate,
        },
        Some(rustls::Error::AlertReceived(_)) => TlsFailure::ClientAlert,
        Some(_) => TlsFailure::Protocol,
        None => match error.kind() {
            io::ErrorKind::TimedOut => TlsFailure::Timeout,
            io::ErrorKind::Unsupported => TlsFailure::Protocol,
            io::ErrorKind::QuotaExceeded => TlsFailure::Evicted,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => TlsFailure::Closed,
            _ => TlsFailure::Other,
        },
    }
}

/// A date and time in UTC.
fn date(time: UnixTime) -> String {
    let date = i64::try_from(time.as_secs()).ok().and_then(|s| ASN1Time::from_timestamp(s).ok());
    let date = date.and_then(|date| date.to_rfc2822().ok());
    date.unwrap_or_else(|| format!("second {} since 1970", time.as_secs()))
}

/// AES-128-GCM first: half the cost of AES-256 for each byte of output, and equally safe here.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(unusable(what, path, "it holds no certificate")),
        Err(e) => Err(unusable(what, path, e)),
    }
}

/// The end of a certificate's validity, seconds since 1970.
fn not_after(der: &CertificateDer<'static>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn unusable(what: &'static str, path: &Path, detail: impl std::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.into(), detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_that_is_not_valid_yet_is_not_told_as_one_that_has_expired() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let said = |fault| {
            let error = rustls::Error::InvalidCertificate(fault);
            in_words(&io::Error::new(io::ErrorKind::InvalidData, error))
        };
        let early =
            said(CertificateError::NotValidYetContext { time: at(0), not_before: at(86_400) });
        let words = "the client's certificate is not valid yet: it is valid not before \
                     Fri, 02 Jan 1970 00:00:00 +0000, and this host's clock says \
                     Thu, 01 Jan 1970 00:00:00 +0000";
        assert_eq!(early, words);
        let over = said(CertificateError::ExpiredContext { time: at(86_400), not_after: at(0) });
        assert!(over.starts_with("the client's certificate has expired: it is valid until Thu"));
        let other = said(CertificateError::UnknownIssuer);
        assert_eq!(other, "invalid peer certificate: UnknownIssuer");
    }
}
