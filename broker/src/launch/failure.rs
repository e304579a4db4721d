//! Words a failed start for its caller. Decides nothing.

use job_api::echo::echo;
use job_launch::errors::SpawnError;
use job_shim::wire::{Failed, Step};
use nix::errno::Errno;

use crate::launch::LaunchError;
use crate::model::state::{Failure, SHORTAGE, UNRECORDED};
use crate::store::records::SpecRecord;

/// The failure as its caller sees it: the step, the object, the reason.
pub(crate) fn failure(error: &LaunchError, record: &SpecRecord) -> Failure {
    let message = match error {
        LaunchError::Spawn(SpawnError::Shim(failed)) => explain(*failed, record),
        other => other.to_string(),
    };
    Failure { step: error.step().into(), errno: error.errno(), message }
}

/// The failure of a start for a shortage, without the details that only the log has.
pub(crate) fn shortage(failure: &Failure) -> Failure {
    if failure.step == UNRECORDED {
        return failure.clone();
    }
    let what = match failure.errno {
        libc::EMFILE | libc::ENFILE => "descriptors",
        libc::EAGAIN => "processes",
        _ => "memory",
    };
    let why = Errno::from_raw(failure.errno);
    let message = format!(
        "the host is short of {what} ({why:?}); nothing was started, and no job is kept of it: try again \
         in a moment"
    );
    Failure { step: SHORTAGE.into(), errno: failure.errno, message }
}

fn explain(failed: Failed, record: &SpecRecord) -> String {
    let (spec, why) = (&record.spec, Errno::from_raw(failed.errno).desc());
    match failed.step {
        Step::Exec => {
            let program = spec.argv.first().map_or("", String::as_str);
            // The file itself is open: it is what the kernel would have to find for it that is absent.
            let more = match record.allowed_by.is_checked && failed.errno == libc::ENOENT {
                true => {
                    "; your role lists programs, and this file needs another one to run: the dynamic linker that \
                     it names is absent, or only binfmt_misc knows its format; start its interpreter instead"
                }
                false => "",
            };
            format!("cannot execute {}: {why}{more}", echo(program))
        }
        Step::Chdir if record.allowed_by.is_checked && failed.errno == libc::ELOOP => {
            let directory = echo(&spec.working_directory);
            format!("cannot enter {directory}: it was another directory when your role was asked")
        }
        Step::Chdir => {
            let (directory, account) = (echo(&spec.working_directory), &record.account.name);
            format!("cannot enter {directory} as {account}: {why}")
        }
        // It does not understand its launch.
        Step::ReadLaunch if failed.errno == libc::EBADMSG => {
            "job-shim and job-broker are not of one release, as while a package is being replaced; \
             an operator restarts job-broker when that is done"
                .into()
        }
        Step::MountRoot if failed.errno == libc::ENODEV => {
            "the job cannot write into its root: the kernel has no overlay file system, or cannot load it \
             (an operator tries modprobe overlay)"
                .into()
        }
        step => format!("the shim failed at {}: {why}", step.name()),
    }
}
