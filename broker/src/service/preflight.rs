//! `job-broker preflight`: checks whether this program could replace the running broker. It must not change anything.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use job_shim::codec::VERSION;

use crate::jobs::recovery::preflight;
use crate::jobs::recovery::preflight::TakeoverCheck;
use crate::journal;
use crate::model::id::JobId;
use crate::service::error::ServiceError;
use crate::service::host_check;
use crate::service::settings::Settings;
use crate::store;
use crate::store::owner;

/// Prints what would become of the jobs. Fails if this broker could not start, or could not take over every job.
pub(super) fn run(file: &Path) -> Result<(), ServiceError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ServiceError::NotRoot);
    }
    let config = Settings::load(file)?.config;
    for path in store::directories(&config.jobs.state_dir).iter().chain([&config.jobs.run_dir]) {
        owner::check(path)?.iter().for_each(journal::warning);
    }
    host_check::warnings(file).iter().for_each(journal::warning);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let jobs = runtime.block_on(preflight::check(&config.jobs));
    let jobs = jobs.map_err(|e| ServiceError::Io(io::Error::other(e)))?;
    match count(&jobs) {
        (all, 0) => {
            let protocol_versions = protocol_versions(&jobs);
            // The exit status is the answer, even if the output is closed.
            let _ = writeln!(
                io::stdout(),
                "{all} jobs run; this job-broker can take over all of them{protocol_versions}"
            );
            Ok(())
        }
        (all, foreign) => Err(ServiceError::IncompatibleJobs { all, foreign }),
    }
}

/// The number of running jobs, and of those that this broker could not take over; prints each of the latter.
fn count(jobs: &[(JobId, TakeoverCheck)]) -> (usize, usize) {
    let (mut all, mut foreign) = (0, 0);
    for (id, check) in jobs {
        all += usize::from(*check != TakeoverCheck::Over);
        match check {
            TakeoverCheck::Over | TakeoverCheck::Adopted(_) => {}
            TakeoverCheck::Followed(why) => journal::warning(format_args!(
                "job {id}: its shim cannot be reached, as little as by any other broker now: {why}; \
                 its files would be followed"
            )),
            TakeoverCheck::Foreign(why) => {
                foreign += 1;
                journal::error(format_args!("job {id}: {why}"));
            }
        }
    }
    (all, foreign)
}

/// The protocol versions of the shims that differ from this program's.
fn protocol_versions(jobs: &[(JobId, TakeoverCheck)]) -> String {
    let versions: BTreeSet<u16> = jobs
        .iter()
        .filter_map(|(_, check)| match check {
            TakeoverCheck::Adopted(version) if *version != VERSION => Some(*version),
            _ => None,
        })
        .collect();
    let versions: Vec<_> = versions.iter().map(u16::to_string).collect();
    match versions.as_slice() {
        [] => String::new(),
        _ => format!(" (it speaks version {VERSION}, some of them {})", versions.join(" and ")),
    }
}
