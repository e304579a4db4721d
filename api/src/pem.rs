//! What is wrong with a PEM file, in words that repeat nothing of it: of a key whose lines were joined by accident the
//! line is the key.

use rustls_pki_types::pem::Error;

/// Says what is wrong, in a bounded sentence without a subject.
pub fn fault(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { .. } => "a PEM section has no end line".into(),
        Error::IllegalSectionStart { .. } => "a line that begins a PEM section is malformed".into(),
        Error::Base64Decode(_) => "a PEM section is not base64".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn a_key_whose_lines_were_joined_is_not_repeated() {
        let joined = format!("-----BEGIN PRIVATE KEY----- {} -----END", "MIGH".repeat(1 << 20));
        let Err(error) = PrivateKeyDer::from_pem_slice(joined.as_bytes()) else {
            panic!("it is no key")
        };
        assert!(error.to_string().contains("77, 73, 71, 72"), "the library repeats it: {error}");
        assert_eq!(fault(&error), "a line that begins a PEM section is malformed");
    }
}
