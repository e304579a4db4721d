//! Fuzz target: the certificate of a caller. TLS has verified it; who it names is for the broker to read.

use crate::model::identity::{Naming, SpiffeNames, peer};

/// A certificate in DER, read as each kind of trust domain reads it.
pub fn identity(data: &[u8]) {
    let reserved = vec!["partner".to_owned()];
    for spiffe in [None, Some(SpiffeNames::Last), Some(SpiffeNames::Dotted)] {
        for prefix in [None, Some("partner".to_owned())] {
            let (trust_domain, reserved) = ("local".to_owned(), reserved.clone());
            judged(data, &Naming { trust_domain, prefix, reserved, spiffe });
        }
    }
}

fn judged(data: &[u8], naming: &Naming) {
    let peer = match peer(data, naming) {
        Ok(peer) => peer,
        Err(refusal) => return assert!(refusal.to_string().len() < 2048, "{refusal}"),
    };
    let name = peer.identity.as_str();
    assert!(job_api::names::check_name(name).is_ok(), "{name}");
    assert_eq!(name.starts_with("partner."), naming.prefix.is_some(), "{name}");
    assert!(peer.serial.len() <= 64 && peer.issuer.len() <= 256 && peer.fingerprint.len() == 64);
}
