//! Why a client's certificate is not accepted, in words for the client and for the log. Decides nothing: `judge` does.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::UnixTime;
use x509_parser::time::ASN1Time;

use crate::serve::trust::crl::{Revoked, Serial};

/// Maximum certificates of a client's chain, and their bytes: a connection keeps them, to be judged again.
pub(super) const MAX_CHAIN: (usize, usize) = (8, 16 << 10);

/// Why a chain of certificates is not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    /// On its authority's revocation list.
    #[error(
        "{whose} {serial} was revoked on {}: {}",
        date(entry.date()), entry.reason()
    )]
    Revoked {
        /// "the client certificate", or one between it and its authority.
        whose: &'static str,
        /// Its number.
        serial: Serial,
        /// What the list says.
        entry: Revoked,
    },
    /// The list of its authority is too old to say anything.
    #[error(
        "the revocation list of {authority} was to be renewed by {}, and this host's clock says \
         {}: until it is, no certificate of that authority is accepted",
        date(*next_update), date(*now)
    )]
    ListExpired {
        /// Its subject.
        authority: String,
        /// The end of the list.
        next_update: UnixTime,
        /// This host's clock.
        now: UnixTime,
    },
    /// A list covers a part of the chain, and none this part.
    #[error(
        "no revocation list covers what {issuer} has signed, and others of this chain have one"
    )]
    Uncovered {
        /// The subject of the authority without a list.
        issuer: String,
    },
    /// The certificate of its authority has ended.
    #[error(
        "the authority {authority} was valid until {}, and this host's clock says {}: no certificate of it is accepted",
        date(*not_after), date(*now)
    )]
    AuthorityExpired {
        /// Its subject.
        authority: String,
        /// Its end.
        not_after: UnixTime,
        /// This host's clock.
        now: UnixTime,
    },
    /// Two trust domains accept it.
    #[error("the client certificate belongs to more than one trust domain")]
    Ambiguous,
    /// More than a connection may make the broker keep.
    #[error("the client's chain has {count} certificates with {bytes} bytes; at most {} with {} are accepted", MAX_CHAIN.0, MAX_CHAIN.1)]
    TooLong {
        /// How many.
        count: usize,
        /// Their length.
        bytes: usize,
    },
    /// What X.509 says about dates, signatures and usages.
    #[error("{}", of_certificate(.0))]
    Certificate(CertificateError),
}

impl Refusal {
    /// For programs: the reason of the status's ErrorInfo.
    pub(crate) fn reason(&self) -> &'static str {
        use CertificateError::{BadSignature, Expired, ExpiredContext, UnknownIssuer};
        match self {
            Refusal::Revoked { .. } => "CERTIFICATE_REVOKED",
            Refusal::ListExpired { .. } => "REVOCATION_LIST_EXPIRED",
            Refusal::Uncovered { .. } => "REVOCATION_UNKNOWN",
            Refusal::AuthorityExpired { .. } => "AUTHORITY_EXPIRED",
            Refusal::Certificate(Expired | ExpiredContext { .. }) => "CERTIFICATE_EXPIRED",
            Refusal::Certificate(UnknownIssuer | BadSignature) => "AUTHORITY_NOT_TRUSTED",
            Refusal::Ambiguous | Refusal::TooLong { .. } | Refusal::Certificate(_) => {
                "CERTIFICATE_REFUSED"
            }
        }
    }

    /// Whether nothing is known against the certificate: only whether it is revoked cannot be told. A connection that
    /// is open goes on, and a new one is refused in words, after the handshake: TLS has no alert for it.
    pub(crate) fn is_of_lists(&self) -> bool {
        matches!(self, Refusal::ListExpired { .. } | Refusal::Uncovered { .. })
    }

    /// The more of it is known, the more it weighs: one authority's "revoked" before another's "not mine".
    pub(super) fn weight(&self) -> u8 {
        use CertificateError::{BadSignature, UnknownIssuer};
        match self {
            Refusal::Revoked { .. } => 6,
            Refusal::ListExpired { .. } => 5,
            Refusal::Uncovered { .. } => 4,
            Refusal::Ambiguous | Refusal::TooLong { .. } | Refusal::AuthorityExpired { .. } => 3,
            Refusal::Certificate(BadSignature) => 1,
            Refusal::Certificate(UnknownIssuer) => 0,
            Refusal::Certificate(_) => 2,
        }
    }

    /// For rustls, which makes an alert of it.
    pub(super) fn into_tls(self) -> CertificateError {
        match self {
            Refusal::Certificate(error) => error,
            Refusal::Revoked { .. } => CertificateError::Revoked,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        }
    }
}

impl From<webpki::Error> for Refusal {
    fn from(error: webpki::Error) -> Refusal {
        use webpki::Error as E;
        Refusal::Certificate(match error {
            E::CertNotValidYet { time, not_before } => {
                CertificateError::NotValidYetContext { time, not_before }
            }
            E::CertExpired { time, not_after } => {
                CertificateError::ExpiredContext { time, not_after }
            }
            E::UnknownIssuer => CertificateError::UnknownIssuer,
            E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
            E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
            E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// If a certificate is expired or not yet valid, the text has its dates and this host's clock, since one of them is
/// wrong.
pub(crate) fn of_certificate(error: &CertificateError) -> String {
    use CertificateError::{
        BadSignature, ExpiredContext, InvalidPurpose, NotValidYetContext, UnknownIssuer,
    };
    let (what, bound, now) = match error {
        NotValidYetContext { time, not_before } => {
            ("is not valid yet: it is valid not before", not_before, time)
        }
        ExpiredContext { time, not_after } => ("has expired: it is valid until", not_after, time),
        UnknownIssuer | BadSignature => {
            return "the client certificate is signed by no authority that this broker trusts"
                .into();
        }
        InvalidPurpose => {
            return "the client certificate lacks the extended key usage clientAuth".into();
        }
        other => return format!("the client certificate is not accepted: {other}"),
    };
    let [bound, now] = [bound, now].map(|time| date(*time));
    format!("the client's certificate {what} {bound}, and this host's clock says {now}")
}

/// A date and time in UTC.
pub(crate) fn date(time: UnixTime) -> String {
    let date = i64::try_from(time.as_secs()).ok().and_then(|s| ASN1Time::from_timestamp(s).ok());
    let date = date.and_then(|date| date.to_rfc2822().ok());
    date.unwrap_or_else(|| format!("second {} since 1970", time.as_secs()))
}
