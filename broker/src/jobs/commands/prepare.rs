//! Resolves accounts, directories and disks before a start or a change of limits. Changes nothing. Name services and
//! file systems may hang, so every look-up runs on a blocking thread.

use std::io;
use std::sync::Arc;

use crate::jobs::shared::Shared;
use crate::model::account::Account;
use crate::model::identity::Identity;
use crate::model::isolation::Seccomp;
use crate::model::limits::{LimitKind, Limits, MAX};
use crate::model::spec::JobSpec;
use crate::sync::Panicked;
use job_launch::accounts::{self, AccountError, Lease};
use job_launch::cgroup::limits::{Plan, ResolvedDisks, Unenforceable, resolve};
use job_launch::directory;

/// Resolves `run_as` to an account, with a lease if the account is from the pool.
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

/// Resolves the symbolic links of a working directory, as the job's user.
///
/// # Errors
/// As chdir(2).
pub(crate) async fn directory(
    shared: &Arc<Shared>,
    owner: &Identity,
    requested: &str,
    account: &Account,
) -> Result<io::Result<String>, Panicked> {
    let (requested, account) = (requested.to_owned(), account.clone());
    let resolve = move || directory::resolve(&requested, &account);
    Ok(shared.threads.lookups.run(owner, &shared.runtime, resolve).await?)
}

/// Whether the size of the job's own directories can be limited as asked.
fn job_dirs(shared: &Shared, limits: &Limits, spec: &JobSpec) -> Result<(), Unenforceable> {
    let limit = if spec.isolation.root_disk_bytes > 0 {
        "isolation.root_disk_bytes"
    } else if limits.get(LimitKind::JobDir).is_some_and(|bytes| bytes != MAX) {
        "job_dir"
    } else {
        return Ok(());
    };
    let fault = |controller, reason| Unenforceable { limit, controller, reason };
    if let Some(reason) = shared.launcher.job_dirs().unlimited() {
        return Err(fault("project quotas", reason));
    }
    if spec.isolation.seccomp == Seccomp::None || spec.isolation.seccomp_log {
        let reason = "an owner of files may take them out of their project, unless a filter of system calls (seccomp) \
                      refuses that; the job has none";
        return Err(fault("seccomp", reason.into()));
    }
    Ok(())
}

/// Resolves the disks that these limits name, and checks that this host can enforce the limits.
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
    if let Err(e) = job_dirs(shared, limits, spec) {
        return Ok(Err(e));
    }
    if !limits.need_a_disk() {
        let disks = ResolvedDisks::default();
        let check = Plan::new(limits, &disks).check(shared.launcher.hierarchy());
        return Ok(check.map(|()| disks));
    }
    let (own, limits) = (Arc::clone(shared), limits.clone());
    let (spec, account) = (spec.abridged(), account.clone());
    let resolve = move || {
        let (work_dir, rules) = (own.config.work_dir(), own.isolation());
        let hierarchy = own.launcher.hierarchy();
        resolve::resolve(hierarchy, &limits, &spec, &account, &work_dir, &rules.shared)
    };
    Ok(shared.threads.lookups.run(owner, &shared.runtime, resolve).await?)
}
