//! Limits concurrent calls: per identity, in total, and per job. Does no work of a call.
//!
//! A detached call (a start, a change, a pause) counts until it is done, even if its caller hangs up.

use std::sync::Arc;

use crate::auth::{Caller, Role};
use crate::model::id::JobId;
use crate::model::identity::Identity;
use crate::quota::kind::QuotaKind;
use crate::quota::{Exceeded, OverQuota, Permit, Quota, Quotas};

/// What kind of a call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answered as soon as it can be.
    Short,
    /// Waits for a job: for its end, or for it to read.
    Waits,
    /// Reads the audit.
    Audit,
    /// Starts a job; the size of the request in bytes.
    Start(u64),
}

/// Calls in flight of one identity: each has a task, a request and an answer, some 10 to 100 KiB without
/// what has bounds of its own. Nobody who works with one hand comes near.
const SHORT: u64 = 512;
/// A call that waits is a task and a timer: as many as an identity has jobs in a large script.
const WAITING: u64 = 2048;
/// Calls that read the audit: each has up to 64 KiB of lines in memory, and a thread for a slice of them.
const AUDIT: u64 = 16;
/// Starts, from the call to STARTED: each of these may be a shim whose program hangs in its execve(2),
/// for 30 s at most.
const STARTS: u64 = 512;
/// Bytes of the requests of these, which are kept until GO: 1 MiB of arguments and environment each, at
/// most, and one that is small as a rule.
const START_BYTES: u64 = 64 << 20;
/// Calls that change one job, of one identity: they have to wait for each other.
const ON_JOB: u64 = 32;
/// Streams of input to one job, of one identity: the writer, and streams whose lost connection is not
/// detected yet.
const WRITERS: u64 = 4;
/// The total limit is this multiple of the limit of one identity; it bounds the memory of calls.
const IDENTITIES: u64 = 4;

/// The limit of concurrent calls that is reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} at a time; try again when some of them have ended")]
pub struct Busy(Exceeded);

/// The permits of an admitted call, released on drop.
#[derive(Debug)]
#[must_use = "dropped, it gives its place back: work that goes on without its caller takes it along"]
pub struct Call {
    _places: Vec<Permit<Identity>>,
    _on_job: Option<Permit<(Identity, JobId)>>,
}

/// All calls in flight. Those of admins are counted apart: however busy others keep the broker, there is
/// a place for who sees to it.
#[derive(Debug)]
pub(crate) struct Calls {
    users: Bounds,
    admins: Bounds,
    on_job: Arc<Quota<(Identity, JobId)>>,
    writers: Arc<Quota<(Identity, JobId)>>,
}

#[derive(Debug)]
struct Bounds {
    short: Arc<Quota<Identity>>,
    waiting: Arc<Quota<Identity>>,
    audit: Arc<Quota<Identity>>,
    starts: Arc<Quota<Identity>>,
    start_bytes: Arc<Quota<Identity>>,
}

impl Bounds {
    fn new(quotas: &Quotas) -> Bounds {
        let quota = |what, each| Quota::new(what, each, each * IDENTITIES);
        Bounds {
            short: quota("calls", SHORT),
            waiting: quotas.counter(QuotaKind::Waits, WAITING, WAITING * IDENTITIES),
            audit: quota("calls that read the audit", AUDIT),
            starts: quota("starts", STARTS),
            start_bytes: quota("bytes of starts", START_BYTES),
        }
    }
}

impl Calls {
    pub(crate) fn new(quotas: &Quotas) -> Calls {
        let on_job = |what, each| Quota::new(what, each, u64::MAX); // bounded by the calls themselves
        Calls {
            users: Bounds::new(quotas),
            admins: Bounds::new(quotas),
            on_job: on_job("calls that change this job", ON_JOB),
            writers: on_job("streams of input to this job", WRITERS),
        }
    }

    /// A place for a call.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) fn admit(&self, caller: &Caller, kind: Kind) -> Result<Call, Busy> {
        let bounds = match caller.role() {
            Role::User => &self.users,
            Role::Admin => &self.admins,
        };
        let who = caller.identity();
        let places = match kind {
            Kind::Short => vec![bounds.short.take(who, 1)?],
            Kind::Waits => vec![bounds.waiting.take(who, 1)?],
            Kind::Audit => vec![bounds.waiting.take(who, 1)?, bounds.audit.take(who, 1)?],
            Kind::Start(bytes) => {
                vec![bounds.starts.take(who, 1)?, bounds.start_bytes.take(who, bytes)?]
            }
        };
        Ok(Call { _places: places, _on_job: None })
    }

    /// Counts the call against the job that it changes.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) fn change(&self, call: Call, caller: &Caller, job: JobId) -> Result<Call, Busy> {
        let key = (caller.identity().clone(), job);
        Ok(Call { _on_job: Some(self.on_job.take(&key, 1)?), ..call })
    }

    /// Counts a call that writes to a job's standard input.
    ///
    /// # Errors
    /// [`Busy`].
    pub(crate) fn write(&self, call: Call, caller: &Caller, job: JobId) -> Result<Call, Busy> {
        let key = (caller.identity().clone(), job);
        Ok(Call { _on_job: Some(self.writers.take(&key, 1)?), ..call })
    }
}

impl From<Exceeded> for Busy {
    fn from(exceeded: Exceeded) -> Busy {
        Busy(exceeded)
    }
}

impl Busy {
    /// The quota that is reached, if it is one of the identity's that operators can configure.
    pub(crate) fn quota(&self) -> Option<&OverQuota> {
        self.0.quota()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Policy;

    fn caller(name: &str) -> Caller {
        let identity = |name| Identity::new(name).unwrap();
        Policy::new([identity("root")]).caller(identity(name))
    }

    #[test]
    fn one_identity_does_not_take_anothers_places_and_nobody_those_of_admins() {
        let calls = Calls::new(&Quotas::default());
        let mut held = Vec::new();
        for user in ["a", "b", "c", "d"] {
            let caller = caller(user);
            held.extend((0..SHORT).map(|_| calls.admit(&caller, Kind::Short).unwrap()));
            let said = calls.admit(&caller, Kind::Short).unwrap_err().to_string();
            assert!(said.starts_with("you have reached the limit of 512 calls"), "{said}");
        }
        let said = calls.admit(&caller("e"), Kind::Short).unwrap_err().to_string();
        assert!(said.starts_with("all callers together"), "{said}");
        assert!(calls.admit(&caller("a"), Kind::Waits).is_ok(), "each kind has its own");
        assert!(calls.admit(&caller("root"), Kind::Short).is_ok());
        held.pop();
        assert!(calls.admit(&caller("d"), Kind::Short).is_ok());
    }

    #[test]
    fn a_start_that_is_refused_for_its_bytes_has_taken_no_place() {
        let (calls, caller) = (Calls::new(&Quotas::default()), caller("a"));
        let large = calls.admit(&caller, Kind::Start(START_BYTES)).unwrap();
        for _ in 0..2 * STARTS {
            assert!(calls.admit(&caller, Kind::Start(1)).is_err());
        }
        drop(large);
        assert!(calls.admit(&caller, Kind::Start(1)).is_ok());
    }

    #[test]
    fn an_owner_that_keeps_its_job_busy_does_not_keep_an_admin_from_it() {
        let (calls, id) = (Calls::new(&Quotas::default()), JobId::fresh());
        let change = |name: &str| {
            let caller = caller(name);
            calls.change(calls.admit(&caller, Kind::Short).unwrap(), &caller, id)
        };
        let held: Vec<_> = (0..ON_JOB).map(|_| change("a").unwrap()).collect();
        let said = change("a").unwrap_err().to_string();
        assert!(said.contains("32 calls that change this job"), "{said}");
        assert!(change("root").is_ok());
        drop(held);
        assert!(change("a").is_ok());
    }
}
