//! The verifier that rustls calls during a handshake. It must accept nothing that the judgement of the connection
//! would not refuse again: what it lets pass for a reason in words is refused there.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::serve::trust::Trust;
use crate::serve::trust::refusal::Refusal;

/// Requires a certificate of one of the authorities.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    /// What clients with several certificates choose by.
    hints: Vec<DistinguishedName>,
}

tokio::task_local! {
    /// Why the certificate of the handshake under way is not accepted: rustls's error says less.
    static REFUSED: RefCell<Option<Refusal>>;
}

/// Makes a handshake, and says why its certificate was not accepted, if that was it.
pub(crate) async fn with_refusal<T>(handshake: impl Future<Output = T>) -> (T, Option<Refusal>) {
    let told = async { (handshake.await, REFUSED.with(RefCell::take)) };
    REFUSED.scope(RefCell::default(), told).await
}

impl Verifier {
    pub(crate) fn new(trust: Arc<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
        let hints = trust.subjects().map(DistinguishedName::in_sequence).collect();
        Verifier { trust, algorithms, hints }
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.trust.judge(leaf, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            // No call will be answered: the connection is judged again when it knows whose it is.
            Err(refusal) if refusal.is_of_lists() => Ok(ClientCertVerified::assertion()),
            Err(refusal) => {
                if matches!(refusal, Refusal::Revoked { .. }) {
                    tracing::info!("{refusal}");
                }
                let _ = REFUSED.try_with(|refused| refused.replace(Some(refusal.clone()))); // else nobody asks
                Err(Error::InvalidCertificate(refusal.into_tls()))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
