//! What people read when something fails: jobctl's words and the broker's, as a file that a review
//! shows, `snapshots/messages.snap`. `INSTA_UPDATE=always` writes it anew.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use job_certs::{Authority, CA_VALIDITY, Leaf, USER_VALIDITY, days};
use job_tests::Env;

/// Command lines with what they wrote to standard error, and how they exited.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    /// Adds what `command` says. Paths, ports and ids differ between runs and are replaced.
    fn add(&mut self, env: &Env, shown: &str, command: &mut Command) {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let root = env.path("").display().to_string();
        let text =
            text.replace(&env.addr(), "HOST:PORT").replace(root.trim_end_matches('/'), "DIR");
        let text = without_request_ids(&without_times(text.trim_end()));
        let code = output.status.code().unwrap();
        self.0 += &format!("$ jobctl {shown}\n{text}\n[exit status {code}]\n\n");
    }

    fn user(&mut self, env: &Env, words: &[&str]) {
        let shown = words.join(" ").replace(&env.path("").display().to_string(), "DIR/");
        self.add(env, &shown, env.command("user-a").args(words));
    }
}

/// The text with `TIME` for each `2026-01-31T08:00:00Z`.
fn without_times(text: &str) -> String {
    let is_time =
        |word: &str| word.len() == 20 && word.ends_with('Z') && word[10..].starts_with('T');
    let words = text.split_inclusive([' ', '\n']);
    let replaced = words.map(|word| match word.trim_end_matches([' ', '\n', ',']) {
        time if is_time(time) => word.replace(time, "TIME"),
        _ => word.to_owned(),
    });
    replaced.collect()
}

/// The text with `UUID` for the id of each request.
fn without_request_ids(text: &str) -> String {
    let replaced = text.split_inclusive('\n').map(|line| match line.strip_prefix("request id: ") {
        Some(id) => format!("request id: UUID{}", if id.ends_with('\n') { "\n" } else { "" }),
        None => line.to_owned(),
    });
    replaced.collect()
}

/// Issues a certificate for user-a that ended yesterday.
fn expired(env: &Env) -> std::path::PathBuf {
    let leaf = env.pki().user_leaf("user-a", USER_VALIDITY).unwrap();
    let now = SystemTime::now();
    let leaf = Leaf { not_before: now - days(9), not_after: now - days(1), ..leaf };
    let out = env.path("expired");
    env.pki().issue(&leaf, &out).unwrap();
    out
}

#[test]
fn every_failure_says_what_was_wrong_and_what_to_do() {
    let env =
        Env::builder().config("max_running = 1").sections("[limits.max]\ntime = \"1h\"\n").start();
    let mut said = Transcript::default();
    connections(&env, &mut said);
    let user = |said: &mut Transcript, words: &[&str]| said.user(&env, words);

    user(&mut said, &["status", "no-such-job"]);
    user(&mut said, &["stop", "019c0f2e-4a00-7c31-9b55-6d1f2a3b4c01"]);
    user(&mut said, &["admin", "selfcheck"]);
    user(&mut said, &["run", "--user", "root", "--", "true"]);
    user(&mut said, &["run", "--name", "two words", "--workdir", "relative", "--", "true"]);
    user(&mut said, &["run", "--time", "2h", "--", "true"]);
    user(&mut said, &["run", "--time", "soon", "--", "true"]);
    user(&mut said, &["run", "--", "/no/such/program"]);
    user(&mut said, &["run", "--workdir", "/no/such/directory", "--", "true"]);
    user(&mut said, &["run", "--", "/etc/passwd"]);
    user(&mut said, &["update", "no-such-job"]);
    env.jobctl("user-a", &["start", "--name", "web", "--", "sleep", "1000"]).expect(0);
    user(&mut said, &["start", "--", "sleep", "1000"]);
    user(&mut said, &["rm", "web"]);

    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("messages", said.0));
}

/// Failures before the broker knows who calls.
fn connections(env: &Env, said: &mut Transcript) {
    said.add(
        env,
        "ps",
        Command::new(&env.programs().jobctl).env_clear().env("HOME", "/").arg("ps"),
    );
    said.user(env, &["--addr", "127.0.0.1:1", "ps"]);
    said.user(env, &["--addr", "127.0.0.1", "ps"]);
    said.user(env, &["--cert", &env.path("absent.crt").display().to_string(), "ps"]);
    let foreign = Authority::create(&env.path("foreign"), "local", CA_VALIDITY).unwrap();
    said.user(env, &["--ca", &foreign.certificate().display().to_string(), "ps"]);
    let stranger = foreign.issue_user("user-a", None, USER_VALIDITY).unwrap();
    let mut with_pair = |certificate: &Path, key: &Path| {
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        said.user(env, &["--cert", &certificate, "--key", &key, "ps"]);
    };
    with_pair(&stranger.certificate, &stranger.key);
    let expired = expired(env);
    with_pair(&expired.with_extension("crt"), &expired.with_extension("key"));
}
