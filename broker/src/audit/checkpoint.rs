//! Checkpoints: the head of the chain at a time, signed with the key of the broker's certificate, a JSON object a line in
//! `checkpoints.jsonl`. It makes, keeps and checks them; it must not decide when one is due.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use job_api::pem;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::audit::chain::Head;
use crate::config;
use crate::store;

const NAME: &str = "checkpoints.jsonl";
/// Size of the file from which the older half of the checkpoints is removed.
const MAX_BYTES: u64 = 4 << 20;
/// In the order of preference.
const SCHEMES: [(SignatureScheme, &str); 5] = [
    (SignatureScheme::ED25519, "ed25519"),
    (SignatureScheme::ECDSA_NISTP256_SHA256, "ecdsa-p256-sha256"),
    (SignatureScheme::ECDSA_NISTP384_SHA384, "ecdsa-p384-sha384"),
    (SignatureScheme::ECDSA_NISTP521_SHA512, "ecdsa-p521-sha512"),
    (SignatureScheme::RSA_PSS_SHA256, "rsa-pss-sha256"),
];

/// The key that signs, and the certificate that tells others whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    key: Arc<dyn SigningKey>,
    certificate: CertificateDer<'static>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Checkpoint {
    time: String,
    /// `NUMBER:HASH`.
    head: String,
    algorithm: String,
    /// SHA-256 of the certificate, which is in `signer-<this>.der`.
    signer: String,
    signature: String,
}

/// A head whose checkpoint has a good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) head: Head,
    pub(crate) time: String,
    /// SHA-256 of the certificate.
    pub(crate) signer: String,
}

impl Signer {
    /// The broker's own key.
    ///
    /// # Errors
    /// In words: files that cannot be read, a key that cannot sign.
    pub(crate) fn load(files: &config::Tls) -> Result<Signer, String> {
        let words = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|e| words(&files.key, &pem::fault(&e)))?;
        let certificate = CertificateDer::from_pem_file(&files.cert)
            .map_err(|e| words(&files.cert, &pem::fault(&e)))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|e| words(&files.key, &e))?;
        Ok(Signer { key, certificate })
    }

    fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.certificate).as_ref())
    }

    fn sign(&self, head: Head) -> Result<Checkpoint, String> {
        let offered = SCHEMES.map(|(scheme, _)| scheme);
        let signer = self.key.choose_scheme(&offered).ok_or("the key has no usable algorithm")?;
        let name = SCHEMES.iter().find(|(scheme, _)| *scheme == signer.scheme());
        let (_, algorithm) = name.ok_or("the key has no usable algorithm")?;
        let time = prost_types::Timestamp::from(SystemTime::now()).to_string();
        let head = head.to_string();
        let signature = signer.sign(message(&time, &head).as_bytes()).map_err(|e| e.to_string())?;
        Ok(Checkpoint {
            signature: hex(&signature),
            signer: self.fingerprint(),
            algorithm: (*algorithm).to_owned(),
            time,
            head,
        })
    }
}

fn message(time: &str, head: &str) -> String {
    format!("job-broker audit checkpoint 1\n{time}\n{head}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 4096 {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Adds a checkpoint of this head, durable when this returns. The lines up to the head must be.
///
/// # Errors
/// As open(2), write(2), fsync(2); a key that does not sign.
pub(super) fn add(dir: &Path, signer: &Signer, head: Head) -> io::Result<()> {
    let checkpoint = signer.sign(head).map_err(io::Error::other)?;
    let certificate = dir.join(format!("signer-{}.der", checkpoint.signer));
    if !certificate.exists() {
        let name = format!("signer-{}.der", checkpoint.signer);
        store::replace_durably(dir, &name, &signer.certificate)?;
    }
    let path = dir.join(NAME);
    if fs::metadata(&path).is_ok_and(|found| found.len() > MAX_BYTES) {
        store::replace_durably(dir, NAME, newer_half(&fs::read(&path)?))?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    let mut line = serde_json::to_string(&checkpoint).map_err(io::Error::other)?;
    line.push('\n');
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// The whole lines of the second half; all of it where that has none. Whatever the bytes are: a disk may have altered
/// them.
pub(super) fn newer_half(text: &[u8]) -> &[u8] {
    let half = text.len() / 2;
    let end = text[half..].iter().position(|byte| *byte == b'\n').map(|at| half + at + 1);
    &text[end.unwrap_or(0)..]
}

/// The checkpoints of a directory, oldest first: those with a good signature, and what is wrong with the others. A last
/// line without an end is what a crash leaves and is passed over.
///
/// # Errors
/// As open(2) and read(2).
pub(crate) fn load(dir: &Path) -> io::Result<(Vec<Signed>, Vec<String>)> {
    let mut text = String::new();
    match File::open(dir.join(NAME)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        file => file?.take(4 * MAX_BYTES).read_to_string(&mut text)?,
    };
    let (mut signed, mut faults, mut keys) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else { break };
        match check(dir, line, &mut keys) {
            Ok(checkpoint) => signed.push(checkpoint),
            Err(fault) => faults.push(format!("{NAME} line {}: {fault}", at + 1)),
        }
    }
    Ok((signed, faults))
}

pub(super) fn check(
    dir: &Path,
    line: &str,
    keys: &mut BTreeMap<String, Option<Vec<u8>>>,
) -> Result<Signed, String> {
    let checkpoint: Checkpoint = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let Checkpoint { time, head, algorithm, signer, signature } = checkpoint;
    if unhex(&signer).is_none_or(|bytes| bytes.len() != 32) {
        return Err("its signer is no SHA-256".into());
    }
    let key = keys.entry(signer.clone()).or_insert_with(|| public_key(dir, &signer));
    let key = key.as_ref().ok_or_else(|| format!("signer-{signer}.der is missing or altered"))?;
    let algorithm = by_name(&algorithm).ok_or("its algorithm is not known")?;
    let signature = unhex(&signature).ok_or("its signature is not hexadecimal")?;
    UnparsedPublicKey::new(algorithm, key)
        .verify(message(&time, &head).as_bytes(), &signature)
        .map_err(|_| "its signature is not its signer's")?;
    Ok(Signed { head: head.parse()?, time, signer })
}

/// The key of a certificate that is kept beside the checkpoints.
fn public_key(dir: &Path, signer: &str) -> Option<Vec<u8>> {
    let der = fs::read(dir.join(format!("signer-{signer}.der"))).ok()?;
    if hex(digest(&SHA256, &der).as_ref()) != signer {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn by_name(name: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match name {
        "ed25519" => &signature::ED25519,
        "ecdsa-p256-sha256" => &signature::ECDSA_P256_SHA256_ASN1,
        "ecdsa-p384-sha384" => &signature::ECDSA_P384_SHA384_ASN1,
        "ecdsa-p521-sha512" => &signature::ECDSA_P521_SHA512_ASN1,
        "rsa-pss-sha256" => &signature::RSA_PSS_2048_8192_SHA256,
        _ => return None,
    })
}

/// SHA-256 of the first certificate of a PEM file.
///
/// # Errors
/// In words: a file that cannot be read, or is no certificate.
pub(crate) fn fingerprint(path: &Path) -> Result<String, String> {
    let certificate = CertificateDer::from_pem_file(path)
        .map_err(|e| format!("{}: {}", path.display(), pem::fault(&e)))?;
    Ok(hex(digest(&SHA256, &certificate).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_half_begins_with_a_line_whatever_a_disk_has_made_of_the_file() {
        assert_eq!(newer_half(b"{1}\n{2}\n{3}\n{4}\n"), b"{4}\n");
        assert_eq!(newer_half(b"{1}\n{2}\n{3}\n"), b"{3}\n");
        // The middle is inside of a character, and then of none.
        assert_eq!(newer_half("{ä}\nä\n".as_bytes()), "ä\n".as_bytes());
        assert_eq!(newer_half("äää\n".as_bytes()), b"");
        assert_eq!(newer_half(b"\xff\xff\xff\n\xff"), b"\xff");
        assert_eq!(newer_half(b"no line"), b"no line");
        assert_eq!(newer_half(b""), b"");
    }
}
