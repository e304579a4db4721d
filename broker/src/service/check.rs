//! `job-broker check-config`: reports every fault that can be found without running, each in a sentence. It must not
//! change anything.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::config::Config;
use crate::journal;
use crate::model::identity::Identity;
use crate::service::certificates;
use crate::service::certificates::Findings;
use crate::service::host_check;
use crate::service::risks;
use crate::service::settings;
use crate::store;
use crate::store::owner;
use job_launch::accounts;

/// Prints the findings on standard error, and the result. 0: a broker can run with this configuration, and clients
/// can reach it; 1: it has a fault.
pub(super) fn run(file: &Path) -> ExitCode {
    let config = match Config::read(file) {
        Ok(config) => config,
        Err(e) => return report(file, &Findings { faults: vec![e.to_string()], ..<_>::default() }),
    };
    let mut found = Findings::default();
    let values = config.faults().into_iter().map(|(key, fault)| format!("{key} {fault}"));
    found.faults.extend(values);
    found.faults.extend(admins(&config.admins));
    if found.faults.is_empty() {
        found.faults.extend(settings::policy(&config).err().map(|e| format!("policy: {e}")));
    }
    let tls = certificates::check(&config.tls);
    found.faults.extend(tls.faults);
    found.warnings.extend(tls.warnings);
    found.faults.extend(shim(&config.jobs.shim));
    found.faults.extend(users(&config.jobs));
    let directories = directories(&config.jobs);
    found.faults.extend(directories.faults);
    found.warnings.extend(directories.warnings);
    found.warnings.extend(risks::find(&config));
    if found.faults.is_empty() {
        found.warnings.extend(host_check::warnings(file));
    }
    report(file, &found)
}

fn report(file: &Path, found: &Findings) -> ExitCode {
    found.faults.iter().for_each(journal::error);
    found.warnings.iter().for_each(journal::warning);
    if found.faults.is_empty() {
        // The exit status is the answer, even if the output is closed.
        let _ = writeln!(io::stdout(), "{}: a broker can run with it", file.display());
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn admins(names: &[String]) -> impl Iterator<Item = String> {
    names.iter().filter_map(|name| Identity::new(name).err().map(|e| format!("admins: {e}")))
}

fn shim(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Err(e) => Some(format!("jobs.shim: cannot find {}: {e}", path.display())),
        Ok(found) if !found.is_file() || found.permissions().mode() & 0o111 == 0 => {
            Some(format!("jobs.shim: {} is no program", path.display()))
        }
        Ok(_) => None,
    }
}

/// The faults that a broker rejects or repairs. Directories that this caller cannot read are left to root.
fn directories(jobs: &config::Jobs) -> Findings {
    let mut found = Findings::default();
    for path in store::directories(&jobs.state_dir).into_iter().chain([jobs.run_dir.clone()]) {
        match owner::check(&path) {
            Ok(warning) => found.warnings.extend(warning),
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {}
            Err(e) => found.faults.push(format!("jobs: {e}")),
        }
    }
    found
}

fn users(jobs: &config::Jobs) -> Vec<String> {
    let shim_uid = match accounts::shim_account(&jobs.shim_user) {
        Ok((uid, _)) => uid,
        Err(e) => return vec![format!("jobs.shim_user: {e}")],
    };
    let mut faults = Vec::new();
    if (jobs.pool.0..=jobs.pool.1).contains(&shim_uid) {
        faults.push(format!("jobs.pool holds uid {shim_uid}, that of jobs.shim_user"));
    }
    let named = jobs.run_as.iter().filter(|name| *name != "pool");
    faults.extend(named.filter_map(|name| {
        accounts::resolve(name, shim_uid).err().map(|e| format!("jobs.run_as: {e}"))
    }));
    faults
}
