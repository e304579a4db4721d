//! Part of step 7: the resource limits of each process of the workload (getrlimit(2)).
//!
//! They are counted by process, with one exception: RLIMIT_NPROC counts the processes of the
//! workload's real uid on the whole host, those of other jobs of that user and of his logins too.
//! A user who has more of them already gets EAGAIN at `exec`. To hold a job alone is the matter of
//! its `pids.max`. The shim has a real uid of its own and never counts.

use job_shim::launch::Rlimit;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::sys;

/// What a process on a systemd host gets; the broker raises its own soft limit, and a program
/// that uses select(2) must not inherit that.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// All that is to be set, made before the clone.
pub(crate) struct Rlimits(Vec<Rlimit>);

impl Rlimits {
    /// Those that the launch names; of what it does not name, no core files and the open files of
    /// a systemd host, as far as this process may have them.
    ///
    /// # Errors
    /// EINVAL; no kernel gives it for RLIMIT_NOFILE.
    pub(crate) fn new(named: &[Rlimit]) -> nix::Result<Rlimits> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let hard = if hard == RLIM_INFINITY { OPEN_FILES.1 } else { hard.min(OPEN_FILES.1) };
        let defaults = [
            Rlimit { resource: Resource::RLIMIT_CORE as u32, soft: 0, hard: 0 },
            Rlimit { resource: Resource::RLIMIT_NOFILE as u32, soft: OPEN_FILES.0.min(hard), hard },
        ];
        let is_named = |resource| named.iter().any(|limit| limit.resource == resource);
        let unnamed = defaults.into_iter().filter(|limit| !is_named(limit.resource));
        Ok(Rlimits(unnamed.chain(named.iter().copied()).collect()))
    }

    /// Sets them for this process. It allocates nothing.
    ///
    /// # Errors
    /// EPERM: above the hard limit without CAP_SYS_RESOURCE, which root lacks in many containers,
    /// or more open files than fs.nr_open; EINVAL: soft above hard, or no such resource.
    pub(crate) fn apply(&self) -> nix::Result<()> {
        self.0.iter().try_for_each(sys::limit_resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: u32 = Resource::RLIMIT_CORE as u32;
    const FILES: u32 = Resource::RLIMIT_NOFILE as u32;

    fn of(rlimits: &Rlimits, resource: u32) -> Vec<Rlimit> {
        rlimits.0.iter().copied().filter(|limit| limit.resource == resource).collect()
    }

    #[test]
    fn what_is_not_named_has_its_default() {
        let rlimits = Rlimits::new(&[]).unwrap();
        assert_eq!(of(&rlimits, CORE), [Rlimit { resource: CORE, soft: 0, hard: 0 }]);
        let files = of(&rlimits, FILES)[0];
        assert!(files.soft <= 1024 && files.soft <= files.hard && files.hard <= 524_288);
    }

    #[test]
    fn what_is_named_replaces_the_default() {
        let named = Rlimit { resource: FILES, soft: 10, hard: 20 };
        let rlimits = Rlimits::new(&[named]).unwrap();
        assert_eq!(of(&rlimits, FILES), [named]);
        assert_eq!(of(&rlimits, CORE).len(), 1);
    }
}
