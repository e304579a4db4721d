//! The program as an operator meets it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory with room for an authority in `pki`.
struct Env {
    dir: TempDir,
}

impl Env {
    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn with_ca() -> Self {
        let env = Self::empty();
        env.ok(&["init", "--dir", "pki", "--trust-domain", "test.example"]);
        env
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let program = env!("CARGO_BIN_EXE_job-certs");
        Command::new(program).current_dir(&self.dir).args(args).output().unwrap()
    }

    /// Runs what must succeed; gives its stdout.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail with `code`; gives its stderr.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?} failed, and wrote to stdout");
        stderr(&output)
    }

    fn files(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The value that `show` prints for `key`.
fn fact<'a>(shown: &'a str, key: &str) -> &'a str {
    let prefix = format!("  {key:<12} ");
    shown
        .lines()
        .find_map(|line| line.strip_prefix(prefix.as_str()))
        .unwrap_or_else(|| panic!("no {key:?} in:\n{shown}"))
}

#[test]
fn the_directory_and_all_keys_are_private() {
    let env = Env::with_ca();
    env.ok(&["issue", "server", "--dir", "pki", "--dns", "localhost"]);
    env.ok(&["issue", "user", "ann", "--dir", "pki"]);
    assert_eq!(mode(&env.path("pki")), 0o700);
    for name in ["ca", "server", "ann"] {
        assert_eq!(mode(&env.path(&format!("pki/{name}.key"))), 0o600);
        // World-readable as far as the umask of this process lets it be.
        assert_eq!(mode(&env.path(&format!("pki/{name}.crt"))) & 0o600, 0o600);
    }
}

#[test]
fn an_existing_authority_is_not_overwritten() {
    let env = Env::with_ca();
    let before = (fs::read(env.path("pki/ca.crt")), fs::read(env.path("pki/ca.key")));
    let error = env.fails(1, &["init", "--dir", "pki"]);
    assert!(error.contains("pki/ca.key exists and is not overwritten"), "{error}");
    assert!(error.contains("choose another --dir"), "{error}");
    let after = (fs::read(env.path("pki/ca.crt")), fs::read(env.path("pki/ca.key")));
    assert_eq!(before.0.unwrap(), after.0.unwrap());
    assert_eq!(before.1.unwrap(), after.1.unwrap());
}

#[test]
fn an_existing_certificate_is_not_overwritten_and_no_key_is_left_behind() {
    let env = Env::with_ca();
    fs::write(env.path("pki/ann.crt"), "mine").unwrap();
    let error = env.fails(1, &["issue", "user", "ann", "--dir", "pki"]);
    assert!(error.contains("pki/ann.crt exists and is not overwritten"), "{error}");
    assert!(error.contains("--out"), "{error}");
    assert_eq!(env.files("pki"), ["ann.crt", "ca.crt", "ca.key"]);
    assert_eq!(fs::read_to_string(env.path("pki/ann.crt")).unwrap(), "mine");
}

#[test]
fn a_user_named_ca_does_not_replace_the_authority() {
    let env = Env::with_ca();
    let error = env.fails(1, &["issue", "user", "ca", "--dir", "pki"]);
    assert!(error.contains("pki/ca.key exists"), "{error}");
    env.ok(&["issue", "user", "ca", "--dir", "pki", "--out", "other"]);
    assert!(env.path("other.crt").exists() && env.path("other.key").exists());
}

#[test]
fn an_authority_that_cannot_be_made_leaves_nothing() {
    let env = Env::empty();
    let error = env.fails(1, &["init", "--dir", "no/pki"]);
    assert!(error.contains("parent directory does not exist"), "{error}");
    let error = env.fails(1, &["init", "--dir", "pki", "--trust-domain", "A B"]);
    assert!(error.contains("trust domain \"A B\" has 'A' at position 1"), "{error}");
    assert!(env.files(".").is_empty());
}

#[test]
fn a_malformed_user_name_is_refused_before_anything_is_written() {
    let env = Env::with_ca();
    let error = env.fails(1, &["issue", "user", "../ann", "--dir", "pki"]);
    assert!(error.contains("\"../ann\" has '/' at position 3"), "{error}");
    assert_eq!(env.files("pki"), ["ca.crt", "ca.key"]);
    assert!(!env.path("ann.key").exists());
}

#[test]
fn a_server_without_a_name_is_refused() {
    let env = Env::with_ca();
    let error = env.fails(1, &["issue", "server", "--dir", "pki"]);
    assert!(error.contains("--dns, --ip or both"), "{error}");
    let error = env.fails(1, &["issue", "server", "--dir", "pki", "--dns", "127.0.0.1"]);
    assert!(error.contains("give it with --ip"), "{error}");
    env.fails(2, &["issue", "server", "--dir", "pki", "--ip", "localhost"]);
}

#[test]
fn without_an_authority_the_way_to_make_one_is_told() {
    let error = Env::empty().fails(1, &["issue", "user", "ann", "--dir", "pki"]);
    assert!(error.contains("job-certs init --dir pki"), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let env = Env::with_ca();
    fs::set_permissions(env.path("pki/ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = env.fails(1, &["issue", "user", "ann", "--dir", "pki"]);
    assert!(error.contains("pki/ca.key has mode 0640"), "{error}");
}

#[test]
fn the_key_of_another_authority_is_refused() {
    let env = Env::with_ca();
    env.ok(&["init", "--dir", "other"]);
    fs::copy(env.path("other/ca.key"), env.path("pki/ca.key")).unwrap();
    let error = env.fails(1, &["issue", "user", "ann", "--dir", "pki"]);
    assert!(error.contains("key of another certificate"), "{error}");
}

#[test]
fn a_leaf_does_not_outlive_its_authority_and_this_is_said() {
    let env = Env::empty();
    env.ok(&["init", "--dir", "pki", "--days", "7"]);
    let output = env.run(&["issue", "user", "ann", "--dir", "pki"]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("not valid for 30 days"), "{}", stderr(&output));
    let (ca, ann) = (env.ok(&["show", "pki/ca.crt"]), env.ok(&["show", "pki/ann.crt"]));
    assert_eq!(fact(&ca, "valid until"), fact(&ann, "valid until"));
    let output = env.run(&["issue", "user", "bob", "--dir", "pki", "--days", "1"]);
    assert_eq!(stderr(&output), "");
}

#[test]
fn show_tells_what_a_users_certificate_is_good_for() {
    let env = Env::with_ca();
    env.ok(&["issue", "user", "ann", "--dir", "pki"]);
    let shown = env.ok(&["show", "pki/ann.crt"]);
    assert!(shown.starts_with("pki/ann.crt\n"), "{shown}");
    assert_eq!(fact(&shown, "subject"), "O=test.example, CN=ann");
    assert_eq!(fact(&shown, "issuer"), "O=test.example, CN=job-certs CA");
    assert_eq!(fact(&shown, "identity"), "job://test.example/ann");
    assert_eq!(fact(&shown, "names"), "URI job://test.example/ann");
    assert_eq!(fact(&shown, "usage"), "clientAuth");
    assert_eq!(fact(&shown, "key"), "ECDSA P-256");
    assert!(fact(&shown, "status").starts_with("valid, "), "{shown}");
}

#[test]
fn show_tells_what_a_brokers_certificate_is_good_for() {
    let env = Env::with_ca();
    let names = ["--dns", "localhost", "*.example.org", "--ip", "127.0.0.1", "--ip", "::1"];
    env.ok(&[&["issue", "server", "--dir", "pki"], &names[..]].concat());
    let shown = env.ok(&["show", "pki/server.crt"]);
    assert_eq!(fact(&shown, "subject"), "O=test.example");
    assert_eq!(fact(&shown, "names"), "DNS localhost, DNS *.example.org, IP 127.0.0.1, IP ::1");
    assert_eq!(fact(&shown, "usage"), "serverAuth");
    assert!(fact(&shown, "identity").starts_with("none"), "{shown}");
}

#[test]
fn show_goes_on_after_a_file_that_it_cannot_read_and_fails_at_the_end() {
    let env = Env::with_ca();
    let output = env.run(&["show", "absent.crt", "pki/ca.key", "pki/ca.crt"]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(fact(&stdout, "identity"), "none: the authority of job://test.example");
    let errors = stderr(&output);
    assert!(errors.contains("absent.crt") && errors.contains("private key"), "{errors}");
    assert!(!stdout.contains("PRIVATE"), "{stdout}");
}

#[test]
fn serial_numbers_are_random() {
    let env = Env::with_ca();
    let serial = |name: &str| {
        env.ok(&["issue", "user", name, "--dir", "pki"]);
        let shown = env.ok(&["show", &format!("pki/{name}.crt")]);
        let octets: Vec<String> = fact(&shown, "serial").split(':').map(str::to_owned).collect();
        // 16 octets; one more where the first bit is set; fewer only by leading zeros.
        assert!((12..=17).contains(&octets.len()), "{octets:?}");
        octets
    };
    assert_ne!(serial("ann"), serial("bob"));
}

/// What openssl says of a list.
fn crl_text(env: &Env, file: &str) -> String {
    let output = Command::new("openssl")
        .current_dir(&env.dir)
        .args(["crl", "-noout", "-text", "-CAfile", "pki/ca.crt", "-in", file])
        .output()
        .unwrap();
    assert!(stderr(&output).contains("verify OK"), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn serial(env: &Env, file: &str) -> String {
    let digits = fact(&env.ok(&["show", file]), "serial").replace(':', "").to_lowercase();
    digits.strip_prefix("00").map(str::to_owned).unwrap_or(digits)
}

#[test]
fn what_is_revoked_by_name_serial_or_file_is_on_the_list_and_stays_there() {
    let env = Env::with_ca();
    for name in ["ann", "bob", "eve"] {
        env.ok(&["issue", "user", name, "--dir", "pki"]);
    }
    env.ok(&["issue", "user", "ann", "--dir", "pki", "--out", "ann-2"]);
    let said = env.ok(&["crl", "--dir", "pki", "--days", "2"]);
    assert!(said.starts_with("pki/ca.crl: 0 revoked; the next list must be there by "), "{said}");
    assert!(crl_text(&env, "pki/ca.crl").contains("No Revoked Certificates"));
    let said = env.ok(&["revoke", "ann", "--dir", "pki", "--reason", "keyCompromise"]);
    assert_eq!(said.matches("(ann): revoked\n").count(), 2, "{said}");
    let bob = serial(&env, "pki/bob.crt");
    assert_eq!(env.ok(&["revoke", &bob, "--dir", "pki"]), format!("{bob} (bob): revoked\n"));
    env.ok(&["revoke", "pki/eve.crt", "--dir", "pki"]);
    assert!(env.ok(&["revoke", "pki/eve.crt", "--dir", "pki"]).contains("revoked before"));
    env.ok(&["crl", "--dir", "pki"]);
    let text = crl_text(&env, "pki/ca.crl");
    for file in ["pki/ann.crt", "ann-2.crt", "pki/bob.crt", "pki/eve.crt"] {
        let serial = serial(&env, file).to_uppercase();
        assert!(text.contains(&format!("Serial Number: {serial}")), "{text}");
    }
    assert_eq!(text.matches("Key Compromise").count(), 2, "{text}");
    assert!(text.contains("X509v3 CRL Number: \n                2"), "{text}");
    let listed = env.ok(&["list", "--dir", "pki"]);
    assert_eq!(listed.matches("keyCompromise").count(), 2, "{listed}");
    for nothing in ["nobody", "pki/none.crt", "abcd"] {
        let error = env.fails(1, &["revoke", nothing, "--dir", "pki"]);
        assert!(error.contains("is no file, and no name or serial number"), "{error}");
    }
    let foreign = Env::with_ca();
    foreign.ok(&["issue", "user", "ann", "--dir", "pki"]);
    fs::copy(foreign.path("pki/ann.crt"), env.path("foreign.crt")).unwrap();
    let error = env.fails(1, &["revoke", "foreign.crt", "--dir", "pki"]);
    assert!(error.contains("was not issued by the authority in pki"), "{error}");
    let error = env.fails(1, &["renew", "foreign.crt", "--dir", "pki"]);
    assert!(error.contains("was not issued by the authority in pki"), "{error}");
}

#[test]
fn a_certificate_is_renewed_with_its_names_and_its_key_and_a_revoked_one_is_not() {
    let env = Env::with_ca();
    env.ok(&[
        "issue",
        "server",
        "--dir",
        "pki",
        "--dns",
        "a.example",
        "--ip",
        "127.0.0.1",
        "--days",
        "5",
    ]);
    let (before, key) =
        (env.ok(&["show", "pki/server.crt"]), fs::read(env.path("pki/server.key")).unwrap());
    env.ok(&["renew", "pki/server.crt", "--dir", "pki"]);
    let after = env.ok(&["show", "pki/server.crt"]);
    for same in ["subject", "names", "usage", "key"] {
        assert_eq!(fact(&before, same), fact(&after, same));
    }
    assert!(
        fact(&after, "status").contains("valid, 4 days left")
            || fact(&after, "status").contains("5 days"),
        "{after}"
    );
    assert_ne!(fact(&before, "serial"), fact(&after, "serial"));
    assert_eq!(fs::read(env.path("pki/server.key")).unwrap(), key);
    let matches = |crt: &str, key: &str| {
        let public = |args: &[&str]| {
            Command::new("openssl").current_dir(&env.dir).args(args).output().unwrap().stdout
        };
        public(&["x509", "-noout", "-pubkey", "-in", crt])
            == public(&["pkey", "-pubout", "-in", key])
    };
    assert!(matches("pki/server.crt", "pki/server.key"));
    env.ok(&["renew", "pki/server.crt", "--dir", "pki", "--new-key", "--days", "9"]);
    assert_ne!(fs::read(env.path("pki/server.key")).unwrap(), key);
    assert!(matches("pki/server.crt", "pki/server.key"));
    assert_eq!(mode(&env.path("pki/server.key")), 0o600);
    env.ok(&["renew", "pki/server.crt", "--dir", "pki", "--out", "beside"]);
    assert!(env.path("beside.crt").exists() && !env.path("beside.key").exists());
    assert!(
        env.fails(1, &["renew", "pki/server.crt", "--dir", "pki", "--out", "beside"])
            .contains("exists")
    );
    env.ok(&["revoke", "beside.crt", "--dir", "pki", "--reason", "superseded"]);
    let error = env.fails(1, &["renew", "beside.crt", "--dir", "pki"]);
    assert!(error.contains("was revoked (superseded) and is not renewed"), "{error}");
    assert_eq!(env.ok(&["list", "--dir", "pki"]).matches("a.example").count(), 4);
}

#[test]
fn an_authority_that_is_older_than_its_database_works_and_a_damaged_one_is_not_overwritten() {
    let env = Env::with_ca();
    env.ok(&["issue", "user", "ann", "--dir", "pki"]);
    let database = env.path("pki/issued.jsonl");
    assert_eq!(mode(&database), 0o600);
    fs::remove_file(&database).unwrap();
    assert_eq!(env.ok(&["list", "--dir", "pki"]).lines().count(), 1);
    let ann = serial(&env, "pki/ann.crt");
    env.ok(&["renew", "pki/ann.crt", "--dir", "pki", "--out", "again"]);
    assert_eq!(env.ok(&["revoke", &ann, "--dir", "pki"]), format!("{ann}: revoked\n"));
    env.ok(&["crl", "--dir", "pki"]);
    assert!(crl_text(&env, "pki/ca.crl").contains(&ann.to_uppercase()));
    fs::write(&database, "{\"event\":\n").unwrap();
    let error = env.fails(1, &["issue", "user", "bob", "--dir", "pki"]);
    assert!(error.contains("line 1 of pki/issued.jsonl cannot be read"), "{error}");
    assert!(!env.path("pki/bob.crt").exists() && !env.path("pki/bob.key").exists());
    assert_eq!(fs::read_to_string(&database).unwrap(), "{\"event\":\n");
}
