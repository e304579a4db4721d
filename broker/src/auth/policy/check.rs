//! Checks a policy file and makes a policy of it. All of it is checked before any of it holds; nothing here reads a file.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use job_api::echo::echo;
use job_api::names::check_name;
use toml::Spanned;

use crate::auth::action::{Verb, Verbs};
use crate::auth::policy::file::{self, Arg, PolicyFile};
use crate::auth::policy::place::Place;
use crate::auth::policy::program::{Args, Program};
use crate::auth::policy::scope::Scope;
use crate::auth::policy::{ADMIN, Policy, PolicyRole, RoleIsolation, StartRules};
use crate::config::{QuotaTable, Table};
use crate::model::glob::{MAX_PATTERN, Pattern, Syntax};
use crate::model::identity::Identity;
use crate::model::limits::{LimitTables, Limits, RoleLimits};

/// Maximum number of roles.
const MAX_ROLES: usize = 256;
/// Maximum number of patterns in the file.
const MAX_PATTERNS: usize = 4096;
/// Maximum number of labels that one role forces on jobs.
const MAX_LABELS: usize = 16;

/// What a policy is checked against.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    /// `admins` of the configuration.
    pub admins: Vec<Identity>,
    /// The `<trust-domain>` of identities.
    pub trust_domain: &'a str,
    /// `jobs.run_as`.
    pub run_as: &'a [String],
    /// What a path names, symlinks resolved.
    pub resolve: fn(&str) -> Option<String>,
}

/// A fault of the file: where, and what.
pub(super) struct Fault {
    pub(super) at: Range<usize>,
    pub(super) what: String,
}

/// Makes a policy of the file's text.
///
/// # Errors
/// The first fault.
pub(super) fn check(text: &str, file: PolicyFile, host: &Host<'_>) -> Result<Policy, Fault> {
    let start_of_file = |what| Fault { at: 0..0, what };
    if file.role.len() > MAX_ROLES {
        let count = file.role.len();
        return Err(start_of_file(format!("has {count} roles; at most {MAX_ROLES} are allowed")));
    }
    let count: usize = file.role.iter().map(patterns).sum();
    if count > MAX_PATTERNS {
        let what = format!("has {count} patterns; at most {MAX_PATTERNS} are allowed");
        return Err(start_of_file(what));
    }
    let mut identities = HashMap::new();
    for role in &file.role {
        let at = role.name.span();
        let own = name(role, host).map_err(|what| Fault { at: at.clone(), what })?;
        if identities.insert(role.name.get_ref().clone(), own).is_some() {
            let what = format!("there are two roles {}", echo(role.name.get_ref()));
            return Err(Fault { at, what });
        }
    }
    let checker = Checker { text, host, identities };
    let roles: Result<Vec<_>, _> = file.role.iter().map(|role| checker.role(role)).collect();
    let mut roles = roles?;
    roles.push(PolicyRole::admins(host.admins.iter().cloned()));
    Ok(Policy::of(roles))
}

fn patterns(role: &file::Role) -> usize {
    let programs = role.program.iter().map(|program| 1 + program.args.len()).sum::<usize>();
    let scope = match &role.scope {
        Some(file::Scope::Owners(owners)) => owners.owners.len() + owners.roles.len(),
        _ => 0,
    };
    let file::RoleIsolation { mounts, rootfs, images, .. } = &role.isolation;
    let lists = [&role.run_as, &role.workdirs, mounts, rootfs, images];
    let lists = lists.into_iter().flatten().map(Vec::len).sum::<usize>();
    role.identities.len() + role.env.len() + lists + scope + programs
}

/// Checks the name of a role, and makes patterns of its identities.
fn name(role: &file::Role, host: &Host<'_>) -> Result<Vec<Pattern>, String> {
    let name = role.name.get_ref();
    check_name(name).map_err(|fault| format!("role {} {fault}", echo(name)))?;
    if name == ADMIN {
        return Err(
            "the role \"admin\" is that of \"admins\" in the configuration; give this one \
                    another name"
                .into(),
        );
    }
    let identity = |given: &String| {
        let own = match given.strip_prefix("job://") {
            None => given.as_str(),
            Some(uri) => uri
                .strip_prefix(host.trust_domain)
                .and_then(|r| r.strip_prefix('/'))
                .ok_or_else(|| {
                    format!(
                        "is of another trust domain than {:?} (tls.trust_domain)",
                        host.trust_domain
                    )
                })?,
        };
        if own.is_empty() {
            return Err("is empty".into());
        }
        Pattern::parse(own, Syntax::Text)
    };
    list("identities", &role.identities, identity).map_err(|fault| format!("role {name}: {fault}"))
}

fn isolation(given: &file::RoleIsolation) -> Result<RoleIsolation, String> {
    let path = |text: &String| Pattern::parse(text, Syntax::Path);
    let mounts = given.mounts.as_ref().map(|globs| list("isolation.mounts", globs, path));
    let rootfs = given.rootfs.as_ref().map(|globs| list("isolation.rootfs", globs, path));
    let file::RoleIsolation { default, minimum, .. } = *given;
    let name = |text: &String| Pattern::parse(text, Syntax::Text);
    let images = given.images.as_ref().map(|globs| list("isolation.images", globs, name));
    let (mounts, rootfs) = (mounts.transpose()?, rootfs.transpose()?);
    Ok(RoleIsolation { default, minimum, mounts, rootfs, images: images.transpose()? })
}

fn list<T>(
    key: &str,
    given: &[String],
    parse: impl Fn(&String) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let one = |text| parse(text).map_err(|fault| format!("{key}: {} {fault}", echo(text)));
    given.iter().map(one).collect()
}

struct Checker<'a> {
    text: &'a str,
    host: &'a Host<'a>,
    /// Of all roles, by name.
    identities: HashMap<String, Vec<Pattern>>,
}

impl Checker<'_> {
    fn role(&self, role: &file::Role) -> Result<PolicyRole, Fault> {
        let name = role.name.get_ref();
        let within = |at: Range<usize>| {
            move |what: String| Fault { at, what: format!("role {name}: {what}") }
        };
        let of_role = |what: String| within(role.name.span())(what);
        let (allow, allow_at) = verbs("allow", role.allow.as_ref(), &role.name)
            .map_err(|(at, what)| within(at)(what))?;
        let (deny, deny_at) =
            verbs("deny", role.deny.as_ref(), &role.name).map_err(|(at, what)| within(at)(what))?;
        let reason: Result<Verbs, String> =
            role.reason_required.iter().map(|verb| verb.parse::<Verb>()).collect();
        let start = self.start(role).map_err(of_role)?;
        let quota = role.quota.as_ref().map(QuotaTable::table).transpose();
        let quota = quota.map_err(|fault| of_role(format!("quota: {fault}")))?;
        let programs: Result<Vec<_>, _> = role
            .program
            .iter()
            .map(|program| self.program(program).map_err(within(program.path.span())))
            .collect();
        let start = StartRules { programs: programs?, ..start };
        let has_start_rules = !role.program.is_empty();
        if allow.has(Verb::Start) && !has_start_rules {
            return Err(within(allow_at)(
                "allows \"start\", and no [[role.program]] says what".into(),
            ));
        }
        Ok(PolicyRole {
            name: name.as_str().into(),
            identities: self.identities.get(name).cloned().unwrap_or_default(),
            allow,
            deny,
            scope: self.scope(role.scope.as_ref()).map_err(of_role)?,
            start,
            quota: quota.map(Arc::new),
            reason_required: reason
                .map_err(|fault| of_role(format!("reason_required: {fault}")))?,
            allow_rule: self.rule("allow", allow_at.start),
            deny_rule: self.rule("deny", deny_at.start),
        })
    }

    fn start(&self, role: &file::Role) -> Result<StartRules, String> {
        let run_as = list("run_as", role.run_as.as_deref().unwrap_or_default(), |account| {
            let pattern = Pattern::parse(account, Syntax::Text)?;
            let known = self.host.run_as.iter().any(|own| pattern.matches(own));
            let allowed = || format!("is not in jobs.run_as ({})", self.host.run_as.join(", "));
            known.then_some(pattern).ok_or_else(allowed)
        })?;
        let path = |text: &String| Place::parse(text, self.host.resolve);
        let text = |text: &String| Pattern::parse(text, Syntax::Text);
        Ok(StartRules {
            run_as,
            workdirs: list("workdirs", role.workdirs.as_deref().unwrap_or_default(), path)?,
            env: list("env", &role.env, text)?,
            labels: labels(&role.labels)?,
            limits: limits(&role.limits)?,
            isolation: isolation(&role.isolation)?,
            programs: Vec::new(),
        })
    }

    fn program(&self, program: &file::Program) -> Result<Program, String> {
        let given = program.path.get_ref();
        let path = Place::parse(given, self.host.resolve)
            .map_err(|fault| format!("program: path {} {fault}", echo(given)))?;
        let args =
            args(&program.args).map_err(|fault| format!("program {given}: args: {fault}"))?;
        let line = line(self.text, program.path.span().start);
        let mut checked = Program { path, args, rule: "".into() };
        checked.rule = format!("program {checked} (line {line})").into();
        Ok(checked)
    }

    fn scope(&self, scope: Option<&file::Scope>) -> Result<Scope, String> {
        match scope {
            None => Ok(Scope::Own),
            Some(file::Scope::Word(word)) => match word.as_str() {
                "own" => Ok(Scope::Own),
                "all" => Ok(Scope::All),
                word => Err(format!("scope: {} is neither \"own\" nor \"all\"", echo(word))),
            },
            Some(file::Scope::Owners(given)) => {
                let text = |text: &String| Pattern::parse(text, Syntax::Text);
                let mut owners = list("scope.owners", &given.owners, text)?;
                for role in &given.roles {
                    let of_role = self.identities.get(role);
                    let fault = || format!("scope.roles: there is no role {}", echo(role));
                    owners.extend(of_role.ok_or_else(fault)?.iter().cloned());
                }
                Ok(Scope::Owners { own: given.own, owners })
            }
        }
    }

    fn rule(&self, key: &str, at: usize) -> Arc<str> {
        format!("{key} (line {})", line(self.text, at)).into()
    }
}

/// The line of an offset, from 1.
pub(super) fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

type Spot = Range<usize>;

/// The verbs of a key, and where it stands: in its absence where the role does.
fn verbs(
    key: &str,
    given: Option<&Spanned<Vec<String>>>,
    role: &Spanned<String>,
) -> Result<(Verbs, Spot), (Spot, String)> {
    let Some(given) = given else { return Ok((Verbs::default(), role.span())) };
    let verbs: Result<Verbs, String> =
        given.get_ref().iter().map(|verb| verb.parse::<Verb>()).collect();
    match verbs {
        Ok(verbs) => Ok((verbs, given.span())),
        Err(fault) => Err((given.span(), format!("{key}: {fault}"))),
    }
}

fn labels(given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if given.len() > MAX_LABELS {
        return Err(format!("labels: are {}; at most {MAX_LABELS} are allowed", given.len()));
    }
    for (key, value) in given {
        check_name(key).map_err(|fault| format!("labels: key {} {fault}", echo(key)))?;
        if value.len() > MAX_PATTERN {
            return Err(format!("labels: value of {key} is longer than {MAX_PATTERN} bytes"));
        }
    }
    Ok(given.clone())
}

fn limits(given: &file::RoleLimits) -> Result<RoleLimits, String> {
    let table = |key, table: &Table| -> Result<Limits, String> {
        table.limits(key).map_err(|(key, fault)| format!("{key}: {fault}"))
    };
    let default = table("limits.default", &given.default)?;
    let max = table("limits.max", &given.max)?;
    let tables = LimitTables { max: max.clone(), ..LimitTables::default() };
    match tables.above(&default).first() {
        Some(fault) => {
            let fault = fault.fault.replace("[limits.max]", "limits.max of the role");
            Err(format!("limits.default: {fault}"))
        }
        None => Ok(RoleLimits { default, max }),
    }
}

fn args(given: &[Arg]) -> Result<Args, String> {
    let mut args = Args::default();
    for (at, arg) in given.iter().enumerate() {
        let rest = match arg {
            Arg::One(text) if text != "..." => {
                args.first.push(Pattern::parse(text, Syntax::Text)?);
                continue;
            }
            Arg::One(_) => "*",
            Arg::Rest(rest) => rest.rest.as_str(),
        };
        if at + 1 != given.len() {
            return Err("what stands for all further arguments must be the last".into());
        }
        args.rest = Some(Pattern::parse(rest, Syntax::Text)?);
    }
    Ok(args)
}
