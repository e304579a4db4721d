//! Reads authorities and their revocation lists from files. It must refuse as a whole what it cannot use in part: a list
//! that is left out would let revoked certificates in.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use job_api::pem;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use webpki::anchor_from_trusted_cert;

use crate::config;
use crate::model::identity::Naming;
use crate::serve::trust::crl::{self, Crl, Unverified, name_in_words};
use crate::serve::trust::{Authority, Domain, Trust, not_after};

/// Maximum bytes of a file of certificates or keys.
const MAX_CERTIFICATES: u64 = 1 << 20;
/// Maximum bytes of a file of revocation lists: a million entries have 40 MB in DER, 55 MB in PEM.
const MAX_LISTS: u64 = 64 << 20;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use {path} as {what}: {detail}; \
     \"job-certs init\" and \"job-certs issue\" make certificates"
)]
pub(crate) struct FileError {
    /// The configuration key: tls.cert, tls.key, tls.client_ca, ...
    pub(crate) what: &'static str,
    /// The file.
    pub(crate) path: PathBuf,
    /// The reason.
    pub(crate) detail: String,
}

impl FileError {
    pub(crate) fn new(
        what: &'static str,
        path: &Path,
        detail: impl std::fmt::Display,
    ) -> FileError {
        FileError { what, path: path.into(), detail: detail.to_string() }
    }
}

impl Trust {
    /// Reads all authorities of the configuration and their lists.
    ///
    /// # Errors
    /// [`FileError`], in a sentence for an operator.
    pub(crate) fn load(
        files: &config::Tls,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Trust, FileError> {
        let naming = Naming {
            trust_domain: files.trust_domain.clone(),
            prefix: None,
            reserved: files.prefixes(),
            spiffe: files.spiffe,
        };
        let mut domains = vec![Domain::new(naming)];
        domains[0].add(
            ("tls.client_ca", &files.client_ca),
            ("tls.crl", &files.crl),
            &algorithms,
        )?;
        for one in &files.authority {
            let keys = (("tls.authority.ca", &one.ca), ("tls.authority.crl", one.crl.as_slice()));
            if one.trust_domain == files.trust_domain {
                domains[0].add(keys.0, keys.1, &algorithms)?;
                continue;
            }
            let naming = Naming {
                trust_domain: one.trust_domain.clone(),
                prefix: one.prefix.clone(),
                reserved: files.prefixes(),
                spiffe: one.spiffe,
            };
            let mut domain = Domain::new(naming);
            domain.add(keys.0, keys.1, &algorithms)?;
            domains.push(domain);
        }
        let trust = Trust { domains, algorithms };
        trust.check_that_domains_are_apart(files)?;
        Ok(trust)
    }

    /// One authority in two trust domains would be two people with one certificate.
    fn check_that_domains_are_apart(&self, files: &config::Tls) -> Result<(), FileError> {
        for (n, domain) in self.domains.iter().enumerate() {
            for authority in &domain.authorities {
                let mut others = self.domains[..n].iter();
                let is_in =
                    |other: &&Domain| other.authority(&authority.subject, &authority.key).is_some();
                if let Some(other) = others.find(is_in) {
                    let path = files.authority.iter();
                    let path = path.filter(|one| one.trust_domain == domain.naming.trust_domain);
                    let path = path.map(|one| &one.ca).next().unwrap_or(&files.client_ca);
                    let detail = format!(
                        "{} is an authority of trust domain {:?}, too",
                        authority.name, other.naming.trust_domain
                    );
                    return Err(FileError::new("tls.authority.ca", path, detail));
                }
            }
        }
        Ok(())
    }
}

impl Domain {
    fn new(naming: Naming) -> Domain {
        Domain { naming: Arc::new(naming), anchors: Vec::new(), authorities: Vec::new() }
    }

    /// Adds the authorities of a file, and the lists that they have signed.
    fn add(
        &mut self,
        (key, path): (&'static str, &PathBuf),
        (list_key, lists): (&'static str, &[PathBuf]),
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), FileError> {
        for der in certificates(key, path)? {
            let anchor = anchor_from_trusted_cert(&der)
                .map_err(|e| FileError::new(key, path, e))?
                .to_owned();
            let subject = anchor.subject.to_vec();
            let public = anchor.subject_public_key_info.to_vec();
            if self.authority(&subject, &public).is_some() {
                continue; // the same one twice, or renewed with its key
            }
            self.authorities.push(Authority {
                name: name_in_words(&subject),
                subject,
                key: public,
                not_after: not_after(&der),
                crls: Vec::new(),
            });
            self.anchors.push(anchor);
        }
        for path in lists {
            let bytes = read(list_key, path, MAX_LISTS)?;
            let found =
                crl::parse_file(path, bytes).map_err(|e| FileError::new(list_key, path, e))?;
            for list in found {
                let (at, crl) = self.verify(list, list_key, algorithms)?;
                self.authorities[at].crls.push(crl);
            }
        }
        Ok(())
    }

    /// Finds the authority that has signed the list.
    fn verify(
        &self,
        list: Unverified,
        key: &'static str,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(usize, Crl), FileError> {
        let path = list.path().to_owned();
        let signer = self.anchors.iter().position(|anchor| list.is_signed_by(anchor, algorithms));
        let Some(at) = signer else {
            let detail = "it is signed by none of the authorities that it stands beside; the \
                          certificate of an intermediate authority belongs into their file, too";
            return Err(FileError::new(key, &path, detail));
        };
        let crl = list.into_crl().map_err(|e| FileError::new(key, &path, e))?;
        Ok((at, crl))
    }
}

/// The certificates of a file, at least one.
pub(crate) fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    in_file(what, path, &read(what, path, MAX_CERTIFICATES)?)
}

/// The certificates in the bytes of a file, at least one.
pub(in crate::serve) fn in_file(
    what: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(FileError::new(what, path, "it holds no certificate")),
        Err(e) => Err(FileError::new(what, path, pem::fault(&e))),
    }
}

/// The bytes of a file that has no more than `most`.
fn read(what: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|e| FileError::new(what, path, e))?;
    if bytes.len() as u64 > most {
        let detail = format!("it has more than {} MiB", most >> 20);
        return Err(FileError::new(what, path, detail));
    }
    Ok(bytes)
}
