//! What an operator is told about a configuration and its certificates: before the broker starts,
//! when it starts, and when it reads them again.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use job_certs::{Authority, CA_VALIDITY, Issued, Leaf, SERVER_VALIDITY, ServerNames, days};
use job_tests::{Env, Programs, until};
use tempfile::TempDir;

/// A configuration with certificates of its own; nothing of it runs.
struct Site {
    dir: TempDir,
    authority: Authority,
}

/// What `job-broker check-config` has answered.
struct Answer {
    passes: bool,
    said: String,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("pki"), "local", CA_VALIDITY).unwrap();
        authority.issue_server(&names(), None, SERVER_VALIDITY).unwrap();
        let site = Site { dir, authority };
        fs::rename(site.file("ca.key"), site.elsewhere()).unwrap();
        site
    }

    /// Another machine, on which the authority's key is.
    fn elsewhere(&self) -> PathBuf {
        self.dir.path().join("ca.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("pki").join(name)
    }

    /// The broker's certificate is issued anew, as `change` wants it.
    fn server(&self, change: impl FnOnce(&mut Leaf)) {
        issue_server(&self.authority, &self.dir.path().join("pki"), change);
    }

    fn check(&self, more: &str) -> Answer {
        answer(self.command(more).arg("check-config"))
    }

    /// `job-broker` with this configuration.
    fn command(&self, more: &str) -> Command {
        let programs = Programs::find();
        let (dir, shim) = (self.dir.path().display(), programs.shim.display());
        let run_as = if more.contains("run_as") { "" } else { "run_as = [\"pool\"]\n" };
        let text = format!(
            "[tls]\ncert = \"{dir}/pki/server.crt\"\nkey = \"{dir}/pki/server.key\"\n\
             client_ca = \"{dir}/pki/ca.crt\"\n[jobs]\nshim = \"{shim}\"\nshim_user = \"64998\"\n\
             state_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\n{run_as}{more}\n"
        );
        let file = self.dir.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(programs.broker);
        command.arg("--config").arg(file);
        command
    }
}

impl Answer {
    #[track_caller]
    fn fails_with(&self, all: &[&str]) {
        assert!(!self.passes, "it passes: {}", self.said);
        for what in all {
            assert!(self.said.contains(what), "{what:?} is not in:\n{}", self.said);
        }
        assert_eq!(self.said.lines().count(), all.len(), "nothing else:\n{}", self.said);
    }

    #[track_caller]
    fn warns(&self, what: &str) {
        assert!(self.passes, "{}", self.said);
        let is_it = self.said.starts_with("job-broker: warning: ") && self.said.contains(what);
        assert!(is_it && self.said.lines().count() == 1, "{}", self.said);
    }
}

fn answer(command: &mut Command) -> Answer {
    let output = command.output().unwrap();
    Answer { passes: output.status.success(), said: String::from_utf8(output.stderr).unwrap() }
}

fn names() -> ServerNames {
    ServerNames { dns: vec!["localhost".into()], ips: vec![[127, 0, 0, 1].into()] }
}

fn issue_server(authority: &Authority, dir: &Path, change: impl FnOnce(&mut Leaf)) {
    let mut leaf = authority.server_leaf(&names(), SERVER_VALIDITY).unwrap();
    change(&mut leaf);
    for name in ["server.crt", "server.key"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    authority.issue(&leaf, &dir.join("server")).unwrap();
}

/// The day as certificates' dates are shown: in UTC.
fn date_of(time: SystemTime) -> String {
    let at = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut date = Command::new("date");
    date.args(["-u", "+%F", "-d", &format!("@{}", at.as_secs())]);
    String::from_utf8(date.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_sound_configuration_passes_in_silence() {
    let answer = Site::new().check("");
    assert!(answer.passes, "{}", answer.said);
    assert_eq!(answer.said, "");
}

#[test]
fn every_fault_is_said_and_not_the_first_alone() {
    let site = Site::new();
    let Issued { certificate, .. } = site.authority.issue_user("user-a", None, days(365)).unwrap();
    fs::copy(certificate, site.file("ca.crt")).unwrap(); // a leaf in the place of an authority
    site.server(|leaf| {
        leaf.not_after = SystemTime::now() - days(2);
        leaf.not_before = leaf.not_after - days(2);
        leaf.usages = vec![job_certs::Usage::Client];
        (leaf.dns, leaf.ips) = (Vec::new(), Vec::new());
    });
    site.check("run_as = [\"no-such-account\"]\npool = [9, 3]\n[retention]\ncount = 0").fails_with(
        &[
            "jobs.pool is (9, 3)",
            "retention.count must be at least 1",
            "server.crt has expired on ",
            "server.crt lacks the extended key usage serverAuth",
            "server.crt names no host",
            "ca.crt holds no CA certificate",
            "warning: tls.client_ca: ",
            "jobs.run_as: ",
        ],
    );
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_a_fault() {
    let site = Site::new();
    site.server(|leaf| leaf.not_before = SystemTime::now() + days(2));
    site.check("").fails_with(&["server.crt is not valid before 2"]);
}

#[test]
fn a_key_of_another_certificate_is_a_fault() {
    let site = Site::new();
    let other = site.authority.issue_user("user-a", None, days(1)).unwrap();
    fs::copy(other.key, site.file("server.key")).unwrap();
    site.check("").fails_with(&["server.crt and its key cannot be used"]);
}

#[test]
fn files_that_are_missing_are_all_named_with_what_makes_them() {
    let site = Site::new();
    for name in ["server.crt", "server.key", "ca.crt"] {
        fs::remove_file(site.file(name)).unwrap();
    }
    let answer = site.check("");
    answer.fails_with(&["tls.cert: ", "tls.key: ", "tls.client_ca: "]);
    assert_eq!(answer.said.matches("job-certs init").count(), 3, "{}", answer.said);
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    let site = Site::new();
    fs::set_permissions(site.file("server.key"), Permissions::from_mode(0o640)).unwrap();
    site.check("").warns("is open to others than its owner (mode 0640): chmod 600 /");
}

#[test]
fn a_key_of_the_authority_beside_the_brokers_is_a_warning() {
    let site = Site::new();
    fs::write(site.file("ca.key"), "not a key\n").unwrap();
    assert_eq!(site.check("").said, "");
    fs::rename(site.elsewhere(), site.file("ca.key")).unwrap();
    site.check("").warns("pki/ca.key lies beside it");
}

#[test]
fn nobody_as_the_default_of_all_who_may_come_is_a_warning() {
    let site = Site::new();
    site.check("run_as = [\"nobody\", \"pool\"]").warns("can signal, trace and read each other");
    assert_eq!(site.check("run_as = [\"pool\", \"nobody\"]").said, "");
}

#[test]
fn a_quota_that_cannot_hold_one_job_is_a_warning() {
    let site = Site::new();
    let quotas = |limits: &str, quotas: &str| {
        let limits = format!("[limits.default]\n{limits}\n");
        site.check(&format!("run_as = [\"pool\"]\n{limits}[quotas.default]\n{quotas}"))
    };
    let said = "quotas.default: memory is 1 GiB, and a job that says nothing of it takes 2 GiB";
    quotas("memory = \"2G\"", "memory = \"1G\"").warns(said);
    quotas("memory = \"2G\"", "pids = 100")
        .warns("pids is 100, and a job that says nothing of it has no");
    assert_eq!(quotas("memory = \"1G\"\ncpus = 2", "memory = \"1G\"\ncpus = 2.5").said, "");
    assert_eq!(quotas("memory = \"2G\"", "memory = \"max\"").said, "");
}

/// The directory is this machine's: another one takes its place for this command alone.
#[test]
fn an_account_whose_user_manager_lingers_is_a_warning() {
    const LINGERS: &str = "mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/systemd/linger && \
                           touch /var/lib/systemd/linger/daemon && exec \"$@\"";
    let site = Site::new();
    for (accounts, warns) in [("\"pool\", \"daemon\"", true), ("\"pool\", \"nobody\"", false)] {
        let broker = site.command(&format!("run_as = [{accounts}]"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", LINGERS, "sh"]).arg(broker.get_program());
        let answer = answer(command.args(broker.get_args()).arg("check-config"));
        if warns {
            answer.warns("\"daemon\" has a user manager that is always there");
        } else {
            assert!(answer.passes && answer.said.is_empty(), "{}", answer.said);
        }
    }
}

#[test]
fn an_authority_that_has_expired_beside_a_valid_one_is_a_warning_and_alone_a_fault() {
    let site = Site::new();
    let valid = fs::read_to_string(site.file("ca.crt")).unwrap();
    for (name, validity, words) in [
        ("soon", days(9), "ca.crt expires on "),
        ("over", Duration::from_secs(1), "ca.crt holds one that has expired on "),
    ] {
        let other = Authority::create(&site.dir.path().join(name), "local", validity).unwrap();
        let other = fs::read_to_string(other.certificate()).unwrap();
        fs::write(site.file("ca.crt"), format!("{valid}{other}")).unwrap();
        until("its time has come", || site.check("").said.contains(words).then_some(()));
        site.check("").warns(words);
        fs::write(site.file("ca.crt"), other).unwrap();
        if name == "over" {
            site.check("").fails_with(&["ca.crt is not valid today: it has expired on "]);
        }
    }
}

/// What a service starts inherits the variable, whatever became of its standard error.
#[test]
fn lines_have_priorities_for_the_journal_only_where_standard_error_is_the_journal() {
    let site = Site::new();
    fs::remove_file(site.file("server.key")).unwrap();
    let [journal, other] = ["journal", "other"].map(|name| site.dir.path().join(name));
    let found = File::create(&journal).unwrap().metadata().unwrap();
    let named = format!("{}:{}", found.dev(), found.ino());
    for (file, beginning) in [(journal, "<3>tls.key: "), (other, "job-broker: tls.key: ")] {
        let mut command = site.command("");
        command.arg("check-config").env("JOURNAL_STREAM", &named);
        command.stderr(File::create(&file).unwrap()).status().unwrap();
        let said = fs::read_to_string(file).unwrap();
        assert!(said.starts_with(beginning), "{said}");
    }
}

#[test]
fn an_exit_status_is_the_same_where_nobody_reads_why() {
    let site = Site::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (arguments, more, status) in [
        (&["check-config"][..], "", 0),
        (&["check-config"], "pool = [9, 3]", 1),
        (&[], "x = y", 78),
    ] {
        let mut command = site.command(more);
        let ended = command.args(arguments).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{arguments:?} {more}");
    }
}

#[test]
fn a_certificate_that_expires_soon_is_a_warning_with_its_date_also_in_the_log() {
    const AN_HOUR: Duration = Duration::from_secs(3600); // more than the test takes
    let (soon, less) = (days(10) + AN_HOUR, days(3) + AN_HOUR);
    let site = Site::new();
    let not_after = SystemTime::now() + soon;
    site.server(|leaf| leaf.not_after = not_after);
    site.check("").warns(&format!("server.crt expires on {}, in 10 days", date_of(not_after)));

    let mut env = Env::start();
    assert!(!env.log().contains("expires"), "{}", env.log());
    let until_in_10 = |leaf: &mut Leaf| leaf.not_after = SystemTime::now() + soon;
    issue_server(env.pki(), &env.path("pki"), until_in_10);
    env.restart_broker();
    until("the start's warning", || env.log().contains("in 10 days").then_some(()));
    let until_in_3 = |leaf: &mut Leaf| leaf.not_after = SystemTime::now() + less;
    issue_server(env.pki(), &env.path("pki"), until_in_3);
    env.reload_broker();
    until("the reload's warning", || env.log().contains("in 3 days").then_some(()));
}
