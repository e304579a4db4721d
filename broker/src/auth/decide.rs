//! The decision: (caller with its roles, question) to a verdict with the rule that gave it. Pure: no clock, no file, no
//! job. The broker's calls, CanI and `job-broker policy test` all ask here, and nothing else decides.

use std::path::Path;
use std::sync::Arc;

use job_api::echo::echo;

use crate::auth::action::Verb;
use crate::auth::caller::Caller;
use crate::auth::policy::program::Match;
use crate::auth::policy::{PolicyRole, Rule};
use crate::model::glob::Pattern;
use crate::model::identity::Identity;
use crate::model::isolation::{IsolationRequest, IsolationRules, Mount};
use crate::model::limits::LimitTables;
use crate::model::spec::{Defaults, JobRequest};

/// What a caller wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question<'a> {
    /// Something that is about no job.
    Broker(Verb),
    /// Something to a job of this owner.
    Job(Verb, &'a Identity),
    /// Start a job.
    Start(StartQuestion<'a>),
}

/// A job that a caller wants to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartQuestion<'a> {
    /// As requested. Need not have been checked.
    pub request: &'a JobRequest,
    /// The file that would be executed, symlinks resolved; `None` if that is not known yet: then every program is.
    pub program: Option<&'a Path>,
    /// What the configuration allows, and what it gives to a request that does not say.
    pub defaults: &'a Defaults,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a verdict that is not looked at protects nothing"]
pub(crate) struct Verdict {
    /// Yes or no.
    pub is_allowed: bool,
    /// What gave the verdict: what allows, or what denies explicitly. `None`: no role allows it.
    pub rule: Option<Rule>,
    /// Why not: the role that comes nearest, and what it lacks. Empty for a yes.
    pub reason: String,
}

impl Verdict {
    pub(crate) fn yes(rule: Rule) -> Verdict {
        Verdict { is_allowed: true, rule: Some(rule), reason: String::new() }
    }

    pub(crate) fn no(reason: String) -> Verdict {
        Verdict { is_allowed: false, rule: None, reason }
    }
}

/// Whether the caller may, and why.
pub(crate) fn decide(caller: &Caller, question: &Question<'_>) -> Verdict {
    let verb = question.verb();
    if let Some(role) = caller.roles().iter().find(|role| role.deny.has(verb)) {
        let reason = format!("role {} denies \"{verb}\"", role.name);
        return Verdict { is_allowed: false, rule: Some(role.denies()), reason };
    }
    let mut nearest: Option<Vec<String>> = None;
    for role in caller.roles() {
        match judge(role, caller, question) {
            Ok(rule) => return Verdict::yes(rule),
            Err(lacks) => {
                if nearest.as_ref().is_none_or(|least| lacks.len() < least.len()) {
                    nearest = Some(lacks);
                }
            }
        }
    }
    let nobody = || format!("no role of the policy names {}", caller.identity());
    Verdict::no(nearest.map_or_else(nobody, |lacks| lacks.join("; ")))
}

impl Question<'_> {
    fn verb(&self) -> Verb {
        match self {
            Question::Broker(verb) | Question::Job(verb, _) => *verb,
            Question::Start(_) => Verb::Start,
        }
    }
}

/// What one role says; of a no, all that it lacks.
fn judge(role: &PolicyRole, caller: &Caller, question: &Question<'_>) -> Result<Rule, Vec<String>> {
    let mut lacks = Vec::new();
    let (verb, name) = (question.verb(), &role.name);
    if !role.allow.has(verb) {
        lacks.push(format!("role {name} does not allow \"{verb}\" (it allows {})", role.allow));
    }
    let mut rule = None;
    match question {
        Question::Broker(_) => {}
        Question::Job(_, owner) => {
            if !role.scope.covers(caller.identity(), owner) {
                lacks.push(format!("role {name} does not reach jobs of {owner}"));
            }
        }
        // All else that a start lacks says nothing if the role does not start anything.
        Question::Start(_) if !lacks.is_empty() => {}
        Question::Start(start) => {
            lacks.extend(start_lacks(role, start.request, start.defaults));
            lacks.extend(limit_lacks(role, start.request, start.defaults));
            match start.program.map(|file| program(role, file, &start.request.argv)) {
                Some(Err(lack)) => lacks.push(lack),
                Some(Ok(found)) => rule = Some(found),
                None => {}
            }
        }
    }
    if lacks.is_empty() { Ok(rule.unwrap_or_else(|| role.allows())) } else { Err(lacks) }
}

/// What a role lacks for a start, but for limits and the program.
pub(super) fn start_lacks(
    role: &PolicyRole,
    request: &JobRequest,
    defaults: &Defaults,
) -> Vec<String> {
    let (name, rules) = (&role.name, &role.start);
    let mut lacks = Vec::new();
    if let Err(account) = account(role, &request.run_as, &defaults.run_as) {
        lacks.push(format!("role {name} does not run jobs as {}", echo(&account)));
    }
    // As it is written first: of directories that the role does not allow nobody learns whether they exist.
    lacks.extend(directory(role, &request.working_directory).err());
    let foreign = |variable: &&String| !rules.env.iter().any(|glob| glob.matches(variable));
    if let Some(variable) = request.env.keys().find(foreign) {
        lacks.push(format!("role {name} does not allow the variable {}", echo(variable)));
    }
    let other = |(key, value): &(&String, &String)| {
        request.labels.get(*key).is_some_and(|own| own != *value)
    };
    if let Some((key, value)) = rules.labels.iter().find(other) {
        lacks.push(format!("role {name} sets the label {key} to {}", echo(value)));
    }
    lacks.extend(isolation_lacks(role, request, defaults));
    lacks
}

/// What a role lacks for the isolation of a job. What the operator's lists say of mounts is not the role's.
fn isolation_lacks(role: &PolicyRole, request: &JobRequest, defaults: &Defaults) -> Vec<String> {
    let name = &role.name;
    let weaker = isolation(role, &defaults.isolation).weaknesses(&request.isolation);
    let mut lacks: Vec<_> = weaker
        .into_iter()
        .map(|fault| format!("role {name}: {} {}", fault.field, fault.fault))
        .collect();
    let starts_all = role.start.allow_all_programs();
    let may_mount = |mount: &&Mount| match &role.start.isolation.mounts {
        None => starts_all,
        Some(globs) => {
            let (path, is_in_place) = match mount {
                Mount::Bind { source, target, .. } => (source, source == target),
                Mount::Tmpfs { target, .. } => (target, true),
            };
            (starts_all || is_in_place) && globs.iter().any(|glob| glob.matches(path))
        }
    };
    if let Some(mount) = request.isolation.mounts.iter().find(|mount| !may_mount(mount)) {
        lacks.push(format!("role {name} does not allow the mount at {}", echo(mount.target())));
    }
    lacks.extend(root_lack(role, &request.isolation));
    lacks
}

/// What a role lacks for a root that is not the host's: its programs are files of the host, and in another root their
/// names are other files.
pub(super) fn root_lack(role: &PolicyRole, asked: &IsolationRequest) -> Option<String> {
    let name = &role.name;
    if !asked.has_root() {
        return None;
    }
    if !role.start.allow_all_programs() {
        return Some(format!("role {name} lists programs of the host, and allows no other root"));
    }
    let rules = &role.start.isolation;
    let (globs, what, root) = match asked.image.is_empty() {
        true => (&rules.rootfs, "root", &asked.rootfs),
        false => (&rules.images, "image", &asked.image),
    };
    let is_allowed = globs.as_ref()?.iter().any(|glob| glob.matches(root));
    let lack = || format!("role {name} does not allow the {what} {}", echo(root));
    (!is_allowed).then(lack)
}

/// The globs that say which directories may be the roots of a role's jobs.
pub(super) fn rootfs<'a>(role: &'a PolicyRole, configured: &'a IsolationRules) -> &'a [Pattern] {
    match &role.start.isolation.rootfs {
        _ if !role.start.allow_all_programs() || configured.rootfs.is_empty() => &[],
        Some(own) => own,
        None => &configured.rootfs,
    }
}

/// The rules of the configuration, with what the role says instead.
pub(super) fn isolation(role: &PolicyRole, configured: &IsolationRules) -> IsolationRules {
    let rules = &role.start.isolation;
    IsolationRules {
        default: rules.default.unwrap_or(configured.default),
        minimum: rules.minimum.unwrap_or(configured.minimum),
        ..configured.clone()
    }
}

/// Whether a role allows to start in this directory.
///
/// # Errors
/// What the role lacks, in words for the caller.
pub(super) fn directory(role: &PolicyRole, dir: &str) -> Result<(), String> {
    let is_own = dir.is_empty(); // the job's, which is empty
    let dir = Some(dir.trim_end_matches('/')).filter(|dir| !dir.is_empty()).unwrap_or("/");
    let is_allowed = match role.start.workdirs.as_slice() {
        [] => is_own || dir == "/",
        places => places.iter().any(|place| place.is(dir)),
    };
    let lack = || format!("role {} does not allow the working directory {}", role.name, echo(dir));
    is_allowed.then_some(()).ok_or_else(lack)
}

fn limit_lacks(role: &PolicyRole, request: &JobRequest, defaults: &Defaults) -> Vec<String> {
    let tables = tables(role, &defaults.limits);
    let faults = tables.above(&request.limits.with_defaults(&tables));
    let lack = |fault: &crate::model::limits::Violation| {
        format!("role {}: {} {}", role.name, fault.field, fault.fault)
    };
    faults.iter().map(lack).collect()
}

/// Whether a role allows the verb on jobs of the owner.
pub(super) fn reaches(role: &PolicyRole, caller: &Caller, verb: Verb, owner: &Identity) -> bool {
    role.allow.has(verb) && role.scope.covers(caller.identity(), owner)
}

/// Defaults and ceilings for what is done under this role.
pub(super) fn tables(role: &PolicyRole, configured: &LimitTables) -> LimitTables {
    configured.for_role(&role.name, &role.start.limits)
}

/// The account of a job: as requested, or the role's first.
///
/// # Errors
/// The one that the role does not allow.
pub(super) fn account(
    role: &PolicyRole,
    requested: &str,
    configured: &[String],
) -> Result<String, String> {
    let rules = &role.start.run_as;
    if !requested.is_empty() {
        let is_default = configured.first().is_some_and(|default| default == requested);
        let has_role = rules.iter().any(|glob| glob.matches(requested));
        // A role chooses among the accounts of the configuration; it adds none.
        let allows = configured.iter().any(|own| own == requested)
            && (has_role || (rules.is_empty() && is_default));
        return if allows { Ok(requested.to_owned()) } else { Err(requested.to_owned()) };
    }
    let of_role = rules.iter().find_map(|glob| configured.iter().find(|own| glob.matches(own)));
    let chosen = if rules.is_empty() { configured.first() } else { of_role };
    chosen.cloned().ok_or_else(|| rules.first().map(ToString::to_string).unwrap_or_default())
}

/// Whether a role allows to execute this file with these arguments, `argv[0]` the first, and by which rule. The path is
/// absolute, its symlinks resolved; the arguments are those that the program gets.
///
/// # Errors
/// What the role lacks, in words for the caller.
pub(crate) fn program(role: &PolicyRole, file: &Path, argv: &[String]) -> Result<Rule, String> {
    let mut best = Match::Nothing;
    for program in &role.start.programs {
        match program.judge(file, argv) {
            Match::Whole => {
                let text = Arc::clone(&program.rule);
                return Ok(Rule { role: Arc::clone(&role.name), text });
            }
            found => best = best.max(found),
        }
    }
    let path = file.to_string_lossy();
    Err(match best {
        Match::Nothing => no_program(role, &path),
        _ => format!("role {} does not allow these arguments of {}", role.name, echo(&path)),
    })
}

/// That a role does not allow a program.
pub(super) fn no_program(role: &PolicyRole, program: &str) -> String {
    format!("role {} does not allow the program {}", role.name, echo(program))
}
