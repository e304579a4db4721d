//! Certificates that come and go: revoked, expired, renewed, of an authority that is replaced or is somebody else's.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use job_api::client::{self, Client, Credentials};
use job_api::refusal::refusal;
use job_api::v1::job::State;
use job_api::v1::{StreamOutputRequest, StreamOutputResponse, WaitJobRequest, WhoAmIRequest};
use job_certs::{Authority, CA_VALIDITY, Leaf, Reason, days};
use job_tests::{Env, api, eventually, host, until};
use tonic::{Code, Status, Streaming};

/// From the moment that the broker can know to the end of what is live: its own bound is 5 s.
const SOON: Duration = Duration::from_secs(5);

/// A broker with a revocation list, which revokes nobody yet.
fn with_list() -> Env {
    let mut env = Env::builder().admin("admin").start();
    env.pki().write_crl(days(1), None).unwrap();
    env.set_tls(&format!("crl = [\"{}\"]\n", env.path("pki/ca.crl").display()));
    env.reload_and_wait();
    env
}

async fn who(client: &mut Client) -> Result<String, Status> {
    Ok(client.who_am_i(WhoAmIRequest {}).await?.into_inner().identity)
}

/// A stream of a job's output that has shown something, and will show no more.
async fn streams(client: &mut Client, id: &str) -> Streaming<StreamOutputResponse> {
    let request = StreamOutputRequest { id: id.into(), follow: true, ..Default::default() };
    let mut stream = client.stream_output(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    stream
}

/// Why a silent stream has ended.
async fn end_of(stream: &mut Streaming<StreamOutputResponse>) -> Status {
    let ended = tokio::time::timeout(SOON, stream.message()).await;
    ended.expect("the stream ends in time").expect_err("it ends with an error")
}

/// What TLS says to these credentials.
async fn refused(env: &Env, credentials: &Credentials) -> String {
    let ask = async || refusal(&env.addr(), credentials).await.unwrap();
    eventually("a refusal", ask).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_is_revoked_while_streaming_is_out_within_seconds_and_the_job_goes_on() {
    let env = with_list();
    let (mut client, mut other) = (env.client("user-a").await, env.client("user-b").await);
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let theirs = api::start(&mut other, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let mut their_stream = streams(&mut other, &theirs.id).await;
    let mut waiting = env.client("user-a").await;
    let id = job.id.clone();
    let wait = tokio::spawn(async move {
        let request = WaitJobRequest { id, ..Default::default() };
        waiting.wait_job(request).await.map(drop)
    });
    // One call that is answered behind it: the wait has arrived.
    who(&mut client).await.unwrap();
    let begun = Instant::now();
    env.pki().revoke("user-a", Reason::KeyCompromise).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    env.reload_broker();
    let status = end_of(&mut stream).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(
        (status.code(), api::reason(&status).as_str()),
        (Code::Unauthenticated, "CERTIFICATE_REVOKED")
    );
    let said = status.message();
    assert!(
        said.contains("the client certificate ") && said.contains(" was revoked on "),
        "{said}"
    );
    assert!(said.ends_with(": key compromise"), "{said}");
    let status = wait.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    until("the log tells it", || {
        env.log().contains("connection ended: the client certificate ").then_some(())
    });
    // Neither the old connection nor a new one is answered.
    let again = who(&mut client).await.unwrap_err();
    assert_ne!(again.code(), Code::Ok);
    let alert = refused(&env, &env.credentials("user-a")).await;
    assert!(alert.contains("CertificateRevoked"), "{alert}");
    let said = env.jobctl("user-a", &["ps"]).err();
    assert!(said.contains("your certificate is revoked"), "{said}");
    // Others notice nothing, and the job goes on.
    assert_eq!(who(&mut other).await.unwrap(), "user-b");
    assert!(tokio::time::timeout(Duration::from_millis(10), their_stream.message()).await.is_err());
    let mut admin = env.client("admin").await;
    assert_eq!(api::job(&mut admin, &job.id).await.state(), State::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_that_expires_ends_its_stream_at_its_second() {
    let env = Env::start();
    let leaf = env.pki().user_leaf("user-a", days(1)).unwrap();
    let now = SystemTime::now();
    let leaf = Leaf { not_after: now + Duration::from_secs(4), ..leaf };
    let credentials = env.signed(env.pki(), &leaf);
    let mut client = client::connect(&env.addr(), &credentials).await.unwrap();
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let status = tokio::time::timeout(2 * SOON, stream.message()).await.unwrap().unwrap_err();
    assert!(SystemTime::now() > leaf.not_after, "not before its end");
    assert_eq!(api::reason(&status), "CERTIFICATE_EXPIRED", "{status}");
    assert!(status.message().contains("has expired: it is valid until"), "{status}");
    let alert = refused(&env, &credentials).await;
    assert!(alert.contains("CertificateExpired"), "{alert}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authority_is_replaced_while_a_stream_goes_on_and_the_old_one_ends_when_it_is_removed() {
    let env = Env::start();
    let ca = env.path("pki/ca.crt");
    let old = fs::read(&ca).unwrap();
    let mut client = env.client("user-a").await;
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    // Of the same name, as job-certs makes it.
    let new = Authority::create(&env.path("pki-2"), "local", CA_VALIDITY).unwrap();
    let user = env.signed(&new, &new.user_leaf("user-a", days(1)).unwrap());
    let alert = refused(&env, &user).await;
    assert!(alert.contains("alert"), "{alert}");
    let added = fs::read(new.certificate()).unwrap();
    fs::write(&ca, [old.clone(), added.clone()].concat()).unwrap();
    env.reload_and_wait();
    let mut renewed = client::connect(&env.addr(), &user).await.unwrap();
    assert_eq!(who(&mut renewed).await.unwrap(), "user-a");
    assert_eq!(who(&mut client).await.unwrap(), "user-a");
    fs::write(&ca, &added).unwrap();
    env.reload_broker();
    let status = end_of(&mut stream).await;
    assert_eq!(api::reason(&status), "AUTHORITY_NOT_TRUSTED", "{status}");
    assert_eq!(who(&mut renewed).await.unwrap(), "user-a");
    fs::write(&ca, &old).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn at_the_end_of_an_authority_its_streams_end_and_nobody_of_it_connects() {
    let env = Env::start();
    let short = Authority::create(&env.path("short"), "local", Duration::from_secs(5)).unwrap();
    let ca = env.path("pki/ca.crt");
    let both = [fs::read(&ca).unwrap(), fs::read(short.certificate()).unwrap()].concat();
    fs::write(&ca, both).unwrap();
    env.reload_and_wait();
    // The certificate itself is good for a day.
    let leaf = env.pki().user_leaf("user-a", days(1)).unwrap();
    let credentials = env.signed(&short, &leaf);
    let mut client = client::connect(&env.addr(), &credentials).await.unwrap();
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let status = tokio::time::timeout(2 * SOON, stream.message()).await.unwrap().unwrap_err();
    assert!(SystemTime::now() > short.not_after(), "not before its end");
    assert_eq!(api::reason(&status), "AUTHORITY_EXPIRED", "{status}");
    assert!(status.message().contains("was valid until"), "{status}");
    let alert = refused(&env, &credentials).await;
    assert!(alert.contains("alert"), "{alert}");
    until("the log tells it", || {
        env.log().contains("handshake failed: the authority").then_some(())
    });
    assert_eq!(who(&mut env.client("user-b").await).await.unwrap(), "user-b");
}

/// Renames a new file over the old one, as those do who replace certificates.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn files_that_are_replaced_are_in_force_without_a_reload_and_broken_ones_are_not() {
    let env = with_list();
    let mut client = env.client("user-a").await;
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    let list = env.path("pki/ca.crl");
    let good = fs::read(&list).unwrap();
    for broken in [&b"nonsense"[..], &good[..good.len() / 2], b""] {
        replace(&list, broken);
        let told = || env.log().matches("the former ones stay in force: cannot use ").count();
        let before = told();
        until("the fault is told", || (told() > before).then_some(()));
        assert_eq!(who(&mut env.client("user-a").await).await.unwrap(), "user-a");
    }
    let info = env.jobctl("admin", &["info"]).out();
    assert!(info.contains("RELOAD FAILED:") && info.contains("ca.crl as tls.crl"), "{info}");
    env.pki().revoke("user-a", Reason::Unspecified).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    // A look every two seconds, and 5 s from then.
    let ended = tokio::time::timeout(Duration::from_secs(7), stream.message()).await;
    assert_eq!(api::reason(&ended.unwrap().unwrap_err()), "CERTIFICATE_REVOKED");
    let info = env.jobctl("admin", &["info"]).out();
    assert!(!info.contains("RELOAD FAILED"), "{info}");
    assert!(
        info.contains("(trust domain local), until ") && info.contains("; 1 revoked, list until "),
        "{info}"
    );
    assert!(!env.jobctl("user-b", &["info"]).out().contains("authority"), "for admins only");
}

/// What becomes of two jobs when the certificate that has started the first is revoked, and of one that is started
/// later with another.
async fn on_revoked(action: &str) -> (Env, [String; 3]) {
    let mut env = with_list();
    let line =
        format!("crl = [\"{}\"]\non_revoked = \"{action}\"\n", env.path("pki/ca.crl").display());
    env.set_tls(&line);
    env.reload_and_wait();
    let mut client = env.client("user-a").await;
    let own = api::start(&mut client, api::script("echo up; sleep 1000")).await.id;
    let theirs = api::start(&mut env.client("user-b").await, api::script("sleep 1000")).await.id;
    env.pki().revoke("user-a", Reason::Unspecified).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    // The list has seconds: what starts within the same one is taken for older.
    let revoked = SystemTime::now();
    until("the next second", || {
        (SystemTime::now() > revoked + Duration::from_secs(1)).then_some(())
    });
    let again = env.pki().user_leaf("user-a", days(1)).unwrap();
    let again = env.signed(env.pki(), &again);
    let mut again = client::connect(&env.addr(), &again).await.unwrap();
    let later = api::start(&mut again, api::script("sleep 1000")).await.id;
    env.reload_and_wait();
    (env, [own, theirs, later])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jobs_of_a_revoked_certificate_are_stopped_where_the_configuration_says_so() {
    let (env, [own, theirs, later]) = on_revoked("stop").await;
    let mut admin = env.client("admin").await;
    let ended = api::ended(&mut admin, &own).await;
    assert!(ended.ended_by.starts_with("revocation of "), "{}", ended.ended_by);
    for id in [theirs, later] {
        assert_eq!(api::job(&mut admin, &id).await.state(), State::Running);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn jobs_of_a_revoked_certificate_are_paused_where_the_configuration_says_so_and_may_be_resumed()
 {
    let (env, [own, theirs, later]) = on_revoked("pause").await;
    let mut admin = env.client("admin").await;
    api::becomes(&mut admin, &own, |job| job.state() == State::Paused).await;
    assert!(env.log().contains(&format!("pause job={own} by=\"revocation of ")), "{}", env.log());
    api::resume(&mut admin, &own).await.unwrap();
    env.reload_and_wait();
    for id in [own, theirs, later] {
        assert_eq!(api::job(&mut admin, &id).await.state(), State::Running);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_that_was_not_renewed_refuses_new_connections_in_words_and_ends_none() {
    let env = with_list();
    let mut client = env.client("user-a").await;
    let job = api::start(&mut client, api::script("echo up; sleep 1000")).await;
    let mut stream = streams(&mut client, &job.id).await;
    env.pki().write_crl(Duration::from_secs(1), None).unwrap();
    env.reload_and_wait();
    let words = "the revocation list of O=local, CN=job-certs CA was to be renewed by ";
    let ask = async || {
        let mut new = env.try_client("user-b").await?;
        who(&mut new).await.err().filter(|status| status.message().contains(words))
    };
    let status = eventually("the list is over", ask).await;
    assert_eq!(
        (status.code(), api::reason(&status).as_str()),
        (Code::Unauthenticated, "REVOCATION_LIST_EXPIRED")
    );
    let said = env.jobctl("user-b", &["ps"]).err();
    assert!(said.contains(words), "{said}");
    assert!(env.log().contains(&format!("no call will be answered: {words}")), "{}", env.log());
    // Who was looked at while the list was current goes on, also after another reload.
    env.reload_and_wait();
    assert_eq!(who(&mut client).await.unwrap(), "user-a");
    assert!(tokio::time::timeout(Duration::from_millis(10), stream.message()).await.is_err());
    assert!(env.log().contains("tls.crl: the revocation list of"), "{}", env.log());
    env.pki().write_crl(days(1), None).unwrap();
    env.reload_and_wait();
    assert_eq!(who(&mut env.client("user-b").await).await.unwrap(), "user-b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_alice_of_one_authority_is_not_the_alice_of_another() {
    let mut env = Env::builder().admin("admin").start();
    let partner = Authority::create(&env.path("partner"), "partner.example", CA_VALIDITY).unwrap();
    env.set_sections(&format!(
        "[[tls.authority]]\nca = \"{}\"\ntrust_domain = \"partner.example\"\nprefix = \"partner\"\n",
        partner.certificate().display()
    ));
    env.reload_and_wait();
    let ours = api::start(&mut env.client("alice").await, api::script("sleep 1000")).await;
    let leaf = partner.user_leaf("alice", days(1)).unwrap();
    let connect = async |authority: &Authority, leaf: &Leaf| {
        let credentials = env.signed(authority, leaf);
        client::connect(&env.addr(), &credentials).await.unwrap()
    };
    let mut theirs = connect(&partner, &leaf).await;
    assert_eq!(who(&mut theirs).await.unwrap(), "partner.alice");
    let request = job_api::v1::GetJobRequest { id: ours.id.clone() };
    let refused = theirs.get_job(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    // Neither authority can speak for the other, by URI or by common name, nor make an admin.
    let common = |name: &str, leaf: &Leaf| Leaf {
        uris: Vec::new(),
        common_name: Some(name.into()),
        ..leaf.clone()
    };
    let uri = |uri: &str, leaf: &Leaf| Leaf { uris: vec![uri.into()], ..leaf.clone() };
    let own = env.pki().user_leaf("alice", days(1)).unwrap();
    assert_eq!(
        who(&mut connect(&partner, &common("admin", &leaf)).await).await.unwrap(),
        "partner.admin"
    );
    for (authority, leaf) in [
        (&partner, uri("job://local/alice", &leaf)),
        (env.pki(), uri("job://partner.example/alice", &own)),
        (env.pki(), uri("job://local/partner.alice", &own)),
        (env.pki(), common("partner.alice", &own)),
    ] {
        let refused = who(&mut connect(authority, &leaf).await).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{leaf:?}");
    }
    // A configuration in which names would meet is refused.
    for (fault, lines) in [
        ("tls.authority.prefix", "trust_domain = \"partner.example\"\n"),
        (
            "tls.authority.ca",
            "trust_domain = \"third\"\nprefix = \"third\"\n[[tls.authority]]\nCA\ntrust_domain = \"partner.example\"\nprefix = \"partner\"\n",
        ),
    ] {
        let ca = format!("ca = \"{}\"", partner.certificate().display());
        env.set_sections(&format!("[[tls.authority]]\n{ca}\n{}", lines.replace("CA", &ca)));
        env.reload_and_wait();
        let log = env.log();
        let last = log.lines().rev().find(|line| line.contains("reload failed")).unwrap();
        assert!(last.contains(fault), "{last}");
        assert_eq!(who(&mut theirs).await.unwrap(), "partner.alice");
    }
}

/// Runs openssl(1) in a directory; `None` where there is none.
fn openssl(dir: &Path, args: &str) -> Option<()> {
    if !host::has_program("openssl", "version") {
        return None;
    }
    let output = Command::new("openssl").current_dir(dir).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// As step-ca lays it out: a root, an intermediate authority that signs certificates and lists, leaves with a URI and a
/// DNS name, all with RSA or P-256 keys of openssl.
fn step_like(dir: &Path) -> Option<()> {
    fs::create_dir(dir).unwrap();
    let config = "[ca]\ndefault_ca = int\n[int]\ndatabase = index.txt\ncrlnumber = crlnumber\n\
        default_md = sha256\ndefault_crl_days = 1\n[req]\ndistinguished_name = dn\n[dn]\n\
        [root]\nbasicConstraints = critical,CA:TRUE,pathlen:1\nkeyUsage = critical,keyCertSign,cRLSign\n\
        [sub]\nbasicConstraints = critical,CA:TRUE,pathlen:0\nkeyUsage = critical,keyCertSign,cRLSign\n\
        [leaf]\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = serverAuth,clientAuth\n\
        subjectAltName = URI:spiffe://mesh.example/ns/ci/sa/runner,DNS:runner.example\n";
    fs::write(dir.join("openssl.cnf"), config).unwrap();
    fs::write(dir.join("index.txt"), "").unwrap();
    fs::write(dir.join("crlnumber"), "01").unwrap();
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config openssl.cnf";
    openssl(
        dir,
        "req -x509 -newkey rsa:2048 -nodes -config openssl.cnf -extensions root -days 9 -subj /CN=Root -keyout root.key -out root.crt",
    )?;
    openssl(dir, &format!("req {ec} -subj /CN=Intermediate -keyout int.key -out int.csr"))?;
    openssl(
        dir,
        "x509 -req -in int.csr -CA root.crt -CAkey root.key -CAcreateserial -days 9 -extfile openssl.cnf -extensions sub -out int.crt",
    )?;
    openssl(dir, &format!("req {ec} -subj /CN=runner.example -keyout leaf.key -out leaf.csr"))?;
    openssl(
        dir,
        "x509 -req -in leaf.csr -CA int.crt -CAkey int.key -CAcreateserial -days 1 -extfile openssl.cnf -extensions leaf -out leaf.crt",
    )?;
    openssl(dir, "ca -config openssl.cnf -gencrl -cert int.crt -keyfile int.key -out int.crl")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_of_openssl_with_an_intermediate_authority_and_a_spiffe_id_are_identities() {
    let mut env = Env::start();
    let dir = env.path("step");
    if step_like(&dir).is_none() {
        return;
    }
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let table = |more: &str| {
        format!(
            "[[tls.authority]]\nca = \"{0}/ca.crt\"\ntrust_domain = \"mesh.example\"\nprefix = \"mesh\"\n{more}",
            dir.display()
        )
    };
    fs::write(dir.join("ca.crt"), read("root.crt")).unwrap();
    let mut credentials = Credentials {
        ca: fs::read(env.pki().certificate()).unwrap(),
        cert: [read("leaf.crt"), read("int.crt")].concat(),
        key: read("leaf.key"),
    };
    // (configuration, whether the client sends the intermediate authority's certificate, who it is)
    let list = format!("crl = [\"{}/int.crl\"]\n", dir.display());
    for (more, sends, roots, expected) in [
        ("spiffe = \"dotted\"\n".to_owned(), true, "root.crt", Ok("mesh.ns.ci.sa.runner")),
        ("spiffe = \"last\"\n".to_owned(), true, "root.crt", Ok("mesh.runner")),
        // Without `spiffe`, the common name.
        (String::new(), true, "root.crt", Ok("mesh.runner.example")),
        (format!("spiffe = \"last\"\n{list}"), false, "both", Ok("mesh.runner")),
    ] {
        let ca = if roots == "both" {
            [read("root.crt"), read("int.crt")].concat()
        } else {
            read(roots)
        };
        fs::write(dir.join("ca.crt"), ca).unwrap();
        credentials.cert =
            if sends { [read("leaf.crt"), read("int.crt")].concat() } else { read("leaf.crt") };
        env.set_sections(&table(&more));
        env.reload_and_wait();
        let mut client = client::connect(&env.addr(), &credentials).await.unwrap();
        let found = who(&mut client).await;
        assert_eq!(
            found.as_deref().map_err(ToString::to_string),
            expected.map_err(str::to_owned),
            "{more}"
        );
    }
    // A list of an authority that is not there is refused, and one that revokes the certificate ends its connection.
    let mut client = client::connect(&env.addr(), &credentials).await.unwrap();
    openssl(&dir, "ca -config openssl.cnf -revoke leaf.crt -cert int.crt -keyfile int.key");
    openssl(&dir, "ca -config openssl.cnf -gencrl -cert int.crt -keyfile int.key -out int.crl");
    env.reload_and_wait();
    let alert = refused(&env, &credentials).await;
    assert!(alert.contains("CertificateRevoked"), "{alert}");
    eventually("the connection ends", async || who(&mut client).await.err()).await;
    fs::write(dir.join("ca.crt"), read("root.crt")).unwrap();
    env.reload_and_wait();
    assert!(
        env.log().contains("it is signed by none of the authorities that it stands beside"),
        "{}",
        env.log()
    );
}

/// A connection keeps its chain: how much that is must not be the client's choice.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_chain_that_is_too_long_is_refused_and_the_log_says_so() {
    let env = Env::start();
    let mut credentials = env.credentials("user-a");
    let ca = credentials.ca.clone();
    (0..7).for_each(|_| credentials.cert.extend_from_slice(&ca));
    let mut client = client::connect(&env.addr(), &credentials).await.unwrap();
    assert_eq!(who(&mut client).await.unwrap(), "user-a");
    credentials.cert.extend_from_slice(&ca);
    let alert = refused(&env, &credentials).await;
    assert!(alert.contains("alert"), "{alert}");
    let words = "handshake failed: the client's chain has 9 certificates with ";
    until("the log tells it", || env.log().contains(words).then_some(()));
}

#[test]
fn whose_certificate_ends_soon_is_told_by_every_command_once_and_not_with_quiet() {
    let env = Env::start();
    let leaf = env.pki().user_leaf("user-a", days(3)).unwrap();
    let leaf = Leaf { not_before: leaf.not_before - days(27), ..leaf };
    let signed = env.pki().sign(&leaf).unwrap();
    let [cert, key] = ["crt", "key"].map(|kind| env.path(&format!("short.{kind}")));
    fs::write(&cert, signed.certificate_pem).unwrap();
    fs::write(&key, signed.key_pem).unwrap();
    let jobctl = |args: &[&str]| {
        let mut jobctl = env.command("user-a");
        jobctl.env("JOBCTL_CERT", &cert).env("JOBCTL_KEY", &key).args(args).output().unwrap()
    };
    let told = jobctl(&["run", "--", "echo", "hi"]);
    let said = String::from_utf8(told.stderr).unwrap();
    let words = "jobctl: warning: your certificate ends in 2 days, on 20";
    assert_eq!(said.matches(words).count(), 1, "{said}");
    assert!(said.contains("(job-certs renew ") && told.stdout == b"hi\n", "{said}");
    assert!(jobctl(&["-q", "ps"]).stderr.is_empty());
    assert!(env.jobctl("user-a", &["ps"]).err().is_empty(), "30 days are left");
}

/// Processor time of a process so far, in seconds.
fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    [11, 12].map(|n| fields[n].parse::<f64>().unwrap()).iter().sum::<f64>() / 100.0
}

/// As many connections as a broker has, each with a stream: eight identities of 512, one of which is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for docs/BENCHMARKS.md"]
async fn all_connections_are_judged_within_seconds_of_a_reload() {
    let each = std::env::var("JOB_TESTS_CONNECTIONS").map_or(510, |each| each.parse().unwrap());
    let env = with_list();
    let (mut connections, mut streams) = (Vec::new(), tokio::task::JoinSet::new());
    for n in 0..8 {
        let user = format!("user-{n}");
        let credentials = env.credentials(&user);
        let mut first = client::connect(&env.addr(), &credentials).await.unwrap();
        let job = api::start(&mut first, api::script("echo up; exec sleep 1000")).await;
        for one in 0..each {
            let connect = async || client::connect(&env.addr(), &credentials).await.ok();
            let mut client = eventually("a connection", connect).await;
            if n == 0 {
                let mut stream = self::streams(&mut client, &job.id).await;
                streams.spawn(async move { (stream.message().await.unwrap_err(), Instant::now()) });
            } else if one == 0 {
                assert_eq!(who(&mut client).await.unwrap(), user);
            }
            connections.push(client);
        }
    }
    let pid = env.broker().pid();
    let mut other = env.client("user-7").await;
    env.pki().revoke("user-0", Reason::KeyCompromise).unwrap();
    env.pki().write_crl(days(1), None).unwrap();
    let (before, begun) = (cpu_seconds(pid), Instant::now());
    env.reload_broker();
    let mut slowest = Duration::ZERO;
    let mut last = begun;
    let mut ended = 0;
    while ended < each {
        let asked = Instant::now();
        assert_eq!(who(&mut other).await.unwrap(), "user-7");
        slowest = slowest.max(asked.elapsed());
        while let Some(stream) = streams.try_join_next() {
            let (status, at) = stream.unwrap();
            assert_eq!(api::reason(&status), "CERTIFICATE_REVOKED");
            (last, ended) = (last.max(at), ended + 1);
        }
        assert!(begun.elapsed() < 4 * SOON, "{ended} have ended");
    }
    eprintln!(
        "{} connections: the last of {each} revoked ended {:?} after the reload; {:.2} s of the broker's processor \
         time; the slowest call of another meanwhile {slowest:?}",
        connections.len(),
        last - begun,
        cpu_seconds(pid) - before,
    );
    assert!(last - begun < SOON);
}
