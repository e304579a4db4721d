//! What TLS says when it refuses, in words that tell whose certificate is at fault.

/// Why, and what to do.
pub(crate) struct Said {
    pub(crate) what: String,
    pub(crate) hint: &'static str,
}

const OWN_CA: &str = "is --ca (JOBCTL_CA) the authority of this broker?";
const CLOCK: &str = "renew it there, or look at this machine's clock";
const RENEW: &str = "have a new one issued, or look at both machines' clocks";
const ISSUED_HERE: &str = "--cert and --key must be issued by the authority that the broker trusts";
const NOT_A_BROKER: &str = "is it the job-broker's port?";

/// What rustls prints, a part of it each; the broker's alerts (RFC 8446, section 6) come second.
const KNOWN: &[(&str, &str, &str)] = &[
    ("UnknownIssuer", "the broker's certificate is not signed by the CA given", OWN_CA),
    ("BadSignature", "the broker's certificate is not signed by the CA given", OWN_CA),
    ("UnhandledCriticalExtension", "the broker's certificate cannot be checked", OWN_CA),
    ("CaUsedAsEndEntity", "the broker shows a CA's certificate as its own", OWN_CA),
    ("certificate expired", "the broker's certificate has expired", CLOCK),
    ("peer certificate: Expired", "the broker's certificate has expired", CLOCK),
    ("not valid yet", "the broker's certificate is not valid yet", CLOCK),
    ("NotValidYet", "the broker's certificate is not valid yet", CLOCK),
    ("peer certificate: Revoked", "the broker's certificate is revoked", OWN_CA),
    ("InvalidPurpose", "what answers there has a certificate that is not a server's", NOT_A_BROKER),
    ("required EKU", "what answers there has a certificate that is not a server's", NOT_A_BROKER),
    ("alert: CertificateExpired", "the broker says: your certificate has expired", RENEW),
    ("alert: CertificateRevoked", "the broker says: your certificate is revoked", RENEW),
    (
        "alert: UnknownCA",
        "the broker says: your certificate is not signed by an authority it trusts",
        ISSUED_HERE,
    ),
    (
        "alert: DecryptError",
        "the broker says: your certificate's signature is wrong, e.g. of another CA of that name",
        ISSUED_HERE,
    ),
    ("alert: CertificateRequired", "the broker asks for a client certificate", ISSUED_HERE),
    ("alert: BadCertificate", "the broker refuses your certificate", ISSUED_HERE),
    ("alert: UnsupportedCertificate", "the broker refuses your certificate's kind", ISSUED_HERE),
    ("alert: CertificateUnknown", "the broker refuses your certificate", ISSUED_HERE),
    ("alert: AccessDenied", "the broker refuses your certificate", ISSUED_HERE),
    ("alert: ProtocolVersion", "what answers there does not speak TLS 1.3", NOT_A_BROKER),
    ("alert: HandshakeFailure", "TLS found no common ground with what answers", NOT_A_BROKER),
    ("alert: NoApplicationProtocol", "what answers there does not speak HTTP/2", NOT_A_BROKER),
    ("peer is incompatible", "what answers there does not speak TLS 1.3", NOT_A_BROKER),
    ("received corrupt message", "what answers there does not speak TLS", NOT_A_BROKER),
];

/// The words for a cause that is TLS's final no; `None` for anything else, such as a reset.
pub(crate) fn in_words(cause: &str) -> Option<Said> {
    if let Some((_, names)) = cause.split_once("certificate not valid for name ") {
        return Some(Said {
            what: format!("the broker's certificate does not match this host name: {names}"),
            hint: "connect by a name or address that the certificate holds",
        });
    }
    if cause.contains("NotValidForName") {
        return Some(Said {
            what: "the broker's certificate does not match this host name".into(),
            hint: "connect by a name or address that the certificate holds",
        });
    }
    let (part, what, hint) = KNOWN.iter().find(|(part, ..)| cause.contains(part))?;
    let alert = part.strip_prefix("alert: ").map(|name| format!(" ({name})"));
    Some(Said { what: format!("{what}{}", alert.unwrap_or_default()), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(cause: &str) -> Option<String> {
        in_words(cause).map(|said| said.what)
    }

    #[test]
    fn the_brokers_certificate_and_ones_own_are_told_apart() {
        let theirs = what("invalid peer certificate: certificate expired: verification time 5");
        assert_eq!(theirs.as_deref(), Some("the broker's certificate has expired"));
        let mine = what("received fatal alert: CertificateExpired").expect("known");
        assert!(mine.starts_with("the broker says: your certificate has expired"), "{mine}");
    }

    #[test]
    fn a_wrong_host_name_says_which_names_would_do() {
        let cause = "invalid peer certificate: certificate not valid for name \"a\"; \
                     certificate is only valid for DnsName(\"b\")";
        assert!(what(cause).expect("known").contains("only valid for DnsName(\"b\")"));
    }

    #[test]
    fn a_connection_that_merely_broke_is_not_a_refusal() {
        for cause in
            ["tls handshake eof", "connection refused", "received fatal alert: CloseNotify"]
        {
            assert_eq!(what(cause), None, "{cause}");
        }
    }
}
