//! The policy, checked: roles, the identities that have them, and what each allows. Nothing here judges a request, and
//! only `load` reads a file.

mod check;
mod file;
mod load;
pub(super) mod place;
pub(super) mod program;
pub(super) mod scope;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::auth::action::Verbs;
use crate::auth::policy::place::Place;
use crate::auth::policy::program::Program;
use crate::auth::policy::scope::Scope;
use crate::model::glob::{Pattern, Syntax};
use crate::model::identity::Identity;
use crate::model::isolation::Profile;
use crate::model::limits::RoleLimits;
use crate::quota::limits::QuotaTable;

#[cfg(any(test, fuzzing))]
pub(super) use load::parse;
pub(crate) use load::{Host, PolicyError, load};

/// The name of the role of `admins` in the configuration.
pub(crate) const ADMIN: &str = "admin";

/// All roles. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policy(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// By name, that of the admins last: where several allow a start, the first is used.
    roles: Vec<Arc<PolicyRole>>,
    /// The roles of identities that are named, as indices.
    named: HashMap<Box<str>, Vec<usize>>,
    globs: Vec<(Pattern, usize)>,
}

/// A role of the policy.
#[derive(Debug)]
pub(crate) struct PolicyRole {
    pub(crate) name: Arc<str>,
    /// The identities that have it.
    pub(super) identities: Vec<Pattern>,
    pub(crate) allow: Verbs,
    /// Wins over what any role allows.
    pub(crate) deny: Verbs,
    /// The jobs on which it allows.
    pub(super) scope: Scope,
    pub(super) start: StartRules,
    /// What each of its identities may take.
    pub(crate) quota: Option<Arc<QuotaTable>>,
    /// The verbs for which the caller must say why.
    pub(crate) reason_required: Verbs,
    /// `role ci, line 4`: where it allows, and where it denies.
    pub(super) allow_rule: Arc<str>,
    pub(super) deny_rule: Arc<str>,
}

/// What a role allows to be started.
#[derive(Debug, Default)]
pub(super) struct StartRules {
    /// Empty: the broker's default account alone.
    pub(super) run_as: Vec<Pattern>,
    /// Empty: `/` and the job's own directory alone.
    pub(super) workdirs: Vec<Place>,
    /// Names of variables.
    pub(super) env: Vec<Pattern>,
    /// Each job gets them.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) limits: RoleLimits,
    pub(super) isolation: RoleIsolation,
    pub(super) programs: Vec<Program>,
}

impl StartRules {
    /// Whether every program is allowed, whatever its arguments.
    pub(super) fn allow_all_programs(&self) -> bool {
        self.programs.iter().any(Program::is_any)
    }
}

/// What a role says of its jobs' isolation.
#[derive(Debug, Default)]
pub(super) struct RoleIsolation {
    pub(super) default: Option<Profile>,
    pub(super) minimum: Option<Profile>,
    /// `None`: all for a role of every program, otherwise none.
    pub(super) mounts: Option<Vec<Pattern>>,
    /// `None`: all for a role of every program; otherwise none, whatever it says.
    pub(super) rootfs: Option<Vec<Pattern>>,
    /// Likewise.
    pub(super) images: Option<Vec<Pattern>>,
}

/// The rule that gave a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The name of its role.
    pub role: Arc<str>,
    /// Which of its clauses, and where it stands.
    pub text: Arc<str>,
}

impl Policy {
    /// The policy without a policy file: everybody controls their own jobs, these identities all jobs.
    pub fn new(admins: impl IntoIterator<Item = Identity>) -> Policy {
        Policy::of(vec![PolicyRole::everybody(), PolicyRole::admins(admins)])
    }

    /// A policy of these roles, whose names differ.
    pub(super) fn of(mut roles: Vec<PolicyRole>) -> Policy {
        roles.sort_by(|a, b| (&*a.name == ADMIN, &a.name).cmp(&(&*b.name == ADMIN, &b.name)));
        let (mut named, mut globs) = (HashMap::<Box<str>, Vec<usize>>::new(), Vec::new());
        for (at, role) in roles.iter().enumerate() {
            for identity in &role.identities {
                match identity.exact() {
                    Some(name) => named.entry(name.into()).or_default().push(at),
                    None => globs.push((identity.clone(), at)),
                }
            }
        }
        Policy(Arc::new(Rules { roles: roles.into_iter().map(Arc::new).collect(), named, globs }))
    }

    /// The roles of an identity, in the order in which they are asked.
    pub(super) fn roles_of(&self, identity: &Identity) -> Vec<Arc<PolicyRole>> {
        let rules = &*self.0;
        let globs = rules.globs.iter().filter(|(glob, _)| glob.matches(identity.as_str()));
        let named = rules.named.get(identity.as_str()).into_iter().flatten().copied();
        let mut all: Vec<usize> = named.chain(globs.map(|(_, at)| *at)).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|at| Arc::clone(&rules.roles[at])).collect()
    }

    /// Whether a role has quotas.
    pub(crate) fn has_quotas(&self) -> bool {
        self.0.roles.iter().any(|role| role.quota.is_some())
    }

    /// How many roles it has.
    pub(crate) fn len(&self) -> usize {
        self.0.roles.len()
    }
}

impl Default for Policy {
    /// Without admins.
    fn default() -> Policy {
        Policy::new([])
    }
}

impl PolicyRole {
    /// The implicit role of everybody where there is no policy file.
    fn everybody() -> PolicyRole {
        let verbs = Verbs::all().without([crate::auth::Verb::Admin].into_iter().collect());
        let rule = "everybody controls their own jobs: there is no policy file";
        PolicyRole { allow: verbs, ..PolicyRole::free("user", vec![any(Syntax::Text)], rule) }
    }

    /// The implicit role of the admins in the configuration.
    pub(super) fn admins(admins: impl IntoIterator<Item = Identity>) -> PolicyRole {
        let exact = |admin: Identity| Pattern::parse(admin.as_str(), Syntax::Text).ok();
        let identities = admins.into_iter().filter_map(exact).collect();
        let role = PolicyRole::free(ADMIN, identities, "admins of the configuration");
        PolicyRole { allow: Verbs::all(), scope: Scope::All, ..role }
    }

    /// Restricts nothing of a start.
    fn free(name: &str, identities: Vec<Pattern>, rule: &str) -> PolicyRole {
        let start = StartRules {
            run_as: vec![any(Syntax::Text)],
            workdirs: vec![Place::any()],
            env: vec![any(Syntax::Text)],
            programs: vec![Program::any(rule)],
            ..StartRules::default()
        };
        PolicyRole {
            name: name.into(),
            identities,
            allow: Verbs::default(),
            deny: Verbs::default(),
            scope: Scope::Own,
            start,
            quota: None,
            reason_required: Verbs::default(),
            allow_rule: rule.into(),
            deny_rule: rule.into(),
        }
    }

    /// As the rule of what it allows.
    pub(super) fn allows(&self) -> Rule {
        Rule { role: Arc::clone(&self.name), text: Arc::clone(&self.allow_rule) }
    }

    /// As the rule of what it denies.
    pub(super) fn denies(&self) -> Rule {
        Rule { role: Arc::clone(&self.name), text: Arc::clone(&self.deny_rule) }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "role {}: {}", self.role, self.text)
    }
}

fn any(syntax: Syntax) -> Pattern {
    Pattern::any(syntax)
}
