//! The real Prometheus (Debian's package) reads the metrics, and the dashboard and the alert rules of `packaging/` ask
//! for metrics that there are.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use job_tests::{Env, host, metrics, next_port, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn packaging(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/monitoring").join(name)
}

fn has(program: &str) -> bool {
    let ran = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    if ran.is_err() {
        host::skip(&format!("{program} is not installed (apt install prometheus)"));
    }
    ran.is_ok()
}

/// A broker whose metrics are on this port.
fn env() -> (Env, u16) {
    let served = || {
        let port = next_port();
        let sections = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
        let env = Env::builder().sections(&sections).start();
        let log = until("how it is with the metrics", || {
            Some(env.log()).filter(|log| log.contains("metrics are"))
        });
        log.contains("metrics are served").then_some((env, port))
    };
    (0..20).find_map(|_| served()).expect("a free port")
}

fn get(port: u16, path: &str) -> String {
    metrics::request_tcp(port, &format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n"))
}

fn run(command: &mut Command, stdin: &str) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
}

#[test]
fn promtool_finds_no_fault_in_the_metrics_and_none_in_the_rules() {
    if !has("promtool") {
        return;
    }
    let (env, port) = env();
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
    let answer = get(port, "/metrics");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    run(Command::new("promtool").args(["check", "metrics"]), body);
    run(Command::new("promtool").args(["check", "rules"]).arg(packaging("alerts.yml")), "");
}

/// Ends with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn scraping(env: &Env, broker: u16) -> (Prometheus, u16) {
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\n\
         scrape_configs:\n- job_name: job-broker\n  static_configs: [{{targets: [\"127.0.0.1:{broker}\"]}}]\n",
        packaging("alerts.yml")
    );
    let path = env.path("prometheus.yml");
    fs::write(&path, config).unwrap();
    let port = next_port();
    let log = fs::File::create(env.path("prometheus.log")).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", path.display()))
        .arg(format!("--storage.tsdb.path={}", env.path("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stderr(log);
    (Prometheus(command.spawn().unwrap()), port)
}

/// The value of an expression, once Prometheus has one.
fn query(port: u16, expression: &str) -> f64 {
    let path = format!("/api/v1/query?query={expression}");
    until(expression, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        let answer = get(port, &path);
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let answer: serde_json::Value = serde_json::from_str(body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    })
}

#[test]
fn prometheus_scrapes_the_broker_and_none_of_its_alerts_is_about_a_healthy_one() {
    if !has("prometheus") {
        return;
    }
    let (env, broker) = env();
    env.jobctl("user-a", &["run", "--", "true"]).expect(0);
    let (_prometheus, port) = scraping(&env, broker);
    assert_eq!(query(port, "up"), 1.0);
    assert_eq!(query(port, "job_broker_jobs_started_total"), 1.0);
    assert_eq!(query(port, "job_broker_start_seconds_count"), 1.0);
    assert_eq!(query(port, "count(job_broker_start_phase_seconds_bucket)"), 11.0 * 16.0);
    // All rules were evaluated without an error, and none of them is pending.
    until("all rules are evaluated", || {
        let rules = get(port, "/api/v1/rules");
        (!rules.contains("\"health\":\"unknown\"")).then_some(())
    });
    let rules = get(port, "/api/v1/rules");
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
    let alerts = get(port, "/api/v1/alerts");
    assert!(alerts.contains("\"alerts\":[]"), "{alerts}");
}

/// The names of metrics in a text of PromQL.
fn asked(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_name(c));
    let own = |word: &&str| word.starts_with("job_broker_") || word.starts_with("process_");
    let family = |word: &str| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| word.strip_suffix(end))
            .map_or(word.to_owned(), |family| format!("{family}_count"))
    };
    words.filter(own).map(family).collect()
}

#[test]
fn the_dashboard_and_the_rules_ask_for_metrics_that_there_are() {
    let mut env = Env::builder().sections(metrics::ON_A_SOCKET).start();
    env.pki().write_crl(job_certs::days(1), None).unwrap();
    env.set_tls(&format!("crl = [\"{}\"]\n", env.path("pki/ca.crl").display()));
    env.reload_and_wait();
    env.jobctl("user-a", &["start", "--workdir", "relative", "--", "true"]).expect(125);
    let there: BTreeSet<_> = metrics::scrape(&env).names().into_iter().collect();
    for (file, least) in [("dashboard.json", 15), ("alerts.yml", 12)] {
        let asked = asked(&fs::read_to_string(packaging(file)).unwrap());
        assert!(asked.len() >= least, "{file}: {asked:?}");
        let missing: Vec<_> = asked.difference(&there).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}; there are {there:?}");
    }
    let dashboard = fs::read_to_string(packaging("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}
