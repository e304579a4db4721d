//! The decision over whole policies: examples first, then what holds for every policy.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::auth::action::Verb;
use crate::auth::decide::{Question, StartQuestion, Verdict, decide};
use crate::auth::policy::{Host, Policy};
use crate::auth::{Caller, StartRefusal};
use crate::model::identity::Identity;
use crate::model::limits::{LimitKind, LimitTables};
use crate::model::spec::{Defaults, JobRequest, SpecError};

const CI: &str = r#"
[[role]]
name = "ci"
identities = ["ci", "ci-*"]
allow = ["start", "view", "logs", "stop"]
run_as = ["pool"]
workdirs = ["/srv/build"]
limits.max.cpus = 2
[[role.program]]
path = "/usr/bin/make"
"#;

fn id(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

fn policy(text: &str) -> Result<Policy, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let run_as = ["nobody", "pool"].map(str::to_owned);
    let admins = vec![id("root")];
    let resolve = |_: &str| None;
    let host = Host { admins, trust_domain: "local", run_as: &run_as, resolve };
    crate::auth::load(file.path(), &host)
        .map_err(|e| e.to_string().replace(&file.path().display().to_string(), "policy.toml"))
}

fn caller(text: &str, name: &str) -> Caller {
    policy(text).unwrap().caller(id(name))
}

fn defaults() -> Defaults {
    let mut limits = LimitTables::default();
    limits.max.set(LimitKind::PidsMax, Some(100));
    Defaults {
        run_as: ["nobody", "pool"].map(str::to_owned).to_vec(),
        stop_timeout: Duration::ZERO,
        limits,
        labels: BTreeMap::new(),
        isolation: Default::default(),
    }
}

fn make() -> JobRequest {
    JobRequest {
        argv: vec!["/usr/bin/make".into()],
        working_directory: "/srv/build".into(),
        run_as: "pool".into(),
        ..JobRequest::default()
    }
}

fn start(caller: &Caller, request: &JobRequest) -> Verdict {
    let program = Some(Path::new(&request.argv[0]));
    let defaults = defaults();
    decide(caller, &Question::Start(StartQuestion { request, program, defaults: &defaults }))
}

fn job(caller: &Caller, verb: Verb, owner: &str) -> Verdict {
    decide(caller, &Question::Job(verb, &id(owner)))
}

#[test]
fn ten_lines_allow_one_program_and_say_why_not_otherwise() {
    let ci = caller(CI, "ci-7");
    let verdict = start(&ci, &make());
    let rule = verdict.rule.unwrap();
    assert!(verdict.is_allowed);
    assert_eq!(rule.to_string(), "role ci: program /usr/bin/make (line 10)");
    let differs = |change: fn(&mut JobRequest)| {
        let mut request = make();
        change(&mut request);
        let verdict = start(&ci, &request);
        assert!(!verdict.is_allowed, "{request:?}");
        verdict.reason
    };
    for (change, reason) in [
        (
            (|r| r.argv[0] = "/usr/bin/sh".into()) as fn(&mut JobRequest),
            "role ci does not allow the program \"/usr/bin/sh\"",
        ),
        (|r| r.argv.push("x".into()), "does not allow these arguments of \"/usr/bin/make\""),
        (|r| r.working_directory = "/srv".into(), "the working directory \"/srv\""),
        (|r| r.working_directory = "/srv/x/../build".into(), "the working directory"),
        (|r| r.run_as = "nobody".into(), "role ci does not run jobs as \"nobody\""),
        (|r| _ = r.env.insert("MAKEFLAGS".into(), "x".into()), "the variable \"MAKEFLAGS\""),
        (
            |r| r.limits.set(LimitKind::CpuQuota, Some(300_000)),
            "2 CPUs) ([role.limits.max] of role ci)",
        ),
        (|r| r.limits.set(LimitKind::PidsMax, Some(101)), "is 100 ([limits.max])"),
    ] {
        let told = differs(change);
        assert!(told.contains(reason), "{told}");
        assert!(!told.contains("; role"), "it lacks one thing: {told}");
    }
    let none = start(&caller(CI, "somebody"), &make());
    assert_eq!(none.reason, "no role of the policy names somebody");
}

#[test]
fn a_role_gives_what_the_request_does_not_say() {
    let text = CI.replace("limits.max.cpus", "labels = { team = \"ci\" }\nlimits.max.cpus");
    let request = JobRequest { run_as: String::new(), ..make() };
    let plan = caller(&text, "ci").may_start(request.clone(), &defaults()).unwrap();
    let spec = plan.subject().spec();
    assert_eq!((spec.run_as.as_str(), spec.labels["team"].as_str()), ("pool", "ci"));
    assert_eq!(spec.limits.cpu_max(), Some((200_000, 100_000)));
    let labels = [("team".to_owned(), "other".to_owned())].into();
    let other = caller(&text, "ci").may_start(JobRequest { labels, ..request }, &defaults());
    let Err(StartRefusal::Denied(denied)) = other else { panic!("{other:?}") };
    assert!(denied.to_string().contains("sets the label team"), "{denied}");
}

#[test]
fn one_role_must_allow_all_of_a_start() {
    let two =
        format!("{CI}{}", CI.replace("\"ci\"", "\"ci2\"").replace("/usr/bin/make", "/usr/bin/ls"));
    let two = two.replace("[\"ci2\", \"ci-*\"]", "[\"ci\"]").replacen("/srv/build", "/srv/ls", 2);
    let two = two.replacen("/srv/ls", "/srv/build", 1);
    let ci = caller(&two, "ci");
    let with = |program: &str, dir: &str| {
        let argv = vec![program.to_owned()];
        start(&ci, &JobRequest { argv, working_directory: dir.into(), ..make() }).is_allowed
    };
    assert!(with("/usr/bin/make", "/srv/build") && with("/usr/bin/ls", "/srv/ls"));
    assert!(!with("/usr/bin/ls", "/srv/build") && !with("/usr/bin/make", "/srv/ls"));
}

#[test]
fn of_two_roles_that_allow_all_but_the_program_the_second_may_allow_that() {
    let free = r#"
[[role]]
name = "free"
identities = ["ci"]
allow = ["start"]
run_as = ["*"]
workdirs = ["/**"]
[[role.program]]
path = "/**"
args = ["..."]
"#;
    let request =
        JobRequest { argv: vec!["/bin/true".into(), "x".into()], run_as: String::new(), ..make() };
    let plan = caller(&format!("{free}{CI}"), "ci").may_start(request.clone(), &defaults());
    let (_, mut plan) = plan.unwrap().into_parts();
    assert_eq!(plan.spec().run_as, "pool");
    assert!(plan.may_execute(Path::new("/bin/true"), &request.argv).is_err());
    assert!(plan.next());
    assert_eq!(plan.spec().run_as, "nobody");
    assert_eq!(plan.spec().limits.cpu_max(), None);
    assert_eq!(&*plan.may_execute(Path::new("/bin/true"), &request.argv).unwrap().role, "free");
    assert!(!plan.next());
}

#[test]
fn no_role_adds_an_account_to_those_of_the_configuration() {
    let wide = CI.replace("run_as = [\"pool\"]", "run_as = [\"*\"]");
    for (text, identity) in [(&*wide, "ci"), ("", "root")] {
        let request = JobRequest { run_as: "daemon".into(), ..make() };
        let refused = caller(text, identity).may_start(request, &defaults());
        let Err(StartRefusal::Invalid(SpecError::Invalid(_))) = refused else {
            panic!("{refused:?}");
        };
    }
}

#[test]
fn a_denial_wins_over_every_role_and_names_its_line() {
    let text = "[[role]]\nname = \"no\"\nidentities = [\"*\"]\ndeny = [\"delete\"]\n[[role]]\n\
                name = \"all\"\nidentities = [\"a\"]\nallow = [\"delete\", \"view\"]\nscope = \"all\"\n";
    let a = caller(text, "a");
    assert!(job(&a, Verb::View, "b").is_allowed);
    for name in ["a", "root"] {
        let verdict = job(&caller(text, name), Verb::Delete, "b");
        assert_eq!(verdict.rule.unwrap().to_string(), "role no: deny (line 4)");
        assert_eq!(verdict.reason, "role no denies \"delete\"");
    }
}

#[test]
fn a_scope_reaches_its_owners_and_nobody_else() {
    let text = "[[role]]\nname = \"ops\"\nidentities = [\"ops\"]\nallow = [\"view\"]\n\
                scope = { owners = [\"team-*\"], roles = [\"ci\"] }\n";
    let ops = caller(&format!("{text}{CI}"), "ops");
    for (owner, is_seen) in [("team-a", true), ("ci-1", true), ("ops", false), ("b", false)] {
        assert_eq!(job(&ops, Verb::View, owner).is_allowed, is_seen, "{owner}");
        assert_eq!(ops.list_scope().covers(&id(owner)), is_seen, "{owner}");
    }
    assert_eq!(job(&ops, Verb::View, "b").reason, "role ops does not reach jobs of b");
    let stop = job(&ops, Verb::Stop, "team-a").reason;
    assert_eq!(stop, "role ops does not allow \"stop\" (it allows view)");
}

#[test]
fn without_a_file_owners_control_their_jobs_and_admins_all() {
    let policy = Policy::new([id("root")]);
    let (alice, root) = (policy.caller(id("alice")), policy.caller(id("root")));
    for verb in Verb::ALL.iter().filter(|verb| verb.is_of_a_job()) {
        assert!(job(&alice, *verb, "alice").is_allowed);
        assert!(!job(&alice, *verb, "bob").is_allowed);
        assert!(job(&root, *verb, "bob").is_allowed);
    }
    let anything = JobRequest { argv: vec!["ls".into()], ..JobRequest::default() };
    assert!(start(&alice, &anything).is_allowed);
    assert!(!decide(&alice, &Question::Broker(Verb::Admin)).is_allowed);
}

#[test]
fn a_faulty_policy_is_refused_with_line_and_key() {
    let role = |lines: &str| format!("[[role]]\nname = \"x\"\nidentities = [\"a\"]\n{lines}\n");
    for (lines, told) in [
        ("alow = [\"view\"]", "line 4"),
        ("allow = [\"veiw\"]", "policy.toml, line 4: role x: allow: \"veiw\" is no verb"),
        ("allow = [\"start\"]", "line 4: role x: allows \"start\", and no [[role.program]]"),
        ("run_as = [\"root\"]", "run_as: \"root\" is not in jobs.run_as (nobody, pool)"),
        ("workdirs = [\"srv\"]", "workdirs: \"srv\" must begin with a slash"),
        ("scope = \"most\"", "scope: \"most\" is neither"),
        ("scope = { roles = [\"y\"] }", "scope.roles: there is no role \"y\""),
        ("limits.max.cpus = \"x\"", "line 4"),
        ("limits = { max.pids = 1, default.pids = 2 }", "limits.default: is 2"),
        ("[[role.program]]\npath = \"/a/../b\"", "line 5: role x: program: path"),
        ("[[role.program]]\npath = \"/a\"\nargs = [\"...\", \"x\"]", "must be the last"),
        ("[[role]]\nname = \"x\"\nidentities = []", "line 5: there are two roles"),
        ("[[role]]\nname = \"admin\"\nidentities = []", "line 5: the role \"admin\" is that of"),
        ("[[role]]\nname = \"y\"\nidentities = [\"job://other/z\"]", "another trust domain"),
    ] {
        let fault = policy(&role(lines)).unwrap_err();
        assert!(fault.contains(told), "{lines}: {fault}");
    }
    let many = (0..257).map(|n| format!("[[role]]\nname = \"r{n}\"\nidentities = []\n"));
    assert!(policy(&many.collect::<String>()).unwrap_err().contains("257 roles"));
    let names = (0..4097).map(|n| format!("\"n{n}\",")).collect::<String>();
    let names = format!("[[role]]\nname = \"x\"\nidentities = [{names}]\n");
    assert!(policy(&names).unwrap_err().contains("4097 patterns"));
}

#[test]
fn an_identity_may_be_written_as_in_its_certificate() {
    let text = CI.replace("\"ci-*\"", "\"job://local/build\"");
    assert!(start(&caller(&text, "build"), &make()).is_allowed);
}

/// Random policies over few names and verbs, so that roles meet: a role is a TOML text.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }

    fn role(&mut self, number: usize, scopes: &[&str]) -> String {
        let verbs = ["\"start\"", "\"view\"", "\"stop\"", "\"view\", \"stop\"", ""];
        let identities = self.of(&["\"a\"", "\"a\", \"b\"", "\"*\"", "\"ab*\"", "\"?\""]);
        let mut text = format!("[[role]]\nname = \"r{number}\"\nidentities = [{identities}]\n");
        text += &format!("allow = [{}]\n", self.of(&verbs));
        if self.below(4) == 0 {
            text += &format!("deny = [{}]\n", self.of(&verbs));
        }
        text += &format!("scope = {}\nrun_as = [\"*\"]\n", self.of(scopes));
        let (path, args) =
            (self.of(&["/bin/x", "/bin/*", "/**"]), self.of(&["", "\"...\"", "\"y\""]));
        text + &format!("[[role.program]]\npath = \"{path}\"\nargs = [{args}]\n")
    }

    fn roles(&mut self, scopes: &[&str]) -> Vec<String> {
        (0..1 + self.below(5) as usize).map(|number| self.role(number, scopes)).collect()
    }
}

const SCOPES: [&str; 4] =
    ["\"own\"", "\"all\"", "{ owners = [\"b*\"] }", "{ own = true, roles = [\"r0\"] }"];

/// The verdicts of a policy on every question over these names.
fn verdicts(text: &str) -> Vec<(String, bool, Option<String>)> {
    let policy = policy(text).unwrap();
    let mut all = Vec::new();
    for name in ["a", "b", "abc", "root"] {
        let caller = policy.caller(id(name));
        for owner in ["a", "b", "abc", "root"] {
            for verb in [Verb::View, Verb::Stop] {
                let verdict = job(&caller, verb, owner);
                let listed = caller.list_scope().covers(&id(owner));
                assert!(verb != Verb::View || listed == verdict.is_allowed, "{text}");
                let role = verdict.rule.map(|rule| rule.role.to_string());
                all.push((format!("{name} {verb} {owner}"), verdict.is_allowed, role));
            }
        }
        for command in ["/bin/x", "/bin/x y", "/bin/z", "/usr/z"] {
            let argv = command.split(' ').map(str::to_owned).collect();
            let verdict = start(&caller, &JobRequest { argv, ..JobRequest::default() });
            let role = verdict.rule.map(|rule| rule.role.to_string());
            all.push((format!("{name} {command}"), verdict.is_allowed, role));
        }
    }
    all
}

#[test]
fn the_order_of_roles_changes_no_verdict() {
    let mut random = Random(1);
    for _ in 0..300 {
        let mut roles = random.roles(&SCOPES);
        let before = verdicts(&roles.concat());
        let turn = random.below(roles.len() as u64) as usize;
        roles.rotate_left(turn);
        roles.reverse();
        assert_eq!(verdicts(&roles.concat()), before, "{}", roles.concat());
    }
}

#[test]
fn more_denials_never_allow_more() {
    let mut random = Random(2);
    for _ in 0..300 {
        let mut roles = random.roles(&SCOPES);
        let before = verdicts(&roles.concat());
        let (who, verb) = (random.of(&["*", "a", "ab*"]), random.of(&["start", "view", "stop"]));
        roles.push(format!(
            "[[role]]\nname = \"no\"\nidentities = [\"{who}\"]\ndeny = [\"{verb}\"]\n"
        ));
        for (old, new) in before.iter().zip(verdicts(&roles.concat())) {
            assert!(old.1 || !new.1, "{new:?} in {}", roles.concat());
        }
    }
}

#[test]
fn scope_own_never_shows_another_s_job() {
    let mut random = Random(3);
    for _ in 0..300 {
        let policy = policy(&random.roles(&["\"own\""]).concat()).unwrap();
        for (name, owner) in [("a", "b"), ("b", "a"), ("abc", "a"), ("a", "abc")] {
            let caller = policy.caller(id(name));
            assert!(!caller.list_scope().covers(&id(owner)));
            assert!(Verb::ALL.iter().all(|verb| !job(&caller, *verb, owner).is_allowed));
        }
    }
}

/// With 101 roles; the bound is generous, since other tests have the processors, too.
#[test]
fn a_start_is_decided_in_microseconds() {
    let role = |n: usize| {
        CI.replace("\"ci\", \"ci-*\"", &format!("\"x{n}\", \"ci-{n}*\""))
            .replace("\"ci\"", &format!("\"r{n}\""))
    };
    let policy = policy(&format!("{}{CI}", (0..100).map(role).collect::<String>())).unwrap();
    let rounds = 1000;
    let began = std::time::Instant::now();
    for _ in 0..rounds {
        let caller = policy.caller(id("ci-7"));
        assert!(caller.may_start(make(), &defaults()).is_ok());
    }
    let each = began.elapsed() / rounds;
    println!("caller, roles and plan of a start: {each:?}");
    assert!(each < Duration::from_millis(2), "{each:?}");
}

#[test]
fn a_glob_of_absolute_paths_for_all_arguments_allows_no_option() {
    let text = format!("{CI}args = [{{ rest = \"/*\" }}]\n");
    let ci = caller(&text, "ci-7");
    let with = |argument: &str| {
        let mut request = make();
        request.argv.push(argument.into());
        start(&ci, &request).is_allowed
    };
    assert!(with("/srv/build/all"));
    assert!(!with("--eval=$(shell id)") && !with("all"));
}
