//! What one certificate for a broker or a user is to say.

use std::net::IpAddr;
use std::time::SystemTime;

use aws_lc_rs::rand;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};

use crate::clock;
use crate::error::Error;
use crate::names::TrustDomain;

/// A certificate to be issued, exactly as it will be: nothing here is judged or completed.
///
/// Sensible ones come from [`crate::Authority::user_leaf`] and [`crate::Authority::server_leaf`];
/// tests change fields of those to get certificates that a broker must refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The subject's Common Name; none leaves it out.
    pub common_name: Option<String>,
    /// Subject alternative names of type URI, ASCII.
    pub uris: Vec<String>,
    /// Subject alternative names of type DNS, ASCII.
    pub dns: Vec<String>,
    /// Subject alternative names of type IP address.
    pub ips: Vec<IpAddr>,
    /// Extended key usages; none leaves the extension out.
    pub usages: Vec<Usage>,
    /// Valid from, whole seconds.
    pub not_before: SystemTime,
    /// Valid until and including, whole seconds.
    pub not_after: SystemTime,
}

/// An extended key usage (RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// serverAuth: the holder may be the server of a TLS connection.
    Server,
    /// clientAuth: the holder may be the client of a TLS connection.
    Client,
}

impl Leaf {
    /// `domain` becomes the subject's Organization, so that the subject is never empty even
    /// where a certificate must have no Common Name.
    pub(crate) fn params(&self, domain: &TrustDomain) -> Result<CertificateParams, Error> {
        let mut params = base(domain, self.not_before, self.not_after)?;
        if let Some(name) = &self.common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.subject_alt_names = self.alternative_names()?;
        // Not `NoCa`: that would leave out the subject key identifier too.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.iter().map(|u| u.purpose()).collect();
        Ok(params)
    }

    fn alternative_names(&self) -> Result<Vec<SanType>, Error> {
        let mut names = Vec::new();
        for uri in &self.uris {
            names.push(SanType::URI(ascii(uri)?));
        }
        for dns in &self.dns {
            names.push(SanType::DnsName(ascii(dns)?));
        }
        names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        Ok(names)
    }
}

fn ascii(name: &str) -> Result<Ia5String, Error> {
    name.try_into().map_err(|source| Error::NotAscii { name: name.to_owned(), source })
}

impl Usage {
    fn purpose(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

/// The certificate of an authority itself: self-signed, signs leaves and revocation lists, and no
/// further authorities (path length 0).
pub(crate) fn ca_params(
    domain: &TrustDomain,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = base(domain, not_before, not_after)?;
    params.distinguished_name.push(DnType::CommonName, "job-certs CA");
    params.subject_alt_names = vec![SanType::URI(ascii(&domain.uri())?)];
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn base(
    domain: &TrustDomain,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, domain.to_string());
    params.not_before = clock::to_asn1(not_before)?.to_datetime();
    params.not_after = clock::to_asn1(not_after)?.to_datetime();
    params.serial_number = Some(random_serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 128 random bits: no register of issued numbers is needed to keep them apart (RFC 5280 section
/// 4.1.2.2 allows 20 octets).
fn random_serial() -> Result<SerialNumber, Error> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| Error::Random)?;
    Ok(SerialNumber::from_slice(&serial))
}
