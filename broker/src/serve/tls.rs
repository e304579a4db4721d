//! The TLS configuration: TLS 1.3 only, with client certificates. It must not resume sessions, since a resumed session
//! skips the verification of the client.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use job_api::pem;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{CertificateError, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::config;
use crate::metrics::labels::TlsFailure;
use crate::serve::trust::load::{FileError, certificates};
use crate::serve::trust::refusal::{Refusal, of_certificate};
use crate::serve::trust::verifier::Verifier;
use crate::serve::trust::{Trust, not_after};

/// The server side of TLS: certificates, keys and whom it trusts.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    pub(crate) trust: Arc<Trust>,
    /// When the broker's certificate ends, and the first of the authorities; seconds since 1970.
    pub(crate) expires: [Option<i64>; 2],
}

/// Invalid certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file is missing, or is not of the expected kind.
    #[error(transparent)]
    File(#[from] FileError),
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
        let provider = Arc::new(provider());
        let algorithms = provider.signature_verification_algorithms;
        let trust = Arc::new(Trust::load(files, algorithms)?);
        let chain = certificates("tls.cert", &files.cert)?;
        let own = chain.first().and_then(|leaf| not_after(leaf));
        let expires = [own, trust.first_end()].map(|end| i64::try_from(end?.as_secs()).ok());
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|e| FileError::new("tls.key", &files.key, pem::fault(&e)))?;
        let verifier = Arc::new(Verifier::new(Arc::clone(&trust), algorithms));
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
        Ok(Tls { config: Arc::new(config), trust, expires })
    }
}

/// Why a handshake failed.
pub(super) fn in_words(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(fault)) if is_of_dates(fault) => {
            of_certificate(fault)
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            let refusal = other.0.downcast_ref::<Refusal>();
            refusal.map_or_else(|| error.to_string(), Refusal::to_string)
        }
        _ => error.to_string(),
    }
}

fn is_of_dates(fault: &CertificateError) -> bool {
    use CertificateError::{ExpiredContext, NotValidYetContext};
    matches!(fault, ExpiredContext { .. } | NotValidYetContext { .. })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::UnixTime;

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
