//! From a builder to what the launch is told. Refuses by the names of the builder's methods.

use std::collections::BTreeMap;
use std::time::Duration;

use job_launch::accounts;
use job_launch::cgroup::limits::Unenforceable;
use job_launch::model::account::Account;
use job_launch::model::glob::{Pattern, Syntax};
use job_launch::model::isolation::{self, IsolationRequest, IsolationRules, Profile, Share};
use job_launch::model::limits::{LimitKind, LimitTables, Limits, Rlimit};
use job_launch::model::spec::{Defaults, JobRequest, OutputPolicy, SpecError};
use nix::unistd::geteuid;

use crate::builder::{Builder, Isolation, Mount};
use crate::error::{Error, Refusal};

/// The uid of shims on hosts without the account `job-shim`.
const SHIM_UID: &str = "64998";

/// Who runs, and who watches.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) command: Account,
    pub(super) shim: (u32, u32),
}

/// Which accounts this process can use.
///
/// # Errors
/// `Refused`.
pub(super) fn accounts(builder: &Builder) -> Result<Accounts, Error> {
    let refused = |e: accounts::AccountError| Error::refused("user", e.to_string());
    if !geteuid().is_root() {
        let command = accounts::own().map_err(refused)?;
        return Ok(Accounts { shim: (command.uid, command.gid), command });
    }
    let shim = accounts::shim_account("job-shim").or_else(|_| accounts::shim_account(SHIM_UID));
    let shim = shim.map_err(refused)?;
    let name = builder.user.as_deref().unwrap_or("nobody");
    Ok(Accounts { command: accounts::resolve(name, shim.0).map_err(refused)?, shim })
}

/// What is asked for that only root can give, where this process is not root.
pub(super) fn only_for_root(builder: &Builder, own: &Account) -> Vec<Refusal> {
    let Builder { isolation, network, hostname, mounts, user, .. } = builder;
    let others = user.as_ref().is_some_and(|name| *name != own.name);
    let reasons = [
        (
            *isolation != Isolation::Host,
            "isolation",
            "namespaces are made by root; `Isolation::Host` needs none",
        ),
        (*network == Some(false), "network", "a network namespace is made by root"),
        (!hostname.is_empty(), "hostname", "a host name of its own is given by root"),
        (
            !mounts.is_empty(),
            "allow_dir",
            "mounts (allow_dir, read_only_dir, bind, tmpfs) are made by root",
        ),
        (others, "user", "root alone runs commands as somebody else"),
    ];
    let refuse = |(_, field, reason): (bool, &'static str, &str)| {
        let reason = format!("{reason}, and this process is {}", own.name);
        Refusal { field, reason }
    };
    reasons.into_iter().filter(|(is_asked, ..)| *is_asked).map(refuse).collect()
}

/// The rules of whoever embeds: all that the launch allows.
pub(super) fn rules(builder: &Builder) -> IsolationRules {
    let any = vec![Pattern::any(Syntax::Path)];
    let most = |mount: &Mount| match mount {
        Mount::Tmpfs { bytes, .. } => *bytes,
        Mount::Bind { .. } => 0,
    };
    IsolationRules {
        default: Profile::Host,
        minimum: Profile::Host,
        read_only: any.clone(),
        read_write: any,
        rootfs: Vec::new(),
        rootfs_owned: false,
        images: Vec::new(),
        shared: Vec::new(),
        tmp_bytes: builder.mounts.iter().map(most).fold(builder.temporary, u64::max),
        root_bytes: 0,
    }
}

/// What a request is checked against.
pub(super) fn defaults(rules: IsolationRules, account: &Account, grace: Duration) -> Defaults {
    Defaults {
        run_as: vec![account.name.clone()],
        stop_timeout: grace,
        limits: LimitTables::default(),
        labels: BTreeMap::new(),
        isolation: rules,
    }
}

/// A request without its command.
pub(super) fn request(builder: &Builder) -> JobRequest {
    JobRequest {
        env: builder.env.clone(),
        working_directory: builder.directory.clone(),
        stop_timeout: Some(builder.grace),
        output_policy: OutputPolicy::Discard,
        stdin: builder.streams.stdin.is_some(),
        limits: limits(builder),
        isolation: isolation(builder),
        ..JobRequest::default()
    }
}

fn limits(builder: &Builder) -> Limits {
    let mut limits = Limits::default();
    let parts = |time: Duration, per_second: u128| {
        let parts = time.as_nanos() / (1_000_000_000 / per_second);
        u64::try_from(parts).unwrap_or(u64::MAX)
    };
    limits.set(LimitKind::CpuQuota, builder.cpu_percent.map(|percent| percent * 1_000));
    limits.set(LimitKind::CpuWeight, builder.cpu_weight);
    limits.set(LimitKind::CpuTime, builder.cpu_time.map(|time| parts(time, 1_000_000)));
    limits.set(LimitKind::MemoryMax, builder.memory);
    limits.set(LimitKind::PidsMax, builder.processes);
    limits.set(LimitKind::Time, builder.timeout.map(|time| parts(time, 1_000)));
    limits.set(LimitKind::Output, Some(builder.output));
    if let Some(count) = builder.open_files
        && let Ok(rlimit) = Rlimit::parse("nofile")
    {
        limits.rlimits.insert(rlimit, (count, count));
    }
    limits
}

fn isolation(builder: &Builder) -> IsolationRequest {
    let profile = match builder.isolation {
        Isolation::Host => Profile::Host,
        Isolation::Private => Profile::Private,
        Isolation::Strict => Profile::Strict,
    };
    let share = |network| if network { Share::Host } else { Share::Own };
    IsolationRequest {
        profile: Some(profile),
        network: builder.network.map(share),
        tmp_bytes: Some(builder.temporary),
        hostname: builder.hostname.clone(),
        mounts: builder.mounts.iter().map(mount).collect(),
        ..IsolationRequest::default()
    }
}

fn mount(mount: &Mount) -> isolation::Mount {
    match mount.clone() {
        Mount::Bind { source, target, read_only } => {
            isolation::Mount::Bind { source, target, read_only }
        }
        Mount::Tmpfs { target, bytes } => isolation::Mount::Tmpfs { target, bytes: Some(bytes) },
    }
}

/// A request that is none, by the builder's names.
pub(super) fn refused(error: SpecError) -> Error {
    match error {
        SpecError::TooLarge(reason) => Error::refused("run", reason),
        SpecError::Invalid(violations) => {
            let refuse = |v: job_launch::model::limits::Violation| Refusal {
                field: method(v.field),
                reason: v.fault,
            };
            Error::Refused(violations.first.into_iter().map(refuse).collect())
        }
    }
}

/// A limit that this host lacks, by the builder's name.
pub(super) fn unenforceable(error: &Unenforceable) -> Error {
    let field = LimitKind::named(error.limit).map_or(error.limit, |kind| method(kind.field()));
    Error::refused(field, error.to_string())
}

/// The method of the builder that sets a field of the contract.
fn method(field: &'static str) -> &'static str {
    match field {
        "argv" => "run",
        "working_directory" => "workdir",
        "run_as" => "user",
        "time_limit" => "timeout",
        "cpu_time_limit" => "cpu_time",
        "output_limit_bytes" => "output_limit",
        "limits.cpu_max_quota_usec" => "cpu_percent",
        "limits.cpu_weight" => "cpu_weight",
        "limits.memory_max_bytes" | "limits.memory_swap_max_bytes" => "memory",
        "limits.pids_max" => "processes",
        "limits.rlimits" => "open_files",
        "isolation.mounts" => "allow_dir",
        "isolation.tmp_bytes" => "temporary_files",
        "isolation.hostname" => "hostname",
        other => other,
    }
}
