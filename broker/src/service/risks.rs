//! Finds configurations that work but are harmful once a job or a host is compromised, for `check-config`. It must
//! not report a fault: a broker runs with each of them.

use std::path::{Path, PathBuf};

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::config;
use crate::config::Config;
use crate::model::limits::Limits;
use crate::quota::jobs::Demand;
use crate::quota::kind::UNLIMITED;
use crate::quota::limits::QuotaTable;

/// The directory with an empty file for each account whose user manager runs without a session: loginctl(1),
/// `enable-linger`.
const LINGER: &str = "/var/lib/systemd/linger";

/// The risks, each in a sentence for an operator, with the remedy.
pub(super) fn find(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(authority_key(&config.tls));
    found.extend(shared_by_default(&config.jobs));
    found.extend(config.jobs.run_as.iter().filter_map(|name| lingering(name)));
    found.extend(small_quotas(config));
    found
}

/// A start that says nothing of its limits has those of `[limits.default]`: a quota below them refuses every one.
fn small_quotas(config: &Config) -> Vec<String> {
    // What is wrong with either is a fault, and said as such.
    let (Ok(limits), Ok(quotas)) = (config.limits.tables(), config.quotas.tables()) else {
        return Vec::new();
    };
    let demand = Demand::of(&Limits::default().with_defaults(&limits));
    let identities = quotas.identities.iter();
    let identities =
        identities.map(|(name, table)| (format!("quotas.identity.{:?}", name.text()), table));
    let of_all = [("quotas.default", &quotas.default), ("quotas.admin", &quotas.admin)];
    let tables = of_all.map(|(name, table)| (name.to_owned(), table)).into_iter().chain(identities);
    let small = |(name, table): (String, &QuotaTable)| {
        let too_small = demand.above(table);
        too_small.into_iter().map(move |(kind, limit, takes)| {
            let (key, limit) = (kind.name(), kind.show(limit));
            let more = match takes {
                UNLIMITED => {
                    "a job that says nothing of it has no limit, and is refused".to_owned()
                }
                takes => format!("a job that says nothing of it takes {}", kind.show(takes)),
            };
            format!("{name}: {key} is {limit}, and {more}: see [limits.default] and [limits.max]")
        })
    };
    tables.flat_map(small).collect()
}

/// The authority signs any number of identities, so any broker may have more than one, and all of them share the
/// account.
fn shared_by_default(jobs: &config::Jobs) -> Option<String> {
    (jobs.run_as.first()? == "nobody").then(|| {
        "jobs.run_as: jobs run as \"nobody\" unless they say otherwise, and such jobs of different \
         people can signal, trace and read each other: put \"pool\" first"
            .to_owned()
    })
}

/// An attacker who controls this host would get the key that signs certificates for any identity.
fn authority_key(files: &config::Tls) -> Option<String> {
    let name = files.client_ca.with_extension("key").file_name().map(PathBuf::from);
    let mut names = vec![PathBuf::from("ca.key")];
    names.extend(name.filter(|name| *name != names[0]));
    let beside = |name: &PathBuf| files.key.with_file_name(name);
    let is_authoritys = |path: &PathBuf| *path != files.key && is_private_key(path);
    let path = names.iter().map(beside).find(is_authoritys)?;
    let path = path.display();
    Some(format!(
        "tls.key: the authority's key {path} lies beside it, and whoever gets that can be anybody: \
         move it to another machine"
    ))
}

fn is_private_key(path: &Path) -> bool {
    PrivateKeyDer::from_pem_file(path).is_ok()
}

/// A job can ask that manager over its socket to start a process in the manager's own cgroup.
fn lingering(name: &str) -> Option<String> {
    // "pool" is not an account: the broker assigns uids without an account.
    let lingers = name != "pool" && Path::new(LINGER).join(name).exists();
    lingers.then(|| {
        format!(
            "jobs.run_as: {name:?} has a user manager that is always there, and \"systemd-run --user\" \
             takes a process out of its job and its limits: loginctl disable-linger {name}"
        )
    })
}
