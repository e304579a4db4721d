//! The policy file as types. Every key is checked by `check`; an unknown key must be an error, since a misspelt
//! restriction would not restrict.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{QuotaTable, Table};
use crate::model::isolation::Profile;

/// `/etc/job-broker/policy.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyFile {
    /// The roles. Who has none may do nothing.
    ///
    /// Default: `[]`
    #[serde(default)]
    pub role: Vec<Role>,
}

/// A role. Its order among the others does not matter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    /// Its name, which verdicts and jobs show. `admin` is that of `admins` in the configuration.
    pub name: Spanned<String>,
    /// Who has it: names of identities, as `jobctl auth whoami` shows them, `job://<trust-domain>/<name>`, or globs.
    pub identities: Vec<String>,
    /// The verbs that it allows: `start`, `view`, `logs`, `input`, `stop`, `signal`, `update`, `pause`, `delete`,
    /// `attach`, `exec`, `admin`. The verbs of all roles of an identity add up.
    ///
    /// Default: `[]`
    pub allow: Option<Spanned<Vec<String>>>,
    /// The verbs that nobody with this role may use, on no job, whatever another role allows.
    ///
    /// Default: `[]`
    pub deny: Option<Spanned<Vec<String>>>,
    /// Whose jobs its verbs reach: `"own"`, `"all"`, or a table of owners.
    ///
    /// Default: `"own"`
    pub scope: Option<Scope>,
    /// Accounts of the jobs that it starts, the default first; each must be in `jobs.run_as`. `["*"]`: all of those.
    /// Not set: the first of `jobs.run_as`.
    pub run_as: Option<Vec<String>>,
    /// Working directories of the jobs that it starts, as globs. A request must name one of them, and it must still be
    /// one with all symlinks resolved. One path (no glob) may be a symlink: then it is also the directory that it leads
    /// to when the policy is read. Not set: `/` and the job's own directory.
    pub workdirs: Option<Vec<String>>,
    /// Names of environment variables that it may set, as globs.
    ///
    /// Default: `[]`
    #[serde(default)]
    pub env: Vec<String>,
    /// Labels of every job that it starts. A start that gives one of them another value is refused.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Limits of the jobs that it starts or updates.
    #[serde(default)]
    pub limits: RoleLimits,
    /// What the jobs that it starts see of the host.
    #[serde(default)]
    pub isolation: RoleIsolation,
    /// What each identity with this role may take, as `[quotas.default]`. Of several roles the most generous counts,
    /// before `[quotas.default]`; an identity's own table in the configuration counts before all of them.
    pub quota: Option<QuotaTable>,
    /// What it may start. Without any it starts nothing.
    #[serde(default)]
    pub program: Vec<Program>,
    /// The verbs for which a caller must give a reason (`jobctl --reason`).
    ///
    /// Default: `[]`
    #[serde(default)]
    pub reason_required: Vec<String>,
}

/// `"own"`, `"all"`, or owners.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Scope {
    /// `"own"` or `"all"`.
    Word(String),
    /// By name.
    Owners(Owners),
}

/// The owners whose jobs a role reaches.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(crate) struct Owners {
    /// The caller's own jobs, too.
    ///
    /// Default: `false`
    pub own: bool,
    /// Owners, as globs.
    ///
    /// Default: `[]`
    pub owners: Vec<String>,
    /// The owners that have one of these roles.
    ///
    /// Default: `[]`
    pub roles: Vec<String>,
}

/// Limits of a role: the keys of `[limits.default]` and `[limits.max]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RoleLimits {
    /// The limits of a job whose request does not set them, before `[limits.default]`.
    pub default: Table,
    /// The maximum that a request may set. Of this and `[limits.max]` the tighter one binds.
    pub max: Table,
}

/// What the jobs of a role see of the host.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RoleIsolation {
    /// The profile of a job that does not say, in place of `isolation.default`: `host`, `private`, or `strict`.
    pub default: Option<Profile>,
    /// The weakest profile that a job may ask for, in place of `isolation.minimum`.
    pub minimum: Option<Profile>,
    /// Globs of the paths that its jobs may mount, as they are written, and of the directories in memory; the operator's
    /// lists hold besides. Not set: all, if the role may start every program; otherwise none. A role that lists programs
    /// mounts a path only where it is: nothing takes the place of what a listed program loads.
    pub mounts: Option<Vec<String>>,
    /// Globs of the directories that may be the roots of its jobs, as they are written; the operator's list holds besides.
    /// Not set: all. A role that lists programs has none, since it lists programs of the host.
    pub rootfs: Option<Vec<String>>,
    /// Globs of the images that its jobs may use; the operator's list holds besides. Not set: all. A role that lists
    /// programs uses none.
    pub images: Option<Vec<String>>,
}

/// A program that a role may start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// The file, as a glob over its path with all symlinks resolved. `*` stops at a slash, `**` does not. One path
    /// (no glob) may be a symlink: then it is also the file that it leads to when the policy is read.
    pub path: Spanned<String>,
    /// Its arguments, matched one by one as globs. `"..."` as the last one is any further arguments; `{ rest =
    /// "GLOB" }` is any number that match.
    ///
    /// Default: `[]`
    #[serde(default)]
    pub args: Vec<Arg>,
}

/// One argument, or all others.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Arg {
    /// A glob, or `...`.
    One(String),
    /// All others.
    Rest(Rest),
}

/// All arguments that are left.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rest {
    /// A glob that each of them matches.
    pub rest: String,
}
