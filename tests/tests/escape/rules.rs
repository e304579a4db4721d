//! Every rule of the filters, in real jobs: with the whole filter its attempt is refused, and with the filter without
//! that one rule it does what the rule is against, or ends as the kernel lets an account without a privilege. What is
//! attempted is in `attempts.py`. It must not know what the rules are: they are the filters' own data.

use std::collections::BTreeMap;
use std::fs;

use job_shim::filter::calls::{Arch, Call};
use job_shim::filter::rules::{DEFAULT_RULES, STRICT_RULES};
use job_shim::filter::tree::{Check, Listed, Mode, Program, Rules, Table, Verdict};
use job_tests::{Env, host};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::has_python;

const ATTEMPTS: &str = include_str!("attempts.py");
/// What a rule that allows a few values is tried with: families of sockets (AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK).
const FAMILIES: [u32; 4] = [16, 17, 38, 40];
/// ADDR_NO_RANDOMIZE.
const PERSONALITIES: [u32; 1] = [0x4_0000];
/// A kernel may be built without these calls and families, or be older than they are.
const MAY_BE_ABSENT: usize = 14;

/// One rule: a call that is refused, or a value of its argument.
struct Rule {
    key: String,
    call: Call,
    /// What the filter answers.
    errno: Errno,
}

fn rules(rules: &Rules) -> Vec<Rule> {
    let groups = rules.groups.iter().copied().flatten();
    let by_name = groups.flat_map(|group| {
        let errno = match group.verdict {
            Verdict::Eperm => Errno::EPERM,
            Verdict::Enosys => Errno::ENOSYS,
            Verdict::Allow => panic!("{}: no refusal", group.what),
        };
        group.calls.iter().map(move |call| Rule { key: call.name.into(), call: *call, errno })
    });
    let by_argument = rules.checks.iter().flat_map(|check| {
        let errno = Errno::from_raw(check.errno.into());
        let values = refused(check);
        assert!(!values.is_empty(), "{}: nothing to try", check.call.name);
        let rule = move |value| (format!("{} {value:#x}", check.call.name), check.call);
        values.into_iter().map(rule).map(move |(key, call)| Rule { key, call, errno })
    });
    let all = by_name.chain(by_argument);
    all.filter(|rule| rule.call.number(Arch::NATIVE).is_some()).collect()
}

/// The values that a check refuses: those of its list, each bit that it looks at, or some of all others.
fn refused(check: &Check) -> Vec<u32> {
    if check.listed == Listed::Refused {
        return check.values.to_vec();
    }
    if check.mask != u32::MAX {
        return (0..32).map(|bit| 1 << bit).filter(|flag| check.mask & flag != 0).collect();
    }
    let others: &[u32] = if check.call.name == "personality" { &PERSONALITIES } else { &FAMILIES };
    others.iter().copied().filter(|value| !check.values.contains(value)).collect()
}

/// As PR_SET_SECCOMP takes it.
fn program(table: &Table) -> String {
    let program = Program::new(table, Mode::Enforce);
    let words = program.instructions().iter();
    let bytes = words.flat_map(|word| {
        let [low, high] = word.code.to_ne_bytes();
        let [a, b, c, d] = word.k.to_ne_bytes();
        [low, high, word.jt, word.jf, a, b, c, d]
    });
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the attempts in one job. By rule and filter: what became of it, and what is expected without the rule.
fn outcomes(
    env: &Env,
    options: &[&str],
    rules: &[Rule],
    programs: impl Fn(&Rule) -> Value,
) -> BTreeMap<(String, String), (String, String)> {
    let [script, input] = ["attempts.py", "rules.json"].map(|name| env.shared().join(name));
    let all: Vec<_> =
        rules.iter().map(|rule| json!({"key": rule.key, "programs": programs(rule)})).collect();
    // What prepares an attempt, too.
    let calls = STRICT_RULES.groups.iter().copied().flatten().flat_map(|group| group.calls);
    let calls = calls.chain(STRICT_RULES.checks.iter().map(|check| &check.call));
    let numbers: BTreeMap<_, _> =
        calls.filter_map(|call| Some((call.name, call.number(Arch::NATIVE)?))).collect();
    fs::write(&script, ATTEMPTS).unwrap();
    fs::write(&input, json!({"numbers": numbers, "rules": all}).to_string()).unwrap();
    let [script, input] = [&script, &input].map(|path| path.to_str().unwrap());
    let program = ["--user=nobody", "--time=60s", "--", "/usr/bin/python3", script, input];
    let out = env.jobctl("user-b", &[&["run"], options, &program].concat()).expect(0).out();
    let line = |line: &str| {
        let fields: Vec<_> = line.split('|').map(str::to_owned).collect();
        let [rule, way, outcome, expected] = fields.try_into().unwrap();
        ((rule, way), (outcome, expected))
    };
    out.lines().map(line).collect()
}

/// Holds both filters: `profile` is whose jobs have it, `filter` its data.
fn each_rule_is_needed(env: &Env, profile: &str, filter: &Rules) {
    let isolation = format!("--isolation={profile}");
    let rules = rules(filter);
    let table = Table::new(filter, Arch::NATIVE);
    let refused = outcomes(env, &[&isolation], &rules, |_| json!({"product": null}));
    let whole = program(&table);
    let own = outcomes(
        env,
        &[&isolation, "--seccomp=none"],
        &rules,
        |rule| json!({"whole": whole, "without": program(&table.clone().without(&rule.call))}),
    );
    let (mut absent, mut by_the_kernel) = (Vec::new(), Vec::new());
    for Rule { key, errno, .. } in &rules {
        let of = |outcomes: &BTreeMap<_, _>, way: &str| -> (String, String) {
            let found = outcomes.get(&(key.clone(), way.to_owned())).cloned();
            found.unwrap_or_else(|| panic!("{key} is refused by {profile} and never attempted"))
        };
        let errno = format!("{errno:?}");
        assert_eq!(of(&refused, "product").0, errno, "{profile}: {key}");
        assert_eq!(of(&own, "whole").0, errno, "{profile}: {key}, as prepared without a filter");
        let (outcome, expected) = of(&own, "without");
        let lacks = outcome == "ENOSYS" || key.starts_with("socket") && outcome == "EAFNOSUPPORT";
        if lacks && errno != "ENOSYS" {
            absent.push(key.as_str());
            continue;
        }
        let expected: Vec<_> = expected.split(' ').collect();
        let by_capability = expected.contains(&"capability") && outcome == "EPERM";
        assert!(
            by_capability || expected.contains(&outcome.as_str()) && outcome != errno,
            "{profile} without the rule of {key}: {outcome}, expected {expected:?}"
        );
        if by_capability {
            by_the_kernel.push(key.as_str());
        }
    }
    host::tell(&format!(
        "{profile}: {} rules; refused by the kernel itself for want of a capability: {by_the_kernel:?}; \
         not in this kernel: {absent:?}",
        rules.len()
    ));
    assert!(absent.len() <= MAY_BE_ABSENT, "{absent:?}");
}

#[test]
fn each_rule_of_a_filter_is_taken_away_once_and_its_attempt_then_succeeds() {
    if job_tests::is_testbed() {
        return host::skip(
            "a third of the calls is not in its kernel, and 350 processes take it half a minute",
        );
    }
    if !has_python() {
        return;
    }
    let env = Env::start();
    for (profile, filter) in [("private", &DEFAULT_RULES), ("strict", &STRICT_RULES)] {
        each_rule_is_needed(&env, profile, filter);
    }
    env.assert_clean();
}
