//! Fuzz targets: the policy file and its patterns.

use std::path::Path;
use std::time::Duration;

use crate::auth::action::Verb;
use crate::auth::decide::{Question, StartQuestion, decide};
use crate::auth::policy::{Host, Policy, parse};
use crate::model::glob::{Pattern, Syntax};
use crate::model::identity::Identity;
use crate::model::limits::LimitTables;
use crate::model::spec::{Defaults, JobRequest};

/// Names of identities that are asked for, and of owners.
const NAMES: [&str; 3] = ["ann", "ci-7", "root"];

/// What denies everything to everybody.
const DENY: &str = "\n[[role]]\nname = \"fuzz-deny\"\nidentities = [\"*\"]\ndeny = [";

/// A policy file. What a fault of it says is bounded; with one more role that denies everything, nothing is allowed.
pub fn policy(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Some(policy) = read(&text) else { return };
    let verdicts = verdicts(&policy);
    let verbs: Vec<String> = Verb::ALL.iter().map(|verb| format!("\"{verb}\"")).collect();
    if let Some(denying) = read(&format!("{text}{DENY}{}]\n", verbs.join(", "))) {
        assert!(self::verdicts(&denying).iter().all(|allowed| !allowed), "a denial is overruled");
    }
    if let Some(again) = read(&text) {
        assert_eq!(self::verdicts(&again), verdicts);
    }
}

fn read(text: &str) -> Option<Policy> {
    let run_as = ["nobody", "pool"].map(str::to_owned);
    let host =
        Host { admins: Vec::new(), trust_domain: "local", run_as: &run_as, resolve: |_| None };
    match parse(text, Path::new("policy.toml"), &host) {
        Ok(policy) => Some(policy),
        Err(fault) => {
            // The text of a line, and where in it.
            let longest = text.lines().map(str::len).max().unwrap_or_default();
            let said = fault.to_string();
            assert!(said.len() < 4096 + 8 * longest, "{} bytes", said.len());
            None
        }
    }
}

/// Of each name and each verb, about jobs and a start; a yes names its rule.
fn verdicts(policy: &Policy) -> Vec<bool> {
    let request = JobRequest {
        argv: vec!["/usr/bin/make".into(), "all".into()],
        working_directory: "/srv/build".into(),
        ..JobRequest::default()
    };
    let defaults = Defaults {
        run_as: ["nobody", "pool"].map(str::to_owned).to_vec(),
        stop_timeout: Duration::ZERO,
        limits: LimitTables::default(),
        labels: Default::default(),
        isolation: Default::default(),
    };
    let mut all = Vec::new();
    for name in NAMES.iter().filter_map(|name| Identity::new(name).ok()) {
        let caller = policy.caller(name.clone());
        let program = Some(Path::new("/usr/bin/make"));
        let start = StartQuestion { request: &request, program, defaults: &defaults };
        let mut questions = vec![Question::Start(start)];
        for verb in Verb::ALL.iter().copied() {
            questions.push(Question::Job(verb, &name));
            questions.push(Question::Broker(verb));
        }
        for question in questions {
            let verdict = decide(&caller, &question);
            assert!(!verdict.is_allowed || verdict.rule.is_some());
            assert_eq!(verdict.is_allowed, verdict.reason.is_empty());
            all.push(verdict.is_allowed);
        }
    }
    all
}

/// A pattern, and behind its line the text that it is compared with: against a matcher that tries everything.
pub fn pattern(data: &[u8]) {
    let both = String::from_utf8_lossy(data);
    let (source, text) = both.split_once('\n').unwrap_or((&both, "abc"));
    for syntax in [Syntax::Text, Syntax::Path] {
        let Ok(pattern) = Pattern::parse(source, syntax) else { continue };
        let matches = pattern.matches(text);
        if let Some(exact) = pattern.exact() {
            assert_eq!(matches, text == exact);
            assert!(pattern.matches(exact));
        }
        if pattern.is_any() && (syntax == Syntax::Text || text.starts_with('/')) {
            assert!(matches);
        }
        if source.len() <= 16 && text.len() <= 24 {
            assert_eq!(matches, tries(source.as_bytes(), text.as_bytes(), syntax), "{syntax:?}");
        }
    }
}

/// As the manual says it.
fn tries(pattern: &[u8], text: &[u8], syntax: Syntax) -> bool {
    let takes = |byte: &u8, slash: bool| slash || syntax == Syntax::Text || *byte != b'/';
    match pattern {
        [] => text.is_empty(),
        [b'*', ..] => {
            let stars = pattern.iter().take_while(|byte| **byte == b'*').count();
            let rest = &pattern[stars..];
            let most = text.iter().take_while(|byte| takes(byte, stars > 1)).count();
            (0..=most).any(|taken| tries(rest, &text[taken..], syntax))
        }
        [b'?', rest @ ..] => {
            text.first().is_some_and(|byte| takes(byte, false) && tries(rest, &text[1..], syntax))
        }
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
            text.first() == Some(byte) && tries(rest, &text[1..], syntax)
        }
    }
}
