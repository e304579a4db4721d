//! What the policy file lets whom do: one program and nothing else, nobody else's job, and what a reload takes away.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use job_api::v1::stream_output_response::Kind;
use job_api::v1::{
    GetJobRequest, ListJobsRequest, SignalJobRequest, StartJobRequest, StopJobRequest,
    StreamOutputRequest, WaitJobRequest,
};
use job_tests::host::Need;
use job_tests::{Env, api, eventually, until};
use tonic::Code;

/// The policy that the package ships: everybody controls their own jobs.
const USER: &str = include_str!("../../packaging/etc/policy.toml");

/// Ten lines: `ci` runs one program in one directory as pool with 2 CPUs.
fn ci(dir: &str) -> String {
    format!(
        "[[role]]\nname = \"ci\"\nidentities = [\"ci\", \"ci-*\"]\n\
         allow = [\"start\", \"view\", \"logs\", \"stop\"]\nrun_as = [\"pool\"]\n\
         workdirs = [\"{dir}\"]\nlimits.max.cpus = 2\n[[role.program]]\npath = \"/usr/bin/env\"\n\
         args = [\"true\"]\n"
    )
}

#[test]
fn ten_lines_let_ci_run_one_program_and_nothing_else() {
    let mut env = Env::builder().user("ci").user("other").start();
    let dir = env.shared().display().to_string();
    env.set_policy(Some(&ci(&dir)));
    env.reload_broker();
    until("the policy is in force", || env.log().contains("reloaded").then_some(()));
    let can = |user: &str, options: &[&str], command: &[&str]| {
        let args = [&["auth", "can-i", "--explain"], options, &["start", "--"], command].concat();
        let done = env.jobctl(user, &args);
        (done.code(), done.out())
    };
    let allowed = ["--workdir", &dir, "--cpus", "2"];
    let program = ["/usr/bin/env", "true"];
    let yes = "yes\nrule: role ci: program /usr/bin/env true (line 9)\n".to_owned();
    assert_eq!(can("ci", &allowed, &program), (0, yes));
    let with = |more: &[&'static str]| [&allowed[..], more].concat();
    for (options, command, why) in [
        (with(&[]), &["/usr/bin/env", "sh"][..], "these arguments of \"/usr/bin/env\""),
        (with(&[]), &["/usr/bin/env", "true", "x"], "these arguments of \"/usr/bin/env\""),
        (with(&[]), &["/bin/sh", "true"], "does not allow the program"),
        (with(&["--user", "nobody"]), &program, "role ci does not run jobs as \"nobody\""),
        (with(&["-e", "X=1"]), &program, "role ci does not allow the variable \"X\""),
        (with(&["--memory", "1G"]), &program, ""),
        (
            vec!["--workdir", &dir, "--cpus", "3"],
            &program,
            "(2 CPUs) ([role.limits.max] of role ci)",
        ),
        (vec!["--workdir", "/"], &program, "role ci does not allow the working directory \"/\""),
    ] {
        let (code, out) = can("ci", &options, command);
        if why.is_empty() {
            assert_eq!(code, 0, "{out}");
            continue;
        }
        assert!(code == 1 && out.starts_with("no\nwhy not: ") && out.contains(why), "{out}");
        let done = env.jobctl("ci", &[&["start"], &options[..], &["--"], command].concat());
        assert!(done.code() == 125 && done.err().contains(why), "{}", done.err());
    }
    let (code, out) = can("other", &allowed, &program);
    assert_eq!((code, &*out), (1, "no\nwhy not: no role of the policy names other\n"));
    let refused = env.jobctl("other", &[&["start", "--"], &program[..]].concat());
    assert!(refused.err().contains("no role of the policy names other"), "{}", refused.err());
    for (verb, code) in [("view", 0), ("stop", 0), ("delete", 1), ("admin", 1)] {
        assert_eq!(env.jobctl("ci", &["auth", "can-i", verb]).code(), code, "{verb}");
    }
    if Need::Cpu.is_met() {
        let done = env.jobctl("ci", &["start", "--workdir", &dir, "/usr/bin/env", "true"]);
        let job = env.jobctl("ci", &["inspect", &done.expect(0).id()]);
        let rule = "\"allowed_by_rule\": \"program /usr/bin/env true (line 9)\"";
        assert!(job.out().contains(rule), "{}", job.out());
        assert!(job.out().contains("pool"), "{}", job.out());
    }
}

/// Tricks with names, links, directories, variables, accounts, limits, labels and arguments.
#[test]
fn a_role_for_one_program_is_not_widened_by_thirty_ways_to_write_it() {
    let mut env = Env::builder().user("ci").start();
    let shared = env.shared().canonicalize().unwrap();
    let dir = shared.join("build");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::create_dir(shared.join("buildx")).unwrap();
    symlink(&dir, shared.join("link")).unwrap();
    symlink("/bin/sh", dir.join("env")).unwrap();
    symlink("/usr/bin/env", dir.join("true")).unwrap();
    fs::copy("/usr/bin/env", dir.join("copy")).unwrap();
    let text = |path: &str| shared.join(path).display().to_string();
    let policy =
        ci(&text("build")).replace("limits.max.cpus", "labels.team = \"ci\"\nlimits.max.cpus");
    env.set_policy(Some(&policy));
    env.reload_and_wait();
    let program = ["/usr/bin/env", "true"];
    let here = text("build");
    let ask = |dir: &str, options: &[&str], command: &[&str]| {
        let start = ["auth", "can-i", "--explain", "--workdir", dir];
        let done = env.jobctl("ci", &[&start[..], options, &["start", "--"], command].concat());
        (done.code(), format!("{}{}", done.out(), done.err()))
    };
    // Other ways to write the same.
    for (dir, options, command) in [
        (&*here, &[][..], &program[..]),
        (&here, &[], &["env", "true"]),
        (&here, &[], &["/etc/../usr/bin/env", "true"]),
        (&here, &[], &["./true", "true"]),
        (&here, &["--user", "pool", "--cpus", "2", "-l", "team=ci", "-l", "x=y"], &program),
        (&format!("{here}/"), &["--memory", "64M"], &program),
    ] {
        let (code, said) = ask(dir, options, command);
        assert!(code == 0 && said.starts_with("yes\n"), "{dir} {options:?} {command:?}: {said}");
    }
    for (dir, options, command, why) in [
        (&*here, &[][..], &["/usr/bin/env"][..], "these arguments"),
        (&here, &[], &["/usr/bin/env", "true", "true"], "these arguments"),
        (&here, &[], &["/usr/bin/env", ""], "these arguments"),
        (&here, &[], &["/usr/bin/env", "tru?"], "these arguments"),
        (&here, &[], &["/usr/bin/env", "true "], "these arguments"),
        (&here, &[], &["/usr/bin/env", "true\n"], "these arguments"),
        (&here, &[], &["/usr/bin/env", "-S", "true"], "these arguments"),
        (&here, &[], &["/usr/bin/env", "TRUE"], "these arguments"),
        (&here, &[], &["sh", "true"], "the program \"sh\""),
        (&here, &[], &["./env", "true"], "the program \"./env\""),
        (&here, &[], &["./copy", "true"], "the program \"./copy\""),
        (&here, &[], &["/proc/self/exe", "true"], "the program \"/proc/self/exe\""),
        (&here, &[], &["/usr/bin/../../bin/sh", "true"], "the program"),
        (&here, &[], &["/USR/BIN/ENV", "true"], "the program"),
        (&here, &[], &["true"], "the program \"true\""),
        (&here, &["-e", "PATH=/tmp"], &program, "the variable \"PATH\""),
        (&here, &["-e", "MAKEFLAGS=--eval=x"], &program, "the variable \"MAKEFLAGS\""),
        (&here, &["-e", "A=1"], &program, "the variable \"A\""),
        ("/", &[], &program, "the working directory \"/\""),
        (&text("build/sub"), &[], &program, "the working directory"),
        (&text("buildx"), &[], &program, "the working directory"),
        (&text("link"), &[], &program, "the working directory"),
        (&text("build/../build"), &[], &program, "the working directory"),
        (&text("build/."), &[], &program, "the working directory"),
        (&here, &["--user", "nobody"], &program, "does not run jobs as \"nobody\""),
        (&here, &["--user", "root"], &program, "does not run jobs as \"root\""),
        (&here, &["--user", "po*"], &program, "does not run jobs as \"po*\""),
        (&here, &["--cpus", "3"], &program, "[role.limits.max] of role ci"),
        (&here, &["--cpus", "2.01"], &program, "[role.limits.max] of role ci"),
        (&here, &["-l", "team=mine"], &program, "sets the label team to \"ci\""),
        (&here, &["-l", "team="], &program, "sets the label team to \"ci\""),
    ] {
        let (code, said) = ask(dir, options, command);
        assert!(code == 1 && said.contains(why), "{dir} {options:?} {command:?}: {said}");
        let start = [&["start", "--workdir", dir], options, &["--"], command].concat();
        let done = env.jobctl("ci", &start);
        // What is wrong for everybody is said first.
        let is_told = done.err().contains(why) || done.err().contains("is not allowed here");
        assert!(done.code() == 125 && is_told, "{start:?}: {}", done.err());
    }
    for verb in ["input", "signal", "update", "pause", "delete", "attach", "exec", "admin"] {
        assert_eq!(env.jobctl("ci", &["auth", "can-i", verb]).code(), 1, "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_users_of_the_shipped_policy_have_nothing_of_each_other() {
    let env = Env::builder().admin("admin").policy(USER).start();
    let (mut a, mut b) = (env.client("user-a").await, env.client("user-b").await);
    let mut spec = api::script("echo up; sleep 1000");
    spec.name = "build".into();
    let id = api::start(&mut a, spec).await.id;
    assert_eq!(api::job(&mut a, &id).await.allowed_by_role, "user");
    for guess in ["", &*id, &id[..8], "build"] {
        let request = ListJobsRequest { selector: guess.into(), ..Default::default() };
        assert!(b.list_jobs(request).await.unwrap().into_inner().jobs.is_empty(), "{guess:?}");
        for command in ["stop", "kill", "logs", "stream", "rm", "inspect", "pause", "wait"] {
            let args = if command == "kill" {
                vec![command, "-s", "KILL", guess]
            } else {
                vec![command, guess]
            };
            assert_ne!(env.jobctl("user-b", &args).code(), 0, "{command} {guess:?}");
        }
    }
    let stop = StopJobRequest { id: id.clone(), ..Default::default() };
    assert_eq!(b.stop_job(stop).await.unwrap_err().code(), Code::NotFound);
    let kill = SignalJobRequest { id: id.clone(), signal: 9 };
    assert_eq!(b.signal_job(kill).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(env.jobctl("user-b", &["auth", "can-i", "view", "--owner", "user-a"]).code(), 1);
    let seen = env.client("admin").await.list_jobs(ListJobsRequest::default()).await;
    assert_eq!(seen.unwrap().into_inner().jobs.len(), 1);
    assert!(api::job(&mut a, &id).await.ended_at.is_none());
    api::stop(&mut a, &id, Duration::ZERO).await;
}

/// Every command of `jobctl`, with every way to name a job: what it says of another's job is what it says of none.
#[test]
fn no_command_and_no_guess_tells_a_job_of_another_from_none() {
    let env = Env::builder().admin("admin").policy(USER).user("bob").start();
    let start = ["start", "--name", "build", "-l", "team=red", "--request-id", "r1", "--"];
    let run = |user: &str| env.jobctl(user, &[&start[..], &["sleep", "1000"]].concat());
    let id = run("alice").id();
    let commands: [&[&str]; 19] = [
        &["status"],
        &["inspect"],
        &["logs"],
        &["logs", "-f"],
        &["wait"],
        &["stop"],
        &["stop", "-t", "0"],
        &["kill", "-s", "KILL"],
        &["rm"],
        &["rm", "--force"],
        &["pause"],
        &["resume"],
        &["update", "--cpus", "1"],
        &["update", "--time", "+1h"],
        &["stats", "--no-stream"],
        &["ps", "-a", "--owner", "alice", "-l"],
        &["auth", "can-i", "stop", "--job"],
        &["audit", "--job"],
        &["quota", "--owner"],
    ];
    let said = |command: &[&str], guess: &str| {
        let done = env.jobctl("bob", &[command, &[guess]].concat());
        let text = format!("{}\n{}\n{}", done.code(), done.out(), done.err());
        let lines = text.lines().filter(|line| !line.contains("request id"));
        lines.collect::<Vec<_>>().join("\n").replace(guess, "GUESS")
    };
    let absent = "01900000-0000-7000-8000-000000000000";
    for (guess, none) in [
        (&*id, absent),
        (&id[..18], &absent[..18]),
        (&id[..8], &absent[..8]),
        ("build", "no-build"),
        ("team=red", "team=no"),
        ("alice", "nobody-is-called-so"),
    ] {
        for command in commands {
            let (theirs, none) = (said(command, guess), said(command, none));
            assert_eq!(theirs, none, "{command:?} {guess:?}");
        }
    }
    // Names and request ids are one's own: the same ones give another job.
    let own = run("bob").id();
    assert_ne!(own, id);
    assert_eq!(run("bob").id(), own, "and the request id is known, as one's own");
    let listed = env.jobctl("bob", &["ps", "-a", "-q"]).out();
    assert_eq!(listed.trim(), own);
    let theirs = env.jobctl("alice", &["status", &id, "-o", "json"]).expect(0).out();
    assert!(theirs.contains("\"running\""), "it has not noticed any of that: {theirs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_may_see_a_job_and_not_stop_it_is_told_which_verb_is_missing() {
    let auditor = "[[role]]\nname = \"auditor\"\nidentities = [\"auditor\"]\n\
                   allow = [\"view\"]\nscope = { owners = [\"user-*\"] }\n";
    let env = Env::builder().admin("admin").policy(&format!("{USER}{auditor}")).start();
    let (mut user, mut auditor) = (env.client("user-a").await, env.client("auditor").await);
    let id = api::start(&mut user, api::spec(&["sleep", "1000"])).await.id;
    let hidden = api::start(&mut env.client("admin").await, api::spec(&["sleep", "1000"])).await.id;
    let listed = auditor.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(listed.iter().map(|job| &*job.id).collect::<Vec<_>>(), [&*id]);
    let stop = |id: &str| StopJobRequest { id: id.into(), ..Default::default() };
    let denied = auditor.stop_job(stop(&id)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains("you may not stop"), "{denied}");
    assert_eq!(api::reason(&denied), "POLICY");
    assert_eq!(auditor.stop_job(stop(&hidden)).await.unwrap_err().code(), Code::NotFound);
    let logs = StreamOutputRequest { id: id.clone(), ..Default::default() };
    let logs = api::try_read(&mut auditor, logs).await.unwrap_err();
    assert_eq!(logs.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reload_that_takes_a_verb_away_ends_what_lives_by_it() {
    let mut env = Env::builder().policy(USER).start();
    let mut client = env.client("user-a").await;
    let id = api::start(&mut client, api::script("echo up; sleep 1000")).await.id;
    let follow = StreamOutputRequest { id: id.clone(), follow: true, ..Default::default() };
    let mut stream = client.stream_output(follow).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let (mut other, wait) =
        (client.clone(), WaitJobRequest { id: id.clone(), ..Default::default() });
    let waits = tokio::spawn(async move { other.wait_job(wait).await });
    // A broken policy changes nothing.
    env.set_policy(Some("[[role]]\nname = \"x\"\nidentities = [\"*\"]\nalow = [\"view\"]\n"));
    env.reload_broker();
    let told = || env.log().contains("everything stays as it was").then_some(());
    eventually("the fault is told", async || told()).await;
    assert!(env.log().contains("policy.toml") && env.log().contains("line 4"), "{}", env.log());
    assert!(!waits.is_finished());
    // One that denies the output ends the stream, and leaves the wait.
    let no_logs = "[[role]]\nname = \"no-logs\"\nidentities = [\"user-a\"]\ndeny = [\"logs\"]\n";
    env.set_policy(Some(&format!("{USER}{no_logs}")));
    env.reload_broker();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.message()).await;
    let ended = ended.expect("it ends within 5 s").unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("role no-logs denies \"logs\""), "{ended}");
    assert!(!waits.is_finished());
    // Who has no role any more has no job.
    env.set_policy(Some(""));
    env.reload_broker();
    let ended = tokio::time::timeout(Duration::from_secs(5), waits).await;
    let ended = ended.expect("it ends within 5 s").unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::NotFound);
    let gone = client.get_job(GetJobRequest { id: id.clone() }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let refused = api::try_start(&mut client, api::spec(&["true"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[test]
fn a_policy_that_others_can_write_to_is_refused() {
    let env = Env::builder().policy(USER).start();
    let check = || {
        let mut command = Command::new(&env.programs().broker);
        command.arg("--config").arg(env.path("broker.toml")).arg("check-config");
        let said = command.output().unwrap();
        String::from_utf8_lossy(&said.stderr).into_owned()
    };
    assert!(!check().contains("policy"), "{}", check());
    fs::set_permissions(env.path("policy.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(check().contains("writable by nobody else"), "{}", check());
    fs::remove_file(env.path("policy.toml")).unwrap();
    assert!(check().contains("cannot read the policy"), "{}", check());
}

#[test]
fn operators_test_their_policy_against_a_table_of_verdicts() {
    let env = Env::builder().admin("admin").policy(&format!("{USER}{}", ci("/srv/build"))).start();
    let table = |text: &str| {
        fs::write(env.path("verdicts.toml"), text).unwrap();
        let mut command = Command::new(&env.programs().broker);
        command.arg("--config").arg(env.path("broker.toml")).args(["policy", "test"]);
        let said = command.arg(env.path("verdicts.toml")).output().unwrap();
        let text = [said.stderr, said.stdout].concat();
        (said.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let good = "[[test]]\nidentity = \"ann\"\nverb = \"stop\"\nowner = \"bob\"\nexpect = \"deny\"\n\
                [[test]]\nidentity = \"admin\"\nverb = \"stop\"\nowner = \"bob\"\nexpect = \"allow\"\n\
                [[test]]\nidentity = \"ci-1\"\nverb = \"start\"\nargv = [\"/usr/bin/env\", \"true\"]\n\
                workdir = \"/srv/build\"\nuser = \"pool\"\nlimits = { cpus = 2 }\nexpect = \"allow\"\n\
                rule = \"role ci: program\"\n";
    let (code, said) = table(good);
    assert_eq!((code, &*said), (Some(0), "3 questions, 0 answered otherwise\n"));
    let (code, said) = table(&good.replace("\"deny\"", "\"allow\""));
    assert_eq!(code, Some(1));
    assert!(
        said.contains("test 1 (ann: stop): is denied: role user does not reach jobs of bob"),
        "{said}"
    );
    let (code, said) = table(&good.replace("verb = \"stop\"", "verb = \"halt\""));
    assert!(code == Some(1) && said.contains("\"halt\" is no verb"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_may_not_read_output_gets_the_job_that_it_runs_and_then_the_refusal() {
    let no_logs = "[[role]]\nname = \"no-logs\"\nidentities = [\"user-a\"]\ndeny = [\"logs\"]\n";
    let env = Env::builder().policy(&format!("{USER}{no_logs}")).start();
    let mut client = env.client("user-a").await;
    let run = StartJobRequest { spec: Some(api::script("echo secret")), ..Default::default() };
    let mut stream = client.run_job(run).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().kind;
    let Some(Kind::Started(job)) = first else { panic!("{first:?}") };
    let denied = stream.message().await.unwrap_err();
    assert_eq!((denied.code(), &*api::reason(&denied)), (Code::PermissionDenied, "POLICY"));
    assert_eq!(api::ended(&mut client, &job.id).await.exit_code, Some(0));
}
