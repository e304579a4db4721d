//! The numbers that Prometheus scrapes move by what happens, and show nobody's names.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use job_tests::host::{self, Need};
use job_tests::metrics::{self, ON_A_SOCKET, scrape, until_value};
use job_tests::{Env, next_port, until};

fn env() -> Env {
    Env::builder().sections(ON_A_SOCKET).start()
}

#[test]
fn a_start_is_counted_with_the_time_of_each_of_its_phases() {
    let env = env();
    env.jobctl("user-a", &["run", "--", "sh", "-c", "printf 12345"]).expect(0);
    let ended = "job_broker_jobs_ended_total{cause=\"exited\"}";
    until_value(&env, ended, |ended| ended == 1.0);
    let seen = scrape(&env);
    assert_eq!(seen.value("job_broker_jobs_started_total"), 1.0);
    assert_eq!(seen.value("job_broker_start_seconds_count"), 1.0);
    let mut sum = 0.0;
    for phase in metrics::PHASES {
        let sample = |of| format!("job_broker_start_phase_seconds_{of}{{phase=\"{phase}\"}}");
        assert_eq!(seen.value(&sample("count")), 1.0, "{phase}");
        sum += seen.value(&sample("sum"));
    }
    let whole = seen.value("job_broker_start_seconds_sum");
    assert!((sum - whole).abs() < 1e-6, "the phases take {sum} s, the start takes {whole} s");
    assert_eq!(seen.value("job_broker_stream_bytes_total{direction=\"out\"}"), 5.0);
}

#[test]
fn live_jobs_are_counted_by_state_and_their_shims_by_contact() {
    let env = env();
    let gate = env.gate();
    let id = env.jobctl("user-a", &["start", "--", "sh", "-c", &gate.wait()]).id();
    let paused = env.jobctl("user-a", &["start", "--", "sleep", "1000"]).id();
    env.jobctl("user-a", &["pause", &paused]).expect(0);
    let seen = scrape(&env);
    assert_eq!(seen.value("job_broker_jobs{state=\"running\"}"), 1.0);
    assert_eq!(seen.value("job_broker_jobs{state=\"paused\"}"), 1.0);
    assert_eq!(seen.value("job_broker_shims{contact=\"answering\"}"), 2.0);
    gate.open();
    env.jobctl("user-a", &["wait", &id]).expect(0);
    env.jobctl("user-a", &["stop", &paused]).expect(0);
    until_value(&env, "job_broker_jobs_kept", |kept| kept == 2.0);
    let seen = scrape(&env);
    assert_eq!(seen.value("job_broker_jobs_ended_total{cause=\"stopped\"}"), 1.0);
    assert_eq!(seen.value("job_broker_jobs{state=\"running\"}"), 0.0);
}

#[test]
fn a_refusal_is_counted_by_its_code_and_reason() {
    let env = Env::builder().sections(ON_A_SOCKET).config("max_running = 1").start();
    env.jobctl("user-a", &["start", "--", "sleep", "1000"]).expect(0);
    env.jobctl("user-a", &["start", "--", "true"]).expect(125);
    env.jobctl("user-a", &["start", "--workdir", "relative", "--", "true"]).expect(125);
    let seen = scrape(&env);
    let refused =
        |code, reason| format!("job_broker_refusals_total{{code=\"{code}\",reason=\"{reason}\"}}");
    assert!(seen.value(&refused("RESOURCE_EXHAUSTED", "MAX_RUNNING")) >= 1.0);
    assert_eq!(seen.value(&refused("INVALID_ARGUMENT", "")), 1.0);
}

#[test]
fn use_of_quotas_is_shown_as_the_highest_and_as_how_many_are_at_their_limit_without_names() {
    let quotas = "[quotas.default]\nrunning_jobs = 4\n[quotas.identity.bob]\nrunning_jobs = 1\n";
    let env = Env::builder().sections(&format!("{ON_A_SOCKET}{quotas}")).start();
    let of = |what, quota| format!("job_broker_quota_{what}{{quota=\"{quota}\"}}");
    let highest = |ratio| {
        until_value(&env, &of("use_ratio_max", "running_jobs"), |seen| seen == ratio);
        scrape(&env)
    };
    let at_limit = of("identities_at_limit", "running_jobs");
    assert_eq!(highest(0.0).value(&at_limit), 0.0);
    let start = |user| env.jobctl(user, &["start", "--", "sleep", "1000"]).id();
    start("alice");
    assert_eq!(highest(0.25).value(&at_limit), 0.0);
    let id = start("bob");
    let seen = highest(1.0);
    assert_eq!(seen.value(&at_limit), 1.0);
    assert_eq!(seen.value(&of("use_ratio_max", "memory")), 0.0, "it has no limit");
    assert!(seen.value(&of("use_ratio_max", "connections")) < 1.0);
    env.jobctl("bob", &["stop", "-t", "0", &id]).expect(0);
    assert_eq!(highest(0.25).value(&at_limit), 0.0);
}

#[test]
fn an_oom_kill_is_counted_as_a_kill_and_as_an_end() {
    if !host::has(&[Need::Memory]) {
        return;
    }
    let env = env();
    let hog = "x=$(head -c 100M /dev/zero | tr '\\0' x)";
    env.jobctl("user-a", &["run", "--memory", "20M", "--", "sh", "-c", hog]).expect(137);
    let ended = "job_broker_jobs_ended_total{cause=\"out_of_memory\"}";
    until_value(&env, ended, |ended| ended == 1.0);
    assert!(scrape(&env).value("job_broker_oom_kills_total") >= 1.0);
}

#[test]
fn a_connection_without_a_good_certificate_is_a_tls_failure_of_its_kind() {
    let env = env();
    let failed = |kind| format!("job_broker_tls_failures_total{{kind=\"{kind}\"}}");
    let mut plain = TcpStream::connect(env.addr()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    until_value(&env, &failed("protocol"), |count| count == 1.0);
    drop(TcpStream::connect(env.addr()).unwrap());
    until_value(&env, &failed("closed"), |count| count == 1.0);
    let foreign =
        job_certs::Authority::create(&env.path("foreign"), "local", job_certs::CA_VALIDITY);
    let issued = foreign.unwrap().issue_user("user-a", None, job_certs::USER_VALIDITY).unwrap();
    let mut command = env.command("user-a");
    command.env("JOBCTL_CERT", &issued.certificate).env("JOBCTL_KEY", &issued.key);
    let done = command.arg("ps").stdin(Stdio::null()).output().unwrap();
    assert!(!done.status.success());
    until_value(&env, &failed("bad_certificate"), |count| count >= 1.0);
}

#[test]
fn a_broker_after_kill_9_counts_the_jobs_that_it_has_taken_over_and_how_long_that_took() {
    let mut env = env();
    for _ in 0..3 {
        env.jobctl("user-a", &["start", "--", "sleep", "1000"]).expect(0);
    }
    env.restart_broker();
    until_value(&env, "job_broker_adoption_seconds{step=\"shims\"}", |took| took > 0.0);
    let seen = scrape(&env);
    assert_eq!(seen.value("job_broker_jobs_adopted_total"), 3.0);
    assert_eq!(seen.value("job_broker_jobs_started_total"), 0.0, "they were before");
    assert_eq!(seen.value("job_broker_shims{contact=\"answering\"}"), 3.0);
    assert!(seen.value("job_broker_adoption_seconds{step=\"live\"}") > 0.0);
}

#[test]
fn a_reload_that_fails_is_shown_until_one_succeeds() {
    let mut env = env();
    env.set_sections(&format!("{ON_A_SOCKET}[nonsense]\n"));
    env.reload_broker();
    until_value(&env, "job_broker_reload_failed", |failed| failed == 1.0);
    env.set_sections(ON_A_SOCKET);
    env.reload_broker();
    until_value(&env, "job_broker_reload_failed", |failed| failed == 0.0);
    let seen = scrape(&env);
    assert_eq!(seen.value("job_broker_reloads_total{outcome=\"failed\"}"), 1.0);
    assert_eq!(seen.value("job_broker_reloads_total{outcome=\"done\"}"), 1.0);
}

#[test]
fn certificates_and_the_process_are_shown_and_no_name_of_a_user_or_a_job() {
    let env = env();
    env.jobctl("user-a", &["run", "--name", "secret-name", "-l", "team=blue", "--", "true"])
        .expect(0);
    let answer =
        metrics::request(&env.path("metrics.sock"), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    for chosen in ["user-a", "secret-name", "team", "blue"] {
        assert!(!answer.contains(chosen), "{chosen} in {answer}");
    }
    let seen = metrics::samples(&answer);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for certificate in ["server", "client_ca"] {
        let sample = format!(
            "job_broker_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}"
        );
        assert!(seen.value(&sample) > now.as_secs_f64(), "{certificate}");
    }
    assert!(seen.value("process_resident_memory_bytes") > 1e6);
}

#[test]
fn the_end_of_the_first_revocation_list_is_shown_where_there_is_one() {
    let mut env = env();
    let sample = "job_broker_revocation_list_next_update_timestamp_seconds";
    assert_eq!(scrape(&env).value(sample), 0.0, "there is no list");
    env.pki().write_crl(job_certs::days(2), None).unwrap();
    env.set_tls(&format!("crl = [\"{}\"]\n", env.path("pki/ca.crl").display()));
    env.reload_and_wait();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let end = until_value(&env, sample, |end| end > 0.0);
    let days = (end - now.as_secs_f64()) / 86_400.0;
    assert!((1.9..2.1).contains(&days), "{days}");
}

#[test]
fn an_audit_that_cannot_be_written_is_shown_as_failing_and_behind_until_it_can() {
    let mut env = env();
    let [lag, failing] = ["job_broker_audit_lag_seconds", "job_broker_audit_failing"];
    until_value(&env, lag, |lag| lag == 0.0);
    let file = env.path("file");
    fs::write(&file, "").unwrap();
    env.set_sections(&format!("{ON_A_SOCKET}[audit]\ndir = \"{}/audit\"\n", file.display()));
    env.restart_broker();
    until_value(&env, failing, |failing| failing == 1.0);
    // The entry of the broker's own start waits.
    until_value(&env, lag, |lag| lag > 1.5);
    env.jobctl("user-a", &["start", "--", "true"]).expect(125);
    fs::remove_file(&file).unwrap();
    until_value(&env, failing, |failing| failing == 0.0);
    until_value(&env, lag, |lag| lag == 0.0);
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
}

#[test]
fn the_endpoint_answers_one_get_and_whoever_holds_connections_open_does_not_keep_others_out() {
    let env = env();
    let path = env.path("metrics.sock");
    let answer = |head: &str| metrics::request(&path, &format!("{head}\r\nHost: x\r\n\r\n"));
    assert!(answer("GET / HTTP/1.1").starts_with("HTTP/1.1 404"));
    assert!(answer("POST /metrics HTTP/1.1").starts_with("HTTP/1.1 405"));
    assert!(answer("nonsense").starts_with("HTTP/1.1 400"));
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(64 << 10));
    let mut stream = UnixStream::connect(&path).unwrap();
    let _ = stream.write_all(long.as_bytes()); // it may be closed while this writes
    drop(stream);
    let held: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(scrape(&env).value("process_open_fds") < 100.0, "it holds no more than a few");
    drop(held);
    let open = metrics::request(
        &path,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
    );
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"), "{open}");
    assert!(open.ends_with("# EOF\n"));
}

#[test]
fn the_socket_has_the_configured_mode_and_owner_and_is_made_anew_by_each_broker() {
    let more = format!("{ON_A_SOCKET}mode = 0o640\nowner = \"nobody\"\n");
    let mut env = Env::builder().sections(&more).start();
    for _ in 0..2 {
        let file = fs::metadata(env.path("metrics.sock")).unwrap();
        assert_eq!((file.permissions().mode() & 0o777, file.uid()), (0o640, 65534));
        scrape(&env);
        env.restart_broker();
    }
}

#[test]
fn an_address_that_others_could_reach_is_refused() {
    let env = Env::start();
    for listen in ["0.0.0.0:9464", "192.0.2.7:9464", "[::]:9464"] {
        let text = fs::read_to_string(env.path("broker.toml")).unwrap();
        let path = env.path("other.toml");
        fs::write(&path, format!("{text}[metrics]\nlisten = \"{listen}\"\n")).unwrap();
        let mut check = Command::new(&env.programs().broker);
        let done = check.arg("--config").arg(&path).arg("check-config").output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr) + String::from_utf8_lossy(&done.stdout);
        assert!(!done.status.success() && said.contains("must be a loopback address"), "{said}");
    }
}

/// The metrics on a port of loopback.
fn on_a_port() -> (Env, u16) {
    for _ in 0..20 {
        let port = next_port();
        let env =
            Env::builder().sections(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n")).start();
        let log = until("it says how it is with the metrics", || {
            Some(env.log()).filter(|log| log.contains("metrics are"))
        });
        if log.contains("metrics are served") {
            return (env, port);
        }
    }
    panic!("no free port was found");
}

#[test]
fn a_port_that_is_taken_costs_the_metrics_and_not_the_jobs() {
    let (_env, port) = on_a_port();
    let sections = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let other = Env::builder().sections(&sections).start();
    until("it says so", || other.log().contains("metrics are not served").then_some(()));
    other.jobctl("user-a", &["run", "--", "true"]).expect(0);
}
