//! `job-broker policy test`: asks the policy questions whose answers an operator expects, as the broker would. Starts
//! nothing and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

use crate::auth::{Policy, Question, StartQuestion, Verb, Verdict, decide};
use crate::config::{Config, Table};
use crate::journal;
use crate::model::identity::Identity;
use crate::model::spec::{Defaults, JobRequest};
use crate::service::settings;

/// The file: a table of questions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tests {
    test: Vec<Test>,
}

/// A question and its answer. What is absent is what a caller has not said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    identity: String,
    verb: String,
    /// Whose job; absent: the identity's.
    owner: Option<String>,
    /// The program, as an absolute path with all symlinks resolved, and its arguments.
    #[serde(default)]
    argv: Vec<String>,
    #[serde(default)]
    workdir: String,
    #[serde(default)]
    user: String,
    /// Names.
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    limits: Table,
    expect: Expected,
    /// What the rule must contain.
    rule: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

/// Prints each answer that is not the expected one. 0: all are; 1: some are not, or a file has a fault.
pub(super) fn run(config: &Path, policy: Option<PathBuf>, tests: &Path) -> ExitCode {
    let (failed, all) = match ask_all(config, policy, tests) {
        Ok(counts) => counts,
        Err(fault) => {
            journal::error(fault);
            return ExitCode::FAILURE;
        }
    };
    // The exit status is the answer, even if the output is closed.
    let _ = writeln!(io::stdout(), "{all} questions, {failed} answered otherwise");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ask_all(config: &Path, policy: Option<PathBuf>, tests: &Path) -> Result<(usize, usize), String> {
    let config = Config::load(config).map_err(|e| e.to_string())?;
    let file = policy.as_deref().or(config.policy.as_deref());
    let policy = settings::policy_of(&config, file).map_err(|e| e.to_string())?;
    let limits = config.limits.tables().map_err(|(key, fault)| format!("{key} {fault}"))?;
    let isolation = config.isolation.rules().map_err(|(key, fault)| format!("{key} {fault}"))?;
    let defaults = Defaults {
        run_as: config.jobs.run_as.clone(),
        stop_timeout: config.jobs.stop_timeout(),
        limits,
        labels: BTreeMap::new(),
        isolation,
    };
    let shown = tests.display();
    let text = fs::read_to_string(tests).map_err(|e| format!("cannot read {shown}: {e}"))?;
    let tests: Tests = toml::from_str(&text).map_err(|e| format!("{shown}: {e}"))?;
    let mut failed = 0;
    for (at, test) in tests.test.iter().enumerate() {
        let number = at + 1;
        let verdict = ask(&policy, &defaults, test)
            .map_err(|fault| format!("{shown}, test {number}: {fault}"))?;
        if let Some(difference) = difference(test, &verdict) {
            failed += 1;
            let Test { identity, verb, .. } = test;
            journal::error(format!("test {number} ({identity}: {verb}): {difference}"));
        }
    }
    Ok((failed, tests.test.len()))
}

fn ask(policy: &Policy, defaults: &Defaults, test: &Test) -> Result<Verdict, String> {
    let identity = Identity::new(&test.identity)?;
    let caller = policy.caller(identity.clone());
    let verb: Verb = test.verb.parse()?;
    if verb == Verb::Start {
        let request = request(test)?;
        let program = request.argv.first().map(Path::new);
        return Ok(decide(
            &caller,
            &Question::Start(StartQuestion { request: &request, program, defaults }),
        ));
    }
    if !verb.is_of_a_job() {
        return Ok(decide(&caller, &Question::Broker(verb)));
    }
    let owner = test.owner.as_deref().map(Identity::new).transpose()?.unwrap_or(identity);
    Ok(decide(&caller, &Question::Job(verb, &owner)))
}

fn request(test: &Test) -> Result<JobRequest, String> {
    if !test.argv.first().is_some_and(|program| program.starts_with('/')) {
        return Err("argv must begin with the absolute path of a program".into());
    }
    let limits = test.limits.limits("limits").map_err(|(key, fault)| format!("{key}: {fault}"))?;
    Ok(JobRequest {
        argv: test.argv.clone(),
        env: test.env.iter().map(|name| (name.clone(), String::new())).collect(),
        working_directory: test.workdir.clone(),
        run_as: test.user.clone(),
        labels: test.labels.clone(),
        limits,
        ..JobRequest::default()
    })
}

/// What is not as expected.
fn difference(test: &Test, verdict: &Verdict) -> Option<String> {
    let given = if verdict.is_allowed { Expected::Allow } else { Expected::Deny };
    let rule = verdict.rule.as_ref().map(ToString::to_string).unwrap_or_default();
    if given != test.expect {
        return Some(match given {
            Expected::Allow => format!("is allowed by {rule}"),
            Expected::Deny => format!("is denied: {}", verdict.reason),
        });
    }
    let wanted = test.rule.as_ref().filter(|wanted| !rule.contains(*wanted))?;
    Some(format!("the rule is {rule:?}, and does not contain {wanted:?}"))
}
