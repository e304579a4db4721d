//! `job-broker check-config`: every fault that can be found without running, each in a sentence.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use super::settings::policy;
use crate::config::{self, Config};
use crate::launch::accounts;
use crate::serve::tls::Tls;

/// Prints the result. 0: a broker could run with it; 1: with every fault on standard error.
pub(super) fn run(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(e) => return report(file, &[e.to_string()]),
    };
    let mut faults = Vec::new();
    if let Err(e) = policy(&config) {
        faults.push(e.to_string());
    }
    if let Err(e) = Tls::load(&config.tls) {
        faults.push(e.to_string());
    }
    faults.extend(shim(&config.jobs.shim));
    faults.extend(users(&config.jobs));
    report(file, &faults)
}

fn report(file: &Path, faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("job-broker: {fault}");
    }
    if faults.is_empty() {
        println!("{}: a broker can run with it", file.display());
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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
