//! What TLS says when it refuses, in words that tell whose certificate is at fault.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use job_api::client::{Credentials, own_dates};

use crate::format::time;

/// Why, and what to do.
pub(crate) struct Explanation {
    pub(crate) what: String,
    pub(crate) hint: &'static str,
}

const CHECK_CA: &str = "is --ca (JOBCTL_CA) the authority of this broker?";
const CHECK_CLOCK: &str = "renew it there, or look at this machine's clock";
const RENEW: &str = "have a new one issued, or look at both machines' clocks";
const CHECK_ISSUER: &str =
    "--cert and --key must be issued by the authority that the broker trusts";
const NOT_A_BROKER: &str = "is it the job-broker's port?";

/// The broker's alert for all dates that are not right.
const EXPIRED: &str = "alert: CertificateExpired";

/// What rustls prints, a part of it each; the broker's alerts (RFC 8446, section 6) come second.
const PATTERNS: &[(&str, &str, &str)] = &[
    ("UnknownIssuer", "the broker's certificate is not signed by the CA given", CHECK_CA),
    ("BadSignature", "the broker's certificate is not signed by the CA given", CHECK_CA),
    ("UnhandledCriticalExtension", "the broker's certificate cannot be checked", CHECK_CA),
    ("CaUsedAsEndEntity", "the broker shows a CA's certificate as its own", CHECK_CA),
    ("peer certificate: Expired", "the broker's certificate has expired", CHECK_CLOCK),
    ("NotValidYet", "the broker's certificate is not valid yet", CHECK_CLOCK),
    ("peer certificate: Revoked", "the broker's certificate is revoked", CHECK_CA),
    ("InvalidPurpose", "what answers there has a certificate that is not a server's", NOT_A_BROKER),
    ("required EKU", "what answers there has a certificate that is not a server's", NOT_A_BROKER),
    (EXPIRED, "the broker says: your certificate has expired, or is not valid yet", RENEW),
    ("alert: CertificateRevoked", "the broker says: your certificate is revoked", RENEW),
    (
        "alert: UnknownCA",
        "the broker says: your certificate is not signed by an authority it trusts",
        CHECK_ISSUER,
    ),
    (
        "alert: DecryptError",
        "the broker says: your certificate's signature is wrong, e.g. of another CA of that name",
        CHECK_ISSUER,
    ),
    ("alert: CertificateRequired", "the broker asks for a client certificate", CHECK_ISSUER),
    ("alert: BadCertificate", "the broker refuses your certificate", CHECK_ISSUER),
    ("alert: UnsupportedCertificate", "the broker refuses your certificate's kind", CHECK_ISSUER),
    ("alert: CertificateUnknown", "the broker refuses your certificate", CHECK_ISSUER),
    ("alert: AccessDenied", "the broker refuses your certificate", CHECK_ISSUER),
    ("alert: ProtocolVersion", "what answers there does not speak TLS 1.3", NOT_A_BROKER),
    ("alert: HandshakeFailure", "TLS found no common ground with what answers", NOT_A_BROKER),
    ("alert: NoApplicationProtocol", "what answers there does not speak HTTP/2", NOT_A_BROKER),
    ("peer is incompatible", "what answers there does not speak TLS 1.3", NOT_A_BROKER),
    ("received corrupt message", "what answers there does not speak TLS", NOT_A_BROKER),
];

/// The words for a cause that is TLS's final no; `None` for anything else, such as a reset.
pub(crate) fn in_words(cause: &str) -> Option<Explanation> {
    if let Some((_, names)) = cause.split_once("certificate not valid for name ") {
        return Some(Explanation {
            what: format!("the broker's certificate does not match this host name: {names}"),
            hint: "connect by a name or address that the certificate holds",
        });
    }
    if cause.contains("NotValidForName") {
        return Some(Explanation {
            what: "the broker's certificate does not match this host name".into(),
            hint: "connect by a name or address that the certificate holds",
        });
    }
    if let Some(dates) = dates(cause) {
        return Some(Explanation {
            what: format!("the broker's certificate {dates}"),
            hint: CHECK_CLOCK,
        });
    }
    let (part, what, hint) = PATTERNS.iter().find(|(part, ..)| cause.contains(part))?;
    let alert = part.strip_prefix("alert: ").map(|name| format!(" ({name})"));
    Some(Explanation { what: format!("{what}{}", alert.unwrap_or_default()), hint })
}

/// The same, where one's own certificate has been shown: of its dates the broker says no more than that
/// they are not right.
pub(crate) fn of_own(cause: &str, credentials: &Credentials) -> Option<Explanation> {
    if !cause.contains(EXPIRED) {
        return None;
    }
    let now = time::rfc3339(SystemTime::now());
    let what = match own_dates(credentials).and_then(|fault| dates(&fault.to_string())) {
        Some(dates) => format!("your certificate {dates}"),
        None => format!(
            "the broker says that your certificate has expired or is not valid yet, and by this \
             machine's clock ({now}) it is valid"
        ),
    };
    Some(Explanation { what, hint: RENEW })
}

/// `certificate not valid yet: verification time 5 (UNIX), but certificate is not valid before 9 (...)`,
/// as rustls has it, in words.
fn dates(cause: &str) -> Option<String> {
    let (what, until) = match cause {
        _ if cause.contains("certificate not valid yet: ") => ("is not valid yet", "not before"),
        _ if cause.contains("certificate expired: ") => ("has expired", "until"),
        _ => return None,
    };
    let seconds = |after: &str| -> Option<SystemTime> {
        let number = cause.split_once(after)?.1.split(' ').next()?.parse().ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(number))
    };
    let now = seconds("verification time ")?;
    let bound = seconds("not valid before ").or_else(|| seconds("not valid after "))?;
    let [now, bound] = [now, bound].map(time::rfc3339);
    Some(format!("{what}: it is valid {until} {bound}, and this machine's clock says {now}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(cause: &str) -> Option<String> {
        in_words(cause).map(|said| said.what)
    }

    #[test]
    fn the_brokers_certificate_and_ones_own_are_told_apart() {
        let theirs = what(
            "invalid peer certificate: certificate expired: verification time 86400 (UNIX), but \
             certificate is not valid after 3600 (82800 seconds ago)",
        );
        let words = "the broker's certificate has expired: it is valid until 1970-01-01T01:00:00Z, \
                     and this machine's clock says 1970-01-02T00:00:00Z";
        assert_eq!(theirs.as_deref(), Some(words));
        let mine = what("received fatal alert: CertificateExpired").expect("known");
        assert!(mine.starts_with("the broker says: your certificate has expired, or"), "{mine}");
    }

    #[test]
    fn a_certificate_that_is_not_valid_yet_is_told_as_such_and_what_the_clock_says() {
        let theirs = what(
            "invalid peer certificate: certificate not valid yet: verification time 3600 (UNIX), \
             but certificate is not valid before 86400 (82800 seconds in future)",
        );
        let words = "the broker's certificate is not valid yet: it is valid not before \
                     1970-01-02T00:00:00Z, and this machine's clock says 1970-01-01T01:00:00Z";
        assert_eq!(theirs.as_deref(), Some(words));
        let bare = what("invalid peer certificate: NotValidYet");
        assert_eq!(bare.as_deref(), Some("the broker's certificate is not valid yet"));
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
