//! The certificate authority: made once, opened for each certificate that it issues.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::clock::{self, CLOCK_SKEW};
use crate::database::Database;
use crate::error::{AuthorityError, Error};
use crate::files::{self, Pair, io_error};
use crate::leaf::{self, Leaf, Usage};
use crate::names::{self, SCHEME, TrustDomain, UserName};

/// A CA's directory with its key loaded.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

/// The names under which clients reach a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// Host names; `*.` may stand for a first label.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// A certificate and its key in memory, both PEM.
#[derive(Clone)]
pub struct Signed {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS #8.
    pub key_pem: String,
}

/// A certificate and its key on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, mode 0644.
    pub certificate: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl Authority {
    /// Makes a new CA, `ca.crt` and `ca.key`, in `dir`, which is made with mode 0700 if absent.
    ///
    /// # Errors
    /// A malformed `trust_domain`; a CA that is already there (nothing is changed); I/O.
    pub fn create(dir: &Path, trust_domain: &str, validity: Duration) -> Result<Self, Error> {
        let domain: TrustDomain = trust_domain.parse()?;
        let now = SystemTime::now();
        let params = leaf::ca_params(&domain, now - CLOCK_SKEW, later(now, validity)?)?;
        let key = new_key()?;
        let certificate = params.self_signed(&key).map_err(crypto("signing the CA certificate"))?;

        let made_dir = files::private_directory(dir)?;
        let advice = "choose another --dir, or move the old authority away (what it has issued \
                      stays valid wherever its ca.crt is trusted)";
        let written =
            ca_pair(dir)?.write(&certificate.pem(), &key.serialize_pem(), advice, || Ok(()));
        if written.is_err() && made_dir {
            // The error that led here is the one to report.
            let _ = fs::remove_dir(dir);
        }
        written?;
        Self::open(dir)
    }

    /// Loads the CA in `dir`.
    ///
    /// # Errors
    /// Files that are absent, unreadable or not a CA's; a key that is not the certificate's, or
    /// that others than its owner may read.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let pair = ca_pair(dir)?;
        let pem = fs::read(&pair.certificate).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::NoAuthority { certificate: pair.certificate.clone(), dir: dir.to_owned() }
            }
            _ => io_error("reading", &pair.certificate)(e),
        })?;
        let key = KeyPair::from_pem(&files::read_key(&pair.key)?)
            .map_err(|source| Error::NotAKey { path: pair.key.clone(), source })?;
        Self::load(dir, &pem, key)
            .map_err(|source| Error::Authority { path: pair.certificate.clone(), source })
    }

    fn load(dir: &Path, pem: &[u8], key: KeyPair) -> Result<Self, AuthorityError> {
        let (_, block) = parse_x509_pem(pem).map_err(|_| AuthorityError::NotPem)?;
        let x509 = block.parse_x509().map_err(|_| AuthorityError::NotACertificate)?;
        if !x509.is_ca() {
            return Err(AuthorityError::NotACa);
        }
        if x509.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::OtherKey);
        }
        let der = block.contents.as_slice().into();
        Ok(Self {
            dir: dir.to_owned(),
            domain: trust_domain(&x509)?,
            not_after: clock::from_asn1(x509.validity().not_after),
            issuer: Issuer::from_ca_cert_der(&der, key)
                .map_err(|_| AuthorityError::Damaged("subject"))?,
        })
    }

    /// The certificate that brokers and clients are to trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The trust domain that was given to [`Authority::create`].
    #[must_use]
    pub fn trust_domain(&self) -> String {
        self.domain.to_string()
    }

    /// Until when the CA is valid; nothing that it issues is valid for longer.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Issues a broker's certificate as `OUT.crt` and `OUT.key`; `out` defaults to `server` in
    /// the CA's directory.
    ///
    /// # Errors
    /// As [`Authority::server_leaf`] and [`Authority::issue`].
    pub fn issue_server(
        &self,
        names: &ServerNames,
        out: Option<&Path>,
        validity: Duration,
    ) -> Result<Issued, Error> {
        self.issue(&self.server_leaf(names, validity)?, &self.out_or(out, "server"))
    }

    /// Issues a user's certificate as `OUT.crt` and `OUT.key`; `out` defaults to the name in the
    /// CA's directory.
    ///
    /// # Errors
    /// As [`Authority::user_leaf`] and [`Authority::issue`].
    pub fn issue_user(
        &self,
        name: &str,
        out: Option<&Path>,
        validity: Duration,
    ) -> Result<Issued, Error> {
        self.issue(&self.user_leaf(name, validity)?, &self.out_or(out, name))
    }

    /// Describes a broker's certificate: serverAuth alone. It has no Common Name and no URI, so
    /// that it could not stand for a user even where its usage went unchecked.
    ///
    /// # Errors
    /// No name at all or a malformed one; a CA that has expired.
    pub fn server_leaf(&self, names: &ServerNames, validity: Duration) -> Result<Leaf, Error> {
        if names.dns.is_empty() && names.ips.is_empty() {
            return Err(Error::NoServerName);
        }
        names.dns.iter().try_for_each(|name| names::check_dns(name))?;
        let (not_before, not_after) = self.lifetime(validity)?;
        Ok(Leaf {
            common_name: None,
            uris: Vec::new(),
            dns: names.dns.clone(),
            ips: names.ips.clone(),
            usages: vec![Usage::Server],
            not_before,
            not_after,
        })
    }

    /// Describes a user's certificate: clientAuth alone, the URI `job://<trust-domain>/<name>`
    /// and the name as Common Name.
    ///
    /// # Errors
    /// A malformed name; a CA that has expired.
    pub fn user_leaf(&self, name: &str, validity: Duration) -> Result<Leaf, Error> {
        let user: UserName = name.parse()?;
        let (not_before, not_after) = self.lifetime(validity)?;
        Ok(Leaf {
            common_name: Some(user.to_string()),
            uris: vec![self.domain.identity(&user)],
            dns: Vec::new(),
            ips: Vec::new(),
            usages: vec![Usage::Client],
            not_before,
            not_after,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Issues exactly what `leaf` says, with a new key, as `OUT.crt` and `OUT.key`.
    ///
    /// # Errors
    /// A file that exists (nothing is overwritten); I/O. Neither file stays behind then.
    pub fn issue(&self, leaf: &Leaf, out: &Path) -> Result<Issued, Error> {
        let pair = Pair::at(out)?;
        let signed = self.sign(leaf)?;
        let (_, block) =
            parse_x509_pem(signed.certificate_pem.as_bytes()).map_err(|_| Error::Date)?;
        let record = self.record(&block.contents)?;
        let advice = "move it away, or name another place with --out PREFIX";
        pair.write(&signed.certificate_pem, &signed.key_pem, advice, || {
            Database::open(&self.dir)?.add([record])
        })?;
        let Pair { certificate, key } = pair;
        Ok(Issued { certificate, key, not_after: leaf.not_after })
    }

    /// Issues exactly what `leaf` says, with a new key, in memory.
    ///
    /// # Errors
    /// A name that is not ASCII or a date beyond the year 9999.
    pub fn sign(&self, leaf: &Leaf) -> Result<Signed, Error> {
        let key = new_key()?;
        let certificate = leaf
            .params(&self.domain)?
            .signed_by(&key, &self.issuer)
            .map_err(crypto("signing the certificate"))?;
        Ok(Signed { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// From now, a little backdated, until `validity` is over or the CA is.
    fn lifetime(&self, validity: Duration) -> Result<(SystemTime, SystemTime), Error> {
        let now = SystemTime::now();
        if now >= self.not_after {
            return Err(Error::Expired(self.certificate()));
        }
        Ok((now - CLOCK_SKEW, later(now, validity)?.min(self.not_after)))
    }

    fn out_or(&self, out: Option<&Path>, name: &str) -> PathBuf {
        out.map_or_else(|| self.dir.join(name), Path::to_owned)
    }
}

fn ca_pair(dir: &Path) -> Result<Pair, Error> {
    Pair::at(&dir.join("ca"))
}

pub(crate) fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("generating a key"))
}

pub(crate) fn later(now: SystemTime, validity: Duration) -> Result<SystemTime, Error> {
    now.checked_add(validity).ok_or(Error::Date)
}

pub(crate) fn crypto(action: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |source| Error::Crypto { action, source }
}

/// What [`leaf::ca_params`] has put there: exactly one SAN URI, `job://` and the trust domain.
fn trust_domain(ca: &X509Certificate<'_>) -> Result<TrustDomain, AuthorityError> {
    let names =
        ca.subject_alternative_name().map_err(|_| AuthorityError::Damaged("alternative names"))?;
    let names = names.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let mut domains = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
        _ => None,
    });
    match (domains.next(), domains.next()) {
        (Some(domain), None) => Ok(domain.parse()?),
        (found, _) => Err(AuthorityError::TrustDomain { several: found.is_some() }),
    }
}
