//! Who may connect, who one is, whose jobs one sees, and what a job itself may touch.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use job_api::client::{self, Client};
use job_api::refusal::refusal;
use job_api::v1::{
    CanIRequest, DeleteJobRequest, GetJobRequest, Job, Limits, ListJobsRequest, PauseJobRequest,
    ReadAuditRequest, ResumeJobRequest, SignalJobRequest, StopJobRequest, StreamOutputRequest,
    UpdateJobRequest, WaitJobRequest, WhoAmIRequest, WriteInputRequest,
};
use job_certs::{Authority, CA_VALIDITY, Leaf, ServerNames, USER_VALIDITY, days};
use job_tests::{Env, api, eventually, host, trials, until};
use tokio_stream::iter;
use tonic::{Code, Status};

/// What every call that names a job answers.
async fn all_calls(client: &mut Client, id: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let id = || id.to_owned();
    let stop = StopJobRequest { id: id(), ..Default::default() };
    let wait = WaitJobRequest { id: id(), ..Default::default() };
    let output = StreamOutputRequest { id: id(), ..Default::default() };
    let limits = Limits { pids_max: Some(1), ..Default::default() };
    let update = UpdateJobRequest { id: id(), limits: Some(limits), ..Default::default() };
    let can_i = CanIRequest { verb: "stop".into(), job: id(), ..Default::default() };
    let input = WriteInputRequest { id: id(), data: "x".into(), ..Default::default() };
    vec![
        ("GetJob", client.get_job(GetJobRequest { id: id() }).await.map(drop)),
        ("WaitJob", client.wait_job(wait).await.map(drop)),
        ("StopJob", client.stop_job(stop).await.map(drop)),
        ("SignalJob", client.signal_job(SignalJobRequest { id: id(), signal: 9 }).await.map(drop)),
        ("StreamOutput", client.stream_output(output).await.map(drop)),
        ("WriteInput", client.write_input(iter(vec![input])).await.map(drop)),
        ("UpdateJob", client.update_job(update).await.map(drop)),
        ("PauseJob", client.pause_job(PauseJobRequest { id: id() }).await.map(drop)),
        ("ResumeJob", client.resume_job(ResumeJobRequest { id: id() }).await.map(drop)),
        ("DeleteJob", client.delete_job(DeleteJobRequest { id: id() }).await.map(drop)),
        ("CanI", client.can_i(can_i).await.map(drop)),
    ]
}

/// Calls that name no job: what they say of the jobs of others is held below.
const OF_NO_JOB: [&str; 7] =
    ["StartJob", "RunJob", "ListJobs", "GetServerInfo", "WhoAmI", "GetQuota", "ReadAudit"];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_call_is_asked_for_the_jobs_of_others() {
    let env = Env::start();
    let proto = include_str!("../../proto/job/v1/job.proto");
    let calls =
        proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    let asked = all_calls(&mut env.client("user-a").await, "").await;
    let asked: Vec<_> = asked.into_iter().map(|(call, _)| call).chain(OF_NO_JOB).collect();
    let forgotten: Vec<_> = calls.filter(|call| !asked.contains(call)).collect();
    assert!(forgotten.is_empty() && asked.len() > 16, "not asked: {forgotten:?}");
}

/// All that a refusal says, but for the job's id, and for the id of the call.
fn told(status: &Status, job: &str) -> (Code, String, String, Vec<String>) {
    let details = String::from_utf8_lossy(status.details()).replace(job, "JOB");
    let mut metadata: Vec<_> = status.metadata().keys().map(|key| format!("{key:?}")).collect();
    metadata.sort_unstable();
    (status.code(), status.message().replace(job, "JOB"), details, metadata)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_jobs_of_others_do_not_exist() {
    let env = Env::builder().admin("admin").start();
    let (mut owner, mut other) = (env.client("user-a").await, env.client("user-b").await);
    let job = api::start(&mut owner, api::spec(&["sleep", "1000"])).await;
    // A job that there never was is answered in the same words, but for its id.
    let never = "01900000-0000-7000-8000-000000000000";
    let (theirs, absent) =
        (all_calls(&mut other, &job.id).await, all_calls(&mut other, never).await);
    let ended = api::start(&mut owner, api::spec(&["true"])).await.id;
    api::ended(&mut owner, &ended).await;
    let gone = all_calls(&mut other, &ended).await;
    for (id, answers) in [(&job.id, theirs), (&ended, gone)] {
        for ((call, answer), (_, absent)) in answers.into_iter().zip(&absent) {
            let (answer, absent) = (answer.unwrap_err(), absent.as_ref().unwrap_err());
            assert_eq!(answer.code(), Code::NotFound, "{call}: {answer}");
            assert_eq!(told(&answer, id), told(absent, never), "{call}");
        }
    }
    let all = |selector: &str| ListJobsRequest { selector: selector.into(), ..Default::default() };
    for selector in ["", &job.id, &job.id[..8]] {
        let listed = other.list_jobs(all(selector)).await.unwrap().into_inner().jobs;
        assert_eq!(listed, Vec::<Job>::new(), "{selector:?}");
    }
    // Nor does the audit say anything, of a job that there is or of none.
    for id in [job.id.as_str(), never] {
        let asked = ReadAuditRequest { job: id.into(), ..Default::default() };
        let refused = other.read_audit(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("\"admin\"") && !refused.message().contains(id));
    }
    let by_owner = ListJobsRequest { owner: "user-a".into(), ..Default::default() };
    assert!(other.list_jobs(by_owner).await.unwrap().into_inner().jobs.is_empty());
    let shown = env.jobctl("user-b", &["status", &job.id]);
    assert!(shown.code() == 1 && shown.out().is_empty(), "{}", shown.err());
    // It has not noticed any of that.
    assert_eq!(api::job(&mut owner, &job.id).await.state(), job.state());
    // The operator has: a line for each verb.
    for verb in ["view", "stop", "signal", "logs", "input", "update", "pause", "delete"] {
        let line = format!("denied job={} owner=user-a by=user-b verb={verb}", job.id);
        eventually("the log tells of it", async || env.log().contains(&line).then_some(())).await;
    }
}

/// Neither a disk nor a shim is asked before it is known that the caller may see the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_for_the_job_of_another_takes_as_long_as_one_for_none() {
    const NEVER: &str = "01900000-0000-7000-8000-000000000000";
    let env = Env::start();
    let (mut owner, mut other) = (env.client("user-a").await, env.client("user-b").await);
    let live = api::start(&mut owner, api::spec(&["sleep", "1000"])).await.id;
    let ended = api::start(&mut owner, api::spec(&["true"])).await.id;
    api::ended(&mut owner, &ended).await;
    let mut trial = async || {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..101 {
            // In turns, so that a busy host is as busy for each.
            for (times, id) in times.iter_mut().zip([NEVER, &live, &ended]) {
                let began = Instant::now();
                other.get_job(GetJobRequest { id: id.to_owned() }).await.unwrap_err();
                times.push(began.elapsed());
            }
        }
        times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        })
    };
    let is_alike = |[none, live, ended]: &[Duration; 3]| {
        [live, ended].iter().all(|theirs| none.abs_diff(**theirs) < Duration::from_micros(500))
    };
    let medians = trials(&mut trial, is_alike).await;
    assert!(is_alike(&medians), "none, live, ended: {medians:?}");
    println!("median times for none, live, ended: {medians:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_admin_sees_and_controls_all_jobs() {
    let env = Env::builder().admin("admin").start();
    let mut ids = Vec::new();
    for user in ["user-a", "user-b"] {
        let mut client = env.client(user).await;
        ids.push(api::start(&mut client, api::script("echo up; sleep 1000")).await.id);
    }
    let mut admin = env.client("admin").await;
    let listed = admin.list_jobs(ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    let owners: Vec<_> = listed.iter().map(|job| job.owner.as_str()).collect();
    assert_eq!(owners, ["user-b", "user-a"]);
    for id in &ids {
        api::becomes(&mut admin, id, |job| job.stdout_bytes == 3).await;
        let so_far = StreamOutputRequest { id: id.clone(), ..Default::default() };
        assert_eq!(api::read(&mut admin, so_far).await.stdout, b"up\n");
        api::stop(&mut admin, id, Duration::ZERO).await;
        assert_eq!(api::ended(&mut admin, id).await.ended_by, "admin");
        admin.delete_job(DeleteJobRequest { id: id.clone() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn everybody_is_who_the_certificate_says() {
    let env = Env::builder().admin("admin").start();
    for (name, admin) in [("user-a", false), ("admin", true)] {
        let mut client = env.client(name).await;
        let me = client.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!((me.identity.as_str(), me.admin), (name, admin));
        let expires = me.certificate_expires_at.unwrap().seconds as u64;
        let expected = env.identity(name).not_after.duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(expires, expected.unwrap().as_secs());
    }
    // The common name counts where there is no URI.
    let leaf = Leaf { uris: Vec::new(), ..user_leaf(&env) };
    let mut client = connect(&env, env.pki(), &leaf).await;
    let me = client.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.identity, "user-a");
}

fn user_leaf(env: &Env) -> Leaf {
    env.pki().user_leaf("user-a", USER_VALIDITY).unwrap()
}

/// In TLS 1.3 the client is done first: a refusal shows with the first call.
async fn connect(env: &Env, authority: &Authority, leaf: &Leaf) -> Client {
    client::connect(&env.addr(), &env.signed(authority, leaf)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_that_names_nobody_or_two_is_unauthenticated() {
    let env = Env::start();
    let whole = user_leaf(&env);
    let two = ["job://local/user-a", "job://local/user-b"].map(str::to_owned).to_vec();
    let uri = |uri: &str| vec![uri.to_owned()];
    let cases = [
        ("no usage", Leaf { usages: Vec::new(), ..whole.clone() }),
        ("two identities", Leaf { uris: two, ..whole.clone() }),
        ("none", Leaf { uris: Vec::new(), common_name: None, ..whole.clone() }),
        ("another domain", Leaf { uris: uri("job://elsewhere/user-a"), ..whole.clone() }),
        ("a path", Leaf { uris: uri("job://local/user-a/x"), ..whole.clone() }),
        ("no name", Leaf { uris: uri("job://local/"), ..whole.clone() }),
        ("a bad name", Leaf { uris: Vec::new(), common_name: Some("a b".into()), ..whole }),
    ];
    for (what, leaf) in cases {
        let mut client = connect(&env, env.pki(), &leaf).await;
        let refused = client.who_am_i(WhoAmIRequest {}).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        let refused = api::try_start(&mut client, api::spec(&["true"])).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
    }
    assert_eq!(fs::read_dir(env.path("state/jobs")).unwrap().count(), 0, "nothing was started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_that_is_expired_foreign_or_a_servers_fails_the_handshake() {
    let env = Env::start();
    let foreign = Authority::create(&env.path("foreign"), "local", CA_VALIDITY).unwrap();
    let now = SystemTime::now();
    let whole = user_leaf(&env);
    let expired = Leaf { not_before: now - days(9), not_after: now - days(1), ..whole.clone() };
    let early = Leaf { not_before: now + days(1), not_after: now + days(9), ..whole.clone() };
    let server = Leaf { usages: vec![job_certs::Usage::Server], ..whole.clone() };
    let cases = [
        ("expired", env.pki(), expired, "CertificateExpired"),
        ("not valid yet", env.pki(), early, ""),
        ("foreign", &foreign, whole, ""),
        ("a server's", env.pki(), server, ""),
    ];
    for (what, authority, leaf, alert) in cases {
        let credentials = env.signed(authority, &leaf);
        let connected = client::connect(&env.addr(), &credentials).await;
        if let Ok(mut client) = connected {
            let refused = client.who_am_i(WhoAmIRequest {}).await.expect_err(what);
            assert_ne!(refused.code(), Code::Unauthenticated, "{what}: no call is answered");
        }
        // One that is slow to refuse has nothing against it for that time.
        let refuse = async || refusal(&env.addr(), &credentials).await.unwrap();
        let why = eventually(&format!("a refusal: {what}"), refuse).await;
        assert!(why.contains("alert") && why.contains(alert), "{what}: {why}");
    }
}

/// Of a certificate whose dates are not right, the alert of TLS is always "expired".
#[test]
fn a_certificate_that_is_not_valid_yet_is_told_as_such_to_its_user_and_in_the_log() {
    let env = Env::start();
    let now = SystemTime::now();
    let cases = [
        (now + days(1), now + days(9), "is not valid yet: it is valid not before "),
        (now - days(9), now - days(1), "has expired: it is valid until "),
    ];
    for (n, (not_before, not_after, fault)) in cases.into_iter().enumerate() {
        let leaf = Leaf { not_before, not_after, ..user_leaf(&env) };
        let signed = env.pki().sign(&leaf).unwrap();
        let [cert, key] = ["crt", "key"].map(|kind| env.path(&format!("{n}.{kind}")));
        fs::write(&cert, signed.certificate_pem).unwrap();
        fs::write(&key, signed.key_pem).unwrap();
        let mut jobctl = env.command("user-a");
        let asked = jobctl.env("JOBCTL_CERT", cert).env("JOBCTL_KEY", key).arg("ps").output();
        let said = String::from_utf8(asked.unwrap().stderr).unwrap();
        assert!(said.contains(&format!("your certificate {fault}20")), "{said}");
        assert!(said.contains(", and this machine's clock says 20"), "{said}");
        let logged = format!("handshake failed: the client's certificate {fault}");
        until("the log to tell it", || env.log().contains(&logged).then_some(()));
    }
    assert!(env.log().contains(", and this host's clock says "), "{}", env.log());
}

#[test]
fn a_brokers_certificate_that_is_not_valid_yet_is_told_as_such() {
    let env = Env::start();
    let names = ServerNames { dns: vec!["localhost".into()], ips: vec![[127, 0, 0, 1].into()] };
    let leaf = env.pki().server_leaf(&names, days(9)).unwrap();
    let early = Leaf { not_before: SystemTime::now() + days(1), ..leaf };
    for name in ["server.crt", "server.key"] {
        fs::remove_file(env.path("pki").join(name)).unwrap();
    }
    env.pki().issue(&early, &env.path("pki/server")).unwrap();
    env.reload_broker();
    until("the reload", || env.log().contains(" reloaded").then_some(()));
    let said = env.jobctl("user-a", &["ps"]).err();
    let words = "the broker's certificate is not valid yet: it is valid not before 20";
    assert!(said.contains(words), "{said}");
    assert!(said.contains(", and this machine's clock says 20"), "{said}");
    assert!(env.log().contains("server.crt is not valid before 20"), "{}", env.log());
}

/// What `openssl s_client` says of a handshake with these options; `None` where there is no openssl.
fn s_client(env: &Env, options: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.args(["30", "openssl", "s_client", "-brief", "-alpn", "h2", "-connect", &env.addr()]);
    command.arg("-CAfile").arg(env.pki().certificate()).args(options);
    if !host::has_program("openssl", "version") {
        return None;
    }
    // It waits for the server's word: in TLS 1.3 the refusal comes after the client is done.
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let held = options.contains(&"-tls1_2") || !options.contains(&"-cert");
    if !held {
        drop(stdin);
    }
    let output = child.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn without_a_client_certificate_the_handshake_fails() {
    let env = Env::start();
    let Some(said) = s_client(&env, &["-tls1_3"]) else { return };
    assert!(said.contains("certificate required"), "{said}");
}

#[test]
fn tls_1_2_is_refused_in_the_handshake() {
    let env = Env::start();
    let user = env.identity("user-a");
    let (cert, key) = (user.certificate.to_str().unwrap(), user.key.to_str().unwrap());
    let Some(said) = s_client(&env, &["-tls1_2", "-cert", cert, "-key", key]) else { return };
    assert!(said.contains("protocol version"), "{said}");
    // The same with TLS 1.3 is let in: it was the version.
    let said = s_client(&env, &["-tls1_3", "-cert", cert, "-key", key]).unwrap();
    assert!(said.contains("CONNECTION ESTABLISHED") && !said.contains("alert"), "{said}");
}

/// What a job sees of itself.
#[test]
fn a_job_is_nobody_and_has_nothing() {
    let env = Env::start();
    let id = env.jobctl("user-a", &["run", "--", "id"]);
    assert!(id.out().starts_with("uid=65534(nobody) gid=65534("), "{}", id.out());
    assert!(!id.out().contains("groups=0"), "{}", id.out());
    let status = env.jobctl("user-a", &["run", "--", "cat", "/proc/self/status"]).out();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(line("NoNewPrivs"), "1");
    assert_eq!(line("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(line("Gid"), "65534\t65534\t65534\t65534");
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    // ls has a descriptor of its own, of the directory that it lists.
    let fds = env.jobctl("user-a", &["run", "--", "ls", "/proc/self/fd"]).out();
    assert_eq!(fds.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let fd = env.jobctl("user-a", &["run", "--", "readlink", "/proc/self/fd/3"]);
    assert_eq!((fd.code(), fd.out()), (1, String::new()), "fd 3 was ls's");
}

#[test]
fn a_job_of_the_pool_has_a_uid_of_its_own() {
    let env = Env::start();
    let one = env
        .spawn_jobctl("user-a", &["run", "--user", "pool", "--", "sh", "-c", "id -u; sleep 1000"]);
    let two = env
        .spawn_jobctl("user-a", &["run", "--user", "pool", "--", "sh", "-c", "id -u; sleep 1000"]);
    one.wait_for_stdout("\n");
    two.wait_for_stdout("\n");
    let jobs = env.jobctl("user-a", &["ps", "-o", "json"]).json();
    let jobs = jobs["jobs"].as_array().unwrap();
    let uids: Vec<_> = jobs.iter().map(|job| job["uid"].as_u64().unwrap()).collect();
    assert!(uids.len() == 2 && uids[0] != uids[1], "{uids:?}");
    assert!(uids.iter().all(|uid| (70_000..80_000).contains(uid)), "{uids:?}");
    for job in jobs {
        env.jobctl("user-a", &["stop", "-t", "0", job["id"].as_str().unwrap()]).expect(0);
    }
    let told = [one.finish().out(), two.finish().out()];
    let mut told = told.map(|out| out.trim().parse::<u64>().unwrap());
    told.sort_unstable();
    let mut uids = [uids[0], uids[1]];
    uids.sort_unstable();
    assert_eq!(told, uids);
}

/// What it has left in /tmp is its uid's.
#[test]
fn the_uid_of_a_job_that_has_ended_is_not_the_next_ones() {
    let env = Env::start();
    let uid = || {
        let ran = env.jobctl("user-a", &["run", "--user", "pool", "--", "id", "-u"]);
        env.assert_clean(); // or it would have the uid still
        ran.out()
    };
    assert_ne!(uid(), uid());
}

/// Tries everything that a job must not be able to do, and prints what worked.
const ATTACK: &str = r#"
worked() { echo "worked: $*"; }
shim=$PPID
[ "$shim" -gt 1 ] || { echo "no shim seen"; exit 9; }
kill -0 $shim && worked signal 0 to the shim
kill -KILL $shim && worked signal 9 to the shim
kill -STOP $shim && worked signal stop to the shim
for name in mem environ maps stack syscall auxv io; do
    cat /proc/$shim/$name >/dev/null && worked read $name of the shim
done
ls /proc/$shim/fd/ && worked list descriptors of the shim
for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    (: </proc/$shim/fd/$fd) && worked open descriptor $fd of the shim
done
cat /proc/$shim/cwd/. && worked enter the directory of the shim
(echo 0 >/proc/$shim/oom_score_adj) && worked set the oom score of the shim
for path in "$@"; do
    ls "$path" && worked list "$path"
    ls "$path/" && worked list "$path/"
    cat "$path" && worked read "$path"
    (: >>"$path") && worked write "$path"
    (: >"$path/x") && worked create in "$path"
done
echo end
"#;

#[test]
fn a_job_can_touch_neither_its_shim_nor_what_is_the_brokers() {
    let env = Env::start();
    let gate = env.gate();
    // Its own id is known to the attacker only once it runs: paths come with a second job.
    let victim = env
        .spawn_jobctl("user-a", &["run", "--", "sh", "-c", &format!("echo up; {}", gate.wait())]);
    victim.wait_for_stdout("up");
    let id = env.jobctl("user-a", &["ps", "-q"]).id();
    let cgroup = env.cgroup().job(&id);
    let mut paths = vec![env.path("state"), env.path("state/jobs"), env.job_dir(&id)];
    for file in ["spec.json", "spawn.json", "stdout.log", "stderr.log", "output.idx", "exit"] {
        paths.push(env.job_dir(&id).join(file));
    }
    paths.extend([env.path("run"), env.path("run").join(&id)]);
    paths.extend([env.path("pki/server.key"), env.path("pki/ca.key"), env.path("pki")]);
    paths.extend([env.cgroup().path().to_owned(), cgroup.clone()]);
    for file in ["cgroup.procs", "cgroup.kill", "work/cgroup.procs", "work/cgroup.kill", "shim"] {
        paths.push(cgroup.join(file));
    }
    // Without namespaces, which would hide what has to be protected without them, too.
    let args = ["run", "--isolation=host", "--", "sh", "-c", ATTACK, "attack"];
    let mut args: Vec<String> = args.map(Into::into).into();
    args.extend(paths.iter().map(|path| path.display().to_string()));
    let ran = env.jobctl("user-a", &args);
    assert_eq!((ran.code(), ran.out()), (0, "end\n".into()), "{}", ran.err());
    gate.open();
    victim.finish().expect(0);
}

/// PTRACE_ATTACH by hand: perl is on every Debian, gdb is not.
#[test]
fn a_job_cannot_trace_its_shim() {
    let env = Env::start();
    // x86-64: ptrace is 101, PTRACE_ATTACH 16. Its own child proves that the call itself works.
    let text = "my $c = fork; if (!$c) { sleep 1000 } \
        my $own = syscall(101, 16, $c, 0, 0); my $shim = syscall(101, 16, getppid, 0, 0); \
        print \"own $own shim $shim errno \", $!+0, \"\\n\"; kill 9, $c;";
    if !cfg!(target_arch = "x86_64") {
        return host::skip("the number of ptrace is x86-64's");
    }
    if !host::has_program("perl", "-e1") {
        return;
    }
    let ran = env.jobctl("user-a", &["run", "--", "perl", "-e", text]);
    assert_eq!(ran.out(), "own 0 shim -1 errno 1\n", "{}", ran.err());
}
