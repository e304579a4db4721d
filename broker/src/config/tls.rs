//! `[tls]`: the broker's certificate, the authorities of clients, their revocation lists. Reads no certificate.

use std::path::PathBuf;

use job_api::names::check_name;
use serde::Deserialize;

use crate::model::identity::SpiffeNames;

/// Maximum authorities beside `client_ca`: each is asked at each handshake.
const MAX_AUTHORITIES: usize = 16;
/// Maximum revocation lists of one authority.
const MAX_LISTS: usize = 16;

/// The paths of the certificates, PEM.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The broker's certificate chain, PEM, leaf first.
    pub cert: PathBuf,
    /// The private key of `cert`, PEM; readable by root only.
    pub key: PathBuf,
    /// Authorities that sign clients' certificates, PEM. Clients of other authorities cannot connect.
    pub client_ca: PathBuf,
    /// The `<trust-domain>` of a client's identity `job://<trust-domain>/<name>`; any other is rejected.
    ///
    /// Default: `"local"`
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    /// Revocation lists of the authorities in `client_ca`, PEM or DER, each signed by one of them. Where an authority
    /// has a list, its clients connect only as long as the list is current, and everything between it and a client
    /// needs a list, too. Where it has none, nothing is checked.
    ///
    /// Default: `[]`
    #[serde(default)]
    pub crl: Vec<PathBuf>,
    /// Accepts SPIFFE ids `spiffe://<trust-domain>/<path>` as identities: `"dotted"` makes `ns.prod.ci` of `/ns/prod/ci`,
    /// `"last"` makes `ci` of it. Common names are not accepted then. Not set: only `job://` URIs and common names.
    pub spiffe: Option<SpiffeNames>,
    /// What happens to the live jobs that were started with a certificate, or by its holder before, when a list revokes
    /// it: `"keep"`, `"pause"` or `"stop"`. That a certificate expires does nothing to jobs.
    ///
    /// Default: `"keep"`
    #[serde(default)]
    pub on_revoked: OnRevoked,
    /// Authorities of other trust domains, each with its own names.
    #[serde(default)]
    pub authority: Vec<Authority>,
}

/// An authority beside `client_ca`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Certificates of the authority, PEM.
    pub ca: PathBuf,
    /// Its trust domain. That of `tls.trust_domain` adds the authority to those of `client_ca`.
    pub trust_domain: String,
    /// What stands before each of its names: with `"partner"` its `alice` is `partner.alice` here. Needed for every other
    /// trust domain, so that one authority's `alice` is not another's.
    pub prefix: Option<String>,
    /// Its revocation lists, as `tls.crl`.
    ///
    /// Default: `[]`
    #[serde(default)]
    pub crl: Vec<PathBuf>,
    /// As `tls.spiffe`.
    pub spiffe: Option<SpiffeNames>,
}

/// What happens to the jobs of an identity when one of its certificates is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRevoked {
    /// Nothing.
    #[default]
    Keep,
    /// They are paused.
    Pause,
    /// They are stopped.
    Stop,
}

fn default_trust_domain() -> String {
    "local".into()
}

impl Tls {
    /// The prefixes of all other trust domains.
    pub(crate) fn prefixes(&self) -> Vec<String> {
        self.authority.iter().filter_map(|one| one.prefix.clone()).collect()
    }

    /// All files that are read, for whoever watches them.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let own = [&self.cert, &self.key, &self.client_ca];
        let others = self.authority.iter();
        own.into_iter()
            .chain(&self.crl)
            .chain(others.flat_map(|one| std::iter::once(&one.ca).chain(&one.crl)))
            .cloned()
            .collect()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.authority.len() > MAX_AUTHORITIES {
            let fault = format!("has more than {MAX_AUTHORITIES} tables");
            faults.push(("tls.authority", fault));
        }
        let lists = std::iter::once(("tls.crl", &self.crl))
            .chain(self.authority.iter().map(|one| ("tls.authority.crl", &one.crl)));
        for (key, files) in lists {
            if files.len() > MAX_LISTS {
                faults.push((key, format!("has more than {MAX_LISTS} files")));
            }
        }
        for (n, one) in self.authority.iter().enumerate() {
            faults.extend(self.prefix_fault(one).map(|fault| ("tls.authority.prefix", fault)));
            let mut before = self.authority[..n].iter();
            let is_other = one.trust_domain != self.trust_domain;
            if is_other && before.any(|other| other.trust_domain == one.trust_domain) {
                let fault = format!(
                    "{:?} has two tables: put both authorities into one file",
                    one.trust_domain
                );
                faults.push(("tls.authority.trust_domain", fault));
            }
        }
        faults
    }

    fn prefix_fault(&self, one: &Authority) -> Option<String> {
        let domain = &one.trust_domain;
        match &one.prefix {
            None if *domain == self.trust_domain => None,
            None => Some(format!(
                "is missing for trust domain {domain:?}: without one its names would be those of \
                 {:?}",
                self.trust_domain
            )),
            Some(_) if *domain == self.trust_domain => Some(format!(
                "must not be set for {domain:?}, the trust domain of tls.trust_domain"
            )),
            Some(prefix) => {
                let same = self.authority.iter().filter(|other| other.prefix == one.prefix);
                match check_name(prefix) {
                    Err(fault) => Some(format!("{prefix:?} {fault}")),
                    Ok(()) if prefix.len() > 40 => Some("has more than 40 characters".into()),
                    Ok(()) if same.count() > 1 => Some(format!("{prefix:?} is given twice")),
                    Ok(()) => None,
                }
            }
        }
    }
}
