//! Fuzz targets: files of certificates and of revocation lists.

use std::path::Path;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::anchor_from_trusted_cert;

use crate::serve::trust::crl::{Serial, name_in_words, parse_file};
use crate::serve::trust::{load, not_after};

/// The certificates of a file, one of which may be an authority.
pub fn certificates(data: &[u8]) {
    let path = Path::new("ca.crt");
    match load::in_file("tls.client_ca", path, data) {
        Err(fault) => assert!(fault.to_string().len() < 1024, "{fault}"),
        Ok(all) => all.iter().for_each(certificate),
    }
    certificate(&CertificateDer::from(data));
}

fn certificate(der: &CertificateDer<'_>) {
    let _ = not_after(der);
    if let Ok(anchor) = anchor_from_trusted_cert(der) {
        let _ = name_in_words(&anchor.subject);
    }
}

/// The lists of a file, as they are after their signature was verified.
pub fn crl(data: &[u8]) {
    let lists = match parse_file(Path::new("ca.crl"), data.to_vec()) {
        Ok(lists) => lists,
        Err(fault) => return assert!(fault.len() < 1024, "{fault}"),
    };
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    for list in lists {
        let der = CertificateDer::from(data);
        if let Ok(anchor) = anchor_from_trusted_cert(&der) {
            assert!(!list.is_signed_by(&anchor, &algorithms), "by itself");
        }
        let Ok(crl) = list.into_crl() else { continue };
        assert!(crl.next_update() >= UnixTime::since_unix_epoch(std::time::Duration::ZERO));
        let absent = Serial::new(&[0xa5; 20]).expect("20 octets");
        assert!(crl.find(absent).is_none() || crl.len() > 0);
    }
}
