//! Everything that can go wrong: what, on which file, and what to do about it.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why a certificate or an authority could not be made, read or written.
///
/// `Display` is one sentence without its cause; [`std::error::Error::source`] has the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that may not stand in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A broker's certificate without any name would be accepted by no client.
    #[error("a server needs the names that its clients connect to: give --dns, --ip or both")]
    NoServerName,
    /// The path of a new pair has no file name.
    #[error("{0} does not end in a file name: give the path of the pair without .crt and .key")]
    NoFileName(PathBuf),
    /// Nothing is ever overwritten.
    #[error("{path} exists and is not overwritten: {advice}")]
    Exists {
        /// The file that is in the way.
        path: PathBuf,
        /// What to do instead.
        advice: &'static str,
    },
    /// Parents of an authority's directory are not made.
    #[error("creating {0}: its parent directory does not exist")]
    NoParent(PathBuf),
    /// The directory has no authority.
    #[error(
        "{} does not exist: make a CA there first with `job-certs init --dir {}`",
        certificate.display(), dir.display()
    )]
    NoAuthority {
        /// The certificate that is missing.
        certificate: PathBuf,
        /// The directory in which it was looked for.
        dir: PathBuf,
    },
    /// The authority's certificate exists and cannot be used.
    #[error("{path} cannot be used")]
    Authority {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        source: AuthorityError,
    },
    /// The authority issues nothing that would be valid for longer than itself.
    #[error("the CA {0} has expired: make a new one in another directory with `job-certs init`")]
    Expired(PathBuf),
    /// Others than its owner can read the key, so that it has to be taken for known.
    #[error(
        "{} has mode {mode:04o}, so others may have read it: replace the key, or if it never left \
         your hands, chmod 600",
        path.display()
    )]
    Exposed {
        /// The private key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file of a private key holds none.
    #[error("{path} is not a private key in PEM")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: rcgen::Error,
    },
    /// A file of certificates cannot be shown.
    #[error("{path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// A line of the database is not one.
    #[error(
        "line {line} of {path} cannot be read: restore the file from a copy, or remove the line"
    )]
    Database {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Somebody's certificate, and not one of this authority.
    #[error("{path} was not issued by the authority in {dir}")]
    NotIssuedHere {
        /// The certificate.
        path: PathBuf,
        /// The authority.
        dir: PathBuf,
    },
    /// An expired certificate is issued anew, not renewed.
    #[error("{0} has expired: issue a new one with `job-certs issue`")]
    TooLate(PathBuf),
    /// A revoked certificate stays revoked.
    #[error(
        "{path} was revoked ({reason}) and is not renewed: issue a new one with `job-certs issue`"
    )]
    WasRevoked {
        /// The certificate.
        path: PathBuf,
        /// Why it was.
        reason: String,
    },
    /// Neither a file, nor a known name or serial number.
    #[error(
        "{0:?} is no file, and no name or serial number that was issued here: `job-certs list` \
         shows them; of an older authority give the certificate's file or its whole serial number"
    )]
    NothingToRevoke(String),
    /// All certificates of the name have expired.
    #[error("all certificates of {0:?} have expired already")]
    AllExpired(String),
    /// It is both a name and a serial number.
    #[error("{0:?} is a name and a serial number: give the certificate's file")]
    NameOrSerial(String),
    /// A date beyond the year 9999.
    #[error("a certificate cannot state a date that far away")]
    Date,
    /// A name that X.509 encodes as ASCII is not.
    #[error("the name {name:?} is not ASCII")]
    NotAscii {
        /// The name.
        name: String,
        /// What the encoder says.
        source: rcgen::Error,
    },
    /// A key could not be made, or a certificate not be signed with it.
    #[error("{action}")]
    Crypto {
        /// What was attempted: `generating a key`.
        action: &'static str,
        /// What the library says.
        source: rcgen::Error,
    },
    /// The operating system gave no random numbers.
    #[error("the system's random generator failed")]
    Random,
    /// A file or directory could not be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was attempted: `reading`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("writing to stdout")]
    Stdout(#[source] io::Error),
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It has no character.
    #[error("the {what} is empty: give 1 to 63 characters of {allowed}")]
    Empty {
        /// `user name` or `trust domain`.
        what: &'static str,
        /// The characters that it may have.
        allowed: &'static str,
    },
    /// It has a character that it may not have.
    #[error("the {what} {name:?} has {found:?} at position {position}: allowed are {allowed}")]
    Character {
        /// `user name` or `trust domain`.
        what: &'static str,
        /// The name.
        name: String,
        /// The character.
        found: char,
        /// Its position, counted from 1.
        position: usize,
        /// The characters that it may have.
        allowed: &'static str,
    },
    /// It begins with a punctuation mark.
    #[error("the {what} {name:?} must start with a letter or a digit")]
    Start {
        /// `user name` or `trust domain`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// It has more than 63 characters.
    #[error("the {what} {name:?} has {} characters: at most 63", name.len())]
    Length {
        /// `user name` or `trust domain`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// TLS never looks for an address among DNS names.
    #[error("{0} is an address, not a DNS name: give it with --ip")]
    Address(IpAddr),
    /// A DNS name has more than 253 characters.
    #[error("the DNS name {0:?} is longer than 253 characters")]
    DnsLength(String),
    /// A label of a DNS name is empty, too long, or has a character that it may not have.
    #[error(
        "the DNS name {name:?} has the label {label:?}: a label is 1 to 63 of A-Z a-z 0-9 - _, \
         with no - at either end"
    )]
    DnsLabel {
        /// The DNS name.
        name: String,
        /// Its label.
        label: String,
    },
}

/// What is wrong with an authority's certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// Not a file in PEM.
    #[error("it is not PEM")]
    NotPem,
    /// PEM of something else, or damaged.
    #[error("it is not a certificate")]
    NotACertificate,
    /// A certificate that may not issue others.
    #[error("it is not the certificate of a CA")]
    NotACa,
    /// `ca.key` and `ca.crt` do not belong together.
    #[error("ca.key beside it is the key of another certificate")]
    OtherKey,
    /// Its subject or its alternative names cannot be read.
    #[error("reading its {0}")]
    Damaged(&'static str),
    /// It names no trust domain, or several.
    #[error(
        "it names {} trust domain as a SAN URI job://<trust-domain>: was it made by \
         `job-certs init`?",
        if *several { "more than one" } else { "no" }
    )]
    TrustDomain {
        /// More than one, rather than none.
        several: bool,
    },
    /// The trust domain that it names is not one.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Why a file of certificates cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Neither PEM nor DER.
    #[error("it is neither a certificate in PEM nor in DER")]
    Format,
    /// A private key was given in place of its certificate.
    #[error("it holds a private key and no certificate: show the .crt beside it")]
    PrivateKey,
    /// PEM without a certificate.
    #[error("there is no certificate in it")]
    Absent,
    /// Not a certificate, or a damaged one.
    #[error("it is not a certificate, or a damaged one")]
    NotACertificate,
    /// An extension of it cannot be read.
    #[error("its {0} are damaged")]
    Damaged(&'static str),
}

/// The error and its causes in one line: `reading ca.crt: No such file or directory`.
pub(crate) fn chain(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
