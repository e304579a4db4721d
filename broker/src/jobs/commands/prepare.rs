//! What a start and a change of limits have to ask the host first: name services and file systems, which
//! take their time, so never on the threads that serve.

use std::sync::Arc;

use crate::cgroup::limits::{Plan, ResolvedDisks, Unenforceable, resolve};
use crate::jobs::shared::Shared;
use crate::launch::accounts::{self, AccountError, Lease};
use crate::model::account::Account;
use crate::model::identity::Identity;
use crate::model::limits::Limits;
use crate::model::spec::JobSpec;
use crate::sync::Panicked;

/// The account of `run_as`, and its lease where it is one of the pool's.
///
/// # Errors
/// [`AccountError`].
pub(crate) async fn account(
    shared: &Arc<Shared>,
    owner: &Identity,
    run_as: &str,
) -> Result<Result<(Account, Option<Lease>), AccountError>, Panicked> {
    if run_as == "nobody" {
        return Ok(Ok((shared.nobody.clone(), None))); // the usual case need not ask anybody
    }
    let (name, own) = (run_as.to_owned(), Arc::clone(shared));
    let look_up = move || {
        if name == "pool" {
            let lease = own.pool.lease()?;
            return Ok((lease.account(), Some(lease)));
        }
        Ok((accounts::resolve(&name, own.launcher.shim_uid())?, None))
    };
    Ok(shared.threads.lookups.run(owner, &shared.runtime, look_up).await?)
}

/// The disks that these limits speak of, and whether this host can enforce them.
///
/// # Errors
/// [`Unenforceable`].
pub(crate) async fn disks(
    shared: &Arc<Shared>,
    owner: &Identity,
    limits: &Limits,
    spec: &JobSpec,
    account: &Account,
) -> Result<Result<ResolvedDisks, Unenforceable>, Panicked> {
    if !limits.need_a_disk() {
        let disks = ResolvedDisks::default();
        let check = Plan::new(limits, &disks).check(shared.launcher.hierarchy());
        return Ok(check.map(|()| disks));
    }
    let (own, limits) = (Arc::clone(shared), limits.clone());
    let (spec, account) = (spec.abridged(), account.clone());
    let resolve = move || resolve::resolve(own.launcher.hierarchy(), &limits, &spec, &account);
    Ok(shared.threads.lookups.run(owner, &shared.runtime, resolve).await?)
}
