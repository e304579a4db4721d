//! Certificates as others see them: rustls, which the broker and its clients use, and openssl.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use job_certs::{
    Authority, AuthorityError, CA_VALIDITY, Leaf, NameError, SERVER_VALIDITY, ServerNames,
    USER_VALIDITY, days,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;

struct Env {
    dir: TempDir,
    ca: Authority,
}

impl Env {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create(&dir.path().join("pki"), "local", CA_VALIDITY).unwrap();
        Self { dir, ca }
    }

    fn server_names() -> ServerNames {
        ServerNames {
            dns: vec!["localhost".to_owned()],
            ips: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        }
    }

    fn user(&self) -> Leaf {
        self.ca.user_leaf("ann", USER_VALIDITY).unwrap()
    }

    fn server(&self) -> Leaf {
        self.ca.server_leaf(&Self::server_names(), SERVER_VALIDITY).unwrap()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca.certificate()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn as_client(&self, leaf: &Leaf) -> Result<(), Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider());
        let cert = self.signed(leaf);
        verifier.build().unwrap().verify_client_cert(&cert, &[], UnixTime::now()).map(|_| ())
    }

    fn as_server(&self, leaf: &Leaf, name: &str) -> Result<(), Error> {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots(), provider());
        let verifier = verifier.build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::now();
        verifier.verify_server_cert(&self.signed(leaf), &[], &name, &[], now).map(|_| ())
    }

    fn signed(&self, leaf: &Leaf) -> CertificateDer<'static> {
        let signed = self.ca.sign(leaf).unwrap();
        CertificateDer::from_pem_slice(signed.certificate_pem.as_bytes()).unwrap()
    }

    /// What `job-certs show` says of a certificate, whatever it is.
    fn shown(&self, leaf: &Leaf) -> String {
        let out = self.dir.path().join("shown");
        let issued = self.ca.issue(leaf, &out).unwrap();
        let program = env!("CARGO_BIN_EXE_job-certs");
        let output = Command::new(program).arg("show").arg(&issued.certificate).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[test]
fn rustls_accepts_each_certificate_in_its_own_role_only() {
    let env = Env::new();
    env.as_client(&env.user()).unwrap();
    for name in ["localhost", "127.0.0.1", "::1"] {
        env.as_server(&env.server(), name).unwrap();
    }
    env.as_client(&env.server()).unwrap_err();
    env.as_server(&env.server(), "elsewhere.example").unwrap_err();
    let mut user = env.user();
    user.dns.push("localhost".to_owned());
    env.as_server(&user, "localhost").unwrap_err();
}

#[test]
fn the_key_on_disk_belongs_to_the_certificate_beside_it() {
    let env = Env::new();
    let issued = env.ca.issue_user("ann", None, USER_VALIDITY).unwrap();
    let chain = vec![CertificateDer::from_pem_file(&issued.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(env.roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
}

#[test]
fn a_reopened_authority_issues_what_the_first_certificate_verifies() {
    let env = Env::new();
    let again = Authority::open(&env.dir.path().join("pki")).unwrap();
    assert_eq!(again.trust_domain(), "local");
    assert_eq!(again.not_after(), env.ca.not_after());
    env.as_client(&again.user_leaf("ann", USER_VALIDITY).unwrap()).unwrap();
}

#[test]
fn an_expired_certificate_is_refused_and_shown_as_such() {
    let env = Env::new();
    let now = SystemTime::now();
    let leaf = Leaf { not_before: now - days(9), not_after: now - days(3), ..env.user() };
    let error = env.as_client(&leaf).unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
    assert!(env.shown(&leaf).contains("EXPIRED 3 days ago"), "{}", env.shown(&leaf));
}

#[test]
fn an_expired_authority_issues_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::create(&dir.path().join("pki"), "local", Duration::ZERO).unwrap();
    let error = ca.issue_user("ann", None, USER_VALIDITY).unwrap_err().to_string();
    assert!(error.contains("has expired"), "{error}");
    assert!(!dir.path().join("pki/ann.key").exists());
}

#[test]
fn certificates_without_a_clear_identity_can_be_made_for_tests() {
    let env = Env::new();
    let mut two = env.user();
    two.uris.push("job://local/bob".to_owned());
    env.as_client(&two).unwrap();
    assert!(env.shown(&two).contains("none: ambiguous"));
}

#[test]
fn a_certificate_without_usage_passes_rustls_and_show_says_it_is_no_users() {
    let env = Env::new();
    let leaf = Leaf { usages: Vec::new(), ..env.user() };
    // This is why a broker has to check the usage itself.
    env.as_client(&leaf).unwrap();
    assert!(env.shown(&leaf).contains("none: not a user's certificate (no clientAuth)"));
}

#[test]
fn a_certificate_that_names_nobody_is_shown_so() {
    let env = Env::new();
    let leaf = Leaf { common_name: None, uris: Vec::new(), ..env.user() };
    env.as_client(&leaf).unwrap();
    assert!(env.shown(&leaf).contains("none: neither a job:// URI nor a Common Name"));
}

#[test]
fn terminal_escapes_in_a_certificate_do_not_reach_the_terminal() {
    let env = Env::new();
    let leaf = Leaf { common_name: Some("\u{1b}[2Jann".to_owned()), ..env.user() };
    let shown = env.shown(&leaf);
    assert!(!shown.contains('\u{1b}') && shown.contains("[2Jann"), "{shown}");
}

#[test]
fn openssl_accepts_each_certificate_in_its_own_role_only() {
    let env = Env::new();
    if let Err(error) = Command::new("openssl").arg("version").output() {
        eprintln!("skipped: openssl cannot be run: {error}");
        return;
    }
    let ca = env.ca.certificate();
    let server = env.ca.issue_server(&Env::server_names(), None, SERVER_VALIDITY).unwrap();
    let user = env.ca.issue_user("ann", None, USER_VALIDITY).unwrap();
    openssl_verifies(&ca, &server.certificate, "sslserver").unwrap();
    openssl_verifies(&ca, &user.certificate, "sslclient").unwrap();
    openssl_verifies(&ca, &server.certificate, "sslclient").unwrap_err();
    openssl_verifies(&ca, &user.certificate, "sslserver").unwrap_err();
    assert_extensions(
        &ca,
        &["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "URI:job://local"],
    );
    assert_extensions(&user.certificate, &["CA:FALSE", "URI:job://local/ann", "Digital Signature"]);
}

/// `-x509_strict` adds what RFC 5280 demands of key identifiers and usages.
fn openssl_verifies(ca: &Path, certificate: &Path, purpose: &str) -> Result<(), String> {
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose, "-CAfile"])
        .args([ca, certificate])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn assert_extensions(certificate: &Path, expected: &[&str]) {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(certificate)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let both = ["X509v3 Subject Key Identifier", "X509v3 Authority Key Identifier"];
    for part in expected.iter().chain(&both) {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn an_error_tells_a_program_what_failed_and_on_which_file() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let Err(job_certs::Error::NoAuthority { certificate, .. }) = Authority::open(&pki) else {
        panic!("an authority was found");
    };
    assert_eq!(certificate, pki.join("ca.crt"));
    let ca = Authority::create(&pki, "local", CA_VALIDITY).unwrap();
    let Err(job_certs::Error::Exists { path, .. }) = Authority::create(&pki, "local", CA_VALIDITY)
    else {
        panic!("an authority was overwritten");
    };
    assert_eq!(path, pki.join("ca.key"));
    let Err(job_certs::Error::Name(NameError::Character { found, position, .. })) =
        ca.issue_user("a/b", None, USER_VALIDITY)
    else {
        panic!("a path was taken for a name");
    };
    assert_eq!((found, position), ('/', 2));
    std::fs::write(pki.join("ca.crt"), "no certificate").unwrap();
    let Err(job_certs::Error::Authority { source, .. }) = Authority::open(&pki) else {
        panic!("a text was taken for a certificate");
    };
    assert!(matches!(source, AuthorityError::NotPem), "{source:?}");
}
