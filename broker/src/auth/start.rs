//! A start that the policy allows, but for its program: the file is known only when it has been opened as the job's user.
//! One role must allow all of a start. Opens nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use job_api::echo::echo;
use job_images::Image;

use crate::auth::authorize::{Authorized, Denied};
use crate::auth::caller::Caller;
use crate::auth::decide::{self, Question, StartQuestion, decide};
use crate::auth::policy::place::Place;
use crate::auth::policy::{PolicyRole, Rule};
use crate::auth::{Start, Verb};
use crate::model::identity::Identity;
use crate::model::isolation::{IsolationRequest, IsolationRules};
use crate::model::limits::{LimitTables, Limits};
use crate::model::spec::{Defaults, JobRequest, JobSpec, SpecError};

/// What to start, and the roles that allow it but for the program; the first of them has filled in the spec.
#[derive(Debug, Clone)]
pub struct StartPlan {
    spec: JobSpec,
    role: Arc<PolicyRole>,
    /// The roles that may take its place, with what they give to a request that does not say.
    others: Vec<(Arc<PolicyRole>, Defaults)>,
    /// As requested.
    limits: Limits,
    labels: BTreeMap<String, String>,
}

/// Why a request is no start.
#[derive(Debug)]
pub enum StartRefusal {
    /// It breaks a rule that holds for everybody, or is above a ceiling.
    Invalid(SpecError),
    /// The policy.
    Denied(Denied),
}

impl Caller {
    /// Checks a request, and fills in the defaults of the configuration and of the first role that allows it.
    ///
    /// # Errors
    /// [`StartRefusal`].
    pub fn may_start(
        &self,
        request: JobRequest,
        defaults: &Defaults,
    ) -> Result<Authorized<Start, StartPlan>, StartRefusal> {
        let mut able = self.able(&request, defaults).into_iter();
        let Some((role, own)) = able.next() else {
            let question = StartQuestion { request: &request, program: None, defaults };
            let verdict = decide(self, &Question::Start(question));
            // What is wrong for everybody is said first, as without a policy.
            JobSpec::check(request, defaults).map_err(StartRefusal::Invalid)?;
            return Err(StartRefusal::Denied(Denied::of_start(self, verdict)));
        };
        let (limits, labels) = (request.limits.clone(), request.labels.clone());
        let spec = JobSpec::check(request, &own).map_err(StartRefusal::Invalid)?;
        let others = able.collect();
        let plan = StartPlan { spec, role, others, limits, labels };
        Authorized::of_start(self, plan).map_err(StartRefusal::Denied)
    }

    /// Whether a role lets this caller start jobs with this image as their root.
    pub(crate) fn may_use_image(&self, name: &str) -> bool {
        let asked = IsolationRequest { image: name.into(), ..IsolationRequest::default() };
        self.starting_roles().any(|role| decide::root_lack(role, &asked).is_none())
    }

    /// The directories that may be the roots of this caller's jobs, as globs. What a role lists must be of the operator's
    /// list, too.
    pub(crate) fn rootfs(&self, configured: &IsolationRules) -> Vec<String> {
        let globs = self.starting_roles().flat_map(|role| decide::rootfs(role, configured));
        let globs: BTreeSet<_> = globs.map(ToString::to_string).collect();
        globs.into_iter().collect()
    }

    fn starting_roles(&self) -> impl Iterator<Item = &Arc<PolicyRole>> {
        let roles = if self.has(Verb::Start) { self.roles() } else { &[] };
        roles.iter().filter(|role| role.allow.has(Verb::Start))
    }

    /// The ceilings of the roles that allow this verb on jobs of the owner: one of them must be kept.
    pub(crate) fn tables(
        &self,
        verb: Verb,
        owner: &Identity,
        configured: &LimitTables,
    ) -> Vec<LimitTables> {
        let able = self.roles().iter().filter(|role| decide::reaches(role, self, verb, owner));
        able.map(|role| decide::tables(role, configured)).collect()
    }

    /// The roles that allow the start but for the program, with their defaults; if the limits are above the ceilings of
    /// all of them, the first one nevertheless, since its ceilings are what the caller should be told.
    fn able(&self, request: &JobRequest, defaults: &Defaults) -> Vec<(Arc<PolicyRole>, Defaults)> {
        let mut able = Vec::new();
        let mut above = None;
        for role in self.starting_roles() {
            if !decide::start_lacks(role, request, defaults).is_empty() {
                continue;
            }
            let own = of_role(role, &request.run_as, defaults);
            if own.limits.above(&request.limits.with_defaults(&own.limits)).is_empty() {
                able.push((Arc::clone(role), own));
            } else if above.is_none() {
                above = Some((Arc::clone(role), own));
            }
        }
        if able.is_empty() { above.into_iter().collect() } else { able }
    }
}

/// What a role gives to a request that does not say.
fn of_role(role: &PolicyRole, run_as: &str, defaults: &Defaults) -> Defaults {
    Defaults {
        run_as: decide::account(role, run_as, &defaults.run_as).into_iter().collect(),
        stop_timeout: defaults.stop_timeout,
        limits: decide::tables(role, &defaults.limits),
        labels: role.start.labels.clone(),
        isolation: decide::isolation(role, &defaults.isolation),
    }
}

impl StartPlan {
    /// The job.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The job.
    pub(crate) fn into_spec(self) -> JobSpec {
        self.spec
    }

    /// Whether the role of this plan allows some programs only: then the file has to be known, and no other is executed.
    pub(crate) fn lists_programs(&self) -> bool {
        !self.role.start.allow_all_programs()
    }

    /// Whether the role of this plan allows to execute this file, an absolute path whose symlinks are resolved, with these
    /// arguments; `argv[0]` is the first of them. Gives the rule for the job's record.
    ///
    /// # Errors
    /// Why not, in words for the caller. [`StartPlan::next`] may have another role.
    pub(crate) fn may_execute(&self, file: &Path, argv: &[String]) -> Result<Rule, String> {
        decide::program(&self.role, file, argv)
    }

    /// Whether the role of this plan names this path, absolute, as that of a program.
    pub(crate) fn names_program(&self, path: &str) -> bool {
        self.role.start.programs.iter().any(|program| program.path.is(path))
    }

    /// That the role of this plan does not allow a program: all that is said of one that it does not name, whether or not
    /// there is such a file, and whatever it leads to.
    pub(crate) fn no_program(&self, name: &str) -> String {
        decide::no_program(&self.role, name)
    }

    /// Whether the directory of the job must be known without symbolic links: where the role restricts it, and where a
    /// program is checked, which is then started in no other. In a root of its own it is not the host's: there its name
    /// alone is judged.
    pub(crate) fn resolves_directory(&self) -> bool {
        let is_any = |place: &Place| place.is_any();
        let is_free = self.role.start.workdirs.iter().any(is_any);
        !matches!(self.spec.working_directory.as_str(), "" | "/")
            && !self.spec.isolation.has_root()
            && (!is_free || self.lists_programs())
    }

    /// Whether the role of this plan allows the directory, whose symbolic links are resolved.
    ///
    /// # Errors
    /// Why not, in words for the caller.
    pub(crate) fn may_enter(&self, directory: &str) -> Result<(), String> {
        decide::directory(&self.role, directory)
    }

    /// The directory without symbolic links takes the place of the one that was requested.
    pub(crate) fn enter(&mut self, directory: String) {
        self.spec.working_directory = directory;
    }

    /// Fills in what an image says and the request does not. Called again, it takes the same image only.
    ///
    /// # Errors
    /// It is another image; or nobody says which program is run.
    pub(crate) fn use_image(&mut self, image: &Image) -> Result<(), String> {
        let Image { name, digest, config, .. } = image;
        let asked = &mut self.spec.isolation.image_digest;
        if !asked.is_empty() && asked != digest {
            return Err(format!("the image {name} is {digest}, not {}", echo(asked)));
        }
        asked.clone_from(digest);
        if self.spec.argv.is_empty() {
            self.spec.argv.clone_from(&config.argv);
        }
        if self.spec.argv.first().is_none_or(String::is_empty) {
            return Err(format!("the image {name} does not say which program to run: name one"));
        }
        if self.spec.working_directory.is_empty() {
            self.spec.working_directory.clone_from(&config.working_directory);
        }
        for (variable, value) in config.variables() {
            self.spec.env.entry(variable.to_owned()).or_insert_with(|| value.to_owned());
        }
        Ok(())
    }

    /// Goes on with the next role that allows the start but for the program; false if there is none.
    pub(crate) fn next(&mut self) -> bool {
        if self.others.is_empty() {
            return false;
        }
        let (role, own) = self.others.remove(0);
        self.spec.run_as = own.run_as.into_iter().next().unwrap_or_default();
        self.spec.limits = self.limits.with_defaults(&own.limits);
        self.spec.by_default = self.spec.limits.not_in(&self.limits);
        self.spec.labels = self.labels.clone();
        self.spec.labels.extend(own.labels);
        self.role = role;
        true
    }
}
