//! Which certificates are accepted: authorities, their trust domains and revocation lists, and the judgement of a
//! chain. It must give the same answer at the handshake and each time a live connection is judged again.

pub(crate) mod crl;
pub(crate) mod load;
pub(crate) mod refusal;
pub(crate) mod verifier;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::certificates::AuthorityReport;
use crate::model::identity::{Identity, Naming};
use crate::serve::trust::crl::{Crl, Revoked, Serial};
use crate::serve::trust::refusal::{MAX_CHAIN, Refusal};

/// All authorities that are in force.
pub(crate) struct Trust {
    domains: Vec<Domain>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The authorities of one trust domain.
struct Domain {
    naming: Arc<Naming>,
    anchors: Vec<TrustAnchor<'static>>,
    /// One for each anchor.
    authorities: Vec<Authority>,
}

struct Authority {
    /// In words.
    name: String,
    subject: Vec<u8>,
    /// The contents of its SubjectPublicKeyInfo.
    key: Vec<u8>,
    not_after: Option<UnixTime>,
    crls: Vec<Crl>,
}

/// A chain that is accepted.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// How its trust domain names identities.
    pub(crate) naming: Arc<Naming>,
    /// The first end of a certificate of the chain.
    pub(crate) valid_until: UnixTime,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let domains = self.domains.iter().map(|domain| &domain.naming);
        f.debug_list().entries(domains).finish()
    }
}

impl Trust {
    /// Whether the chain is accepted now, and by which trust domain.
    ///
    /// # Errors
    /// [`Refusal`]: of all that the trust domains say, what weighs most.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Accepted, Refusal> {
        let bytes = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
        let count = 1 + intermediates.len();
        if count > MAX_CHAIN.0 || bytes > MAX_CHAIN.1 {
            return Err(Refusal::TooLong { count, bytes });
        }
        let certificate = EndEntityCert::try_from(leaf)?;
        let (mut accepted, mut refused) = (None, None::<Refusal>);
        for domain in &self.domains {
            match domain.judge(&certificate, intermediates, now, &self.algorithms) {
                Ok(_) if accepted.is_some() => return Err(Refusal::Ambiguous),
                Ok(valid_until) => {
                    accepted = Some(Accepted { naming: Arc::clone(&domain.naming), valid_until });
                }
                Err(refusal) => keep_heavier(&mut refused, refusal),
            }
        }
        match (accepted, refused) {
            (_, Some(revoked @ Refusal::Revoked { .. })) => Err(revoked),
            (Some(accepted), _) => Ok(accepted),
            (None, Some(refusal)) => Err(refusal),
            (None, None) => Err(webpki::Error::UnknownIssuer.into()),
        }
    }

    /// The subjects of all authorities, the contents of each name.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.domains.iter().flat_map(|domain| &domain.anchors).map(|anchor| anchor.subject.as_ref())
    }

    /// The end of the first authority.
    pub(crate) fn first_end(&self) -> Option<UnixTime> {
        let authorities = self.domains.iter().flat_map(|domain| &domain.authorities);
        authorities.filter_map(|authority| authority.not_after).min()
    }

    /// When the first of the revocation lists is to be renewed.
    pub(crate) fn first_list_end(&self) -> Option<UnixTime> {
        let authorities = self.domains.iter().flat_map(|domain| &domain.authorities);
        authorities.flat_map(|authority| &authority.crls).map(Crl::next_update).min()
    }

    /// What an operator is told of each authority.
    pub(crate) fn report(&self) -> Vec<AuthorityReport> {
        let of = |domain: &Domain, authority: &Authority| AuthorityReport {
            subject: authority.name.clone(),
            trust_domain: domain.naming.trust_domain.clone(),
            prefix: domain.naming.prefix.clone().unwrap_or_default(),
            expires: authority.not_after.map(system_time),
            list_until: authority.crls.iter().map(Crl::next_update).min().map(system_time),
            revoked: authority.crls.iter().map(Crl::len).sum(),
        };
        let all = self.domains.iter();
        all.flat_map(|domain| domain.authorities.iter().map(move |one| of(domain, one))).collect()
    }
}

impl Trust {
    /// What the lists of an identity's trust domain say of a certificate, by its number in hexadecimal digits and the
    /// beginning of its issuer's name.
    pub(crate) fn revoked(&self, of: &Identity, serial: &str, issuer: &str) -> Option<Revoked> {
        let serial = Serial::from_hex(serial)?;
        let domain = self.domains.iter().find(|domain| domain.naming.is_of(of))?;
        let authorities = domain.authorities.iter();
        authorities
            .filter(|authority| authority.name.starts_with(issuer))
            .flat_map(|authority| &authority.crls)
            .find_map(|crl| crl.find(serial))
    }
}

impl Domain {
    /// The time until which the chain is valid, by these authorities.
    fn judge(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<UnixTime, Refusal> {
        let refused = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            let checked = self.check_lists(path, now).and_then(|()| self.check_anchor(path, now));
            checked.map_err(|refusal| {
                keep_heavier(&mut refused.borrow_mut(), refusal);
                webpki::Error::UnknownRevocationStatus // another path is tried
            })
        };
        let usage = KeyUsage::client_auth();
        let (anchors, check) = (&self.anchors, Some(&check as _));
        let found =
            leaf.verify_for_usage(algorithms.all, anchors, intermediates, now, usage, None, check);
        let valid_until = found.map(|path| {
            let end = self.anchor(&path).and_then(|authority| authority.not_after);
            end.map_or(valid_until(&path), |end| end.min(valid_until(&path)))
        });
        match (valid_until, refused.into_inner()) {
            (_, Some(revoked @ Refusal::Revoked { .. })) => Err(revoked),
            (Ok(valid_until), _) => Ok(valid_until),
            (Err(_), Some(refusal)) => Err(refusal),
            (Err(e), None) => Err(e.into()),
        }
    }

    /// A path from the leaf to an authority. Where one of its issuers has a list, all must have one that is current; where
    /// none has, nothing is checked.
    fn check_lists(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Refusal> {
        let (mut covered, mut uncovered, mut expired) = (false, None, None);
        let mut certificate: &webpki::Cert<'_> = path.end_entity();
        let mut above = path.intermediate_certificates();
        let mut whose = "the client certificate";
        loop {
            let issuer = above.next();
            let issuer_key = match issuer {
                Some(issuer) => contents(&issuer.subject_public_key_info()).to_vec(),
                None => path.anchor().subject_public_key_info.as_ref().to_vec(),
            };
            match self.authority(certificate.issuer(), &issuer_key) {
                Some(authority) if !authority.crls.is_empty() => {
                    covered = true;
                    let serial = Serial::new(certificate.serial());
                    let mut lists = authority.crls.iter();
                    let entry = serial
                        .and_then(|serial| Some((serial, lists.find_map(|crl| crl.find(serial))?)));
                    if let Some((serial, entry)) = entry {
                        return Err(Refusal::Revoked { whose, serial, entry });
                    }
                    let oldest = authority.crls.iter().map(Crl::next_update).min();
                    if let Some(next_update) = oldest.filter(|end| *end <= now) {
                        let authority = authority.name.clone();
                        expired = Some(Refusal::ListExpired { authority, next_update, now });
                    }
                }
                _ => uncovered = Some(crl::name_in_words(certificate.issuer())),
            }
            let Some(issuer) = issuer else { break };
            (certificate, whose) = (issuer, "the certificate of an intermediate authority");
        }
        match (expired, uncovered) {
            (Some(expired), _) => Err(expired),
            (None, Some(issuer)) if covered => Err(Refusal::Uncovered { issuer }),
            _ => Ok(()),
        }
    }

    /// The authority at a path's end.
    fn anchor(&self, path: &VerifiedPath<'_>) -> Option<&Authority> {
        let leaf: &webpki::Cert<'_> = path.end_entity();
        let below = path.intermediate_certificates().next_back().unwrap_or(leaf);
        self.authority(below.issuer(), path.anchor().subject_public_key_info.as_ref())
    }

    /// webpki takes a trust anchor for valid at all times.
    fn check_anchor(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Refusal> {
        let Some(authority) = self.anchor(path) else { return Ok(()) };
        match authority.not_after.filter(|end| *end < now) {
            Some(not_after) => {
                let authority = authority.name.clone();
                Err(Refusal::AuthorityExpired { authority, not_after, now })
            }
            None => Ok(()),
        }
    }

    fn authority(&self, subject: &[u8], key: &[u8]) -> Option<&Authority> {
        self.authorities.iter().find(|one| one.subject == subject && one.key == key)
    }
}

fn keep_heavier(kept: &mut Option<Refusal>, refusal: Refusal) {
    if kept.as_ref().is_none_or(|kept| kept.weight() < refusal.weight()) {
        *kept = Some(refusal);
    }
}

/// The first end of a certificate on the path. One that cannot be read was not accepted.
fn valid_until(path: &VerifiedPath<'_>) -> UnixTime {
    let leaf: &webpki::Cert<'_> = path.end_entity();
    let all = std::iter::once(leaf).chain(path.intermediate_certificates());
    let ends = all.filter_map(|certificate| not_after(&certificate.der()));
    ends.min().unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO))
}

/// The end of a certificate.
pub(crate) fn not_after(der: &[u8]) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    crl::unix(certificate.validity().not_after)
}

/// The contents of a DER element.
fn contents(der: &[u8]) -> &[u8] {
    Any::from_der(der).map_or(&[], |(_, any)| any.data)
}

/// The same in the standard library's words.
pub(crate) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}
