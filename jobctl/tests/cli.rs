//! What `jobctl` does without a broker: usage, help, completions, contexts, unreachable hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A home of its own, and no variable of the caller's.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().expect("a temporary directory"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobctl"));
        command.args(args).env_clear().env("XDG_CONFIG_HOME", self.0.path());
        command.current_dir(self.0.path());
        command
    }

    fn jobctl(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("jobctl runs")
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("jobctl/config.toml")
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_exits_with_125_and_says_what_is_right() {
    let home = Home::new();
    for args in [
        &["no-such-command"][..],
        &[],
        &["run"],
        &["run", "--time", "soon", "true"],
        &["run", "--time", "0", "true"],
        &["run", "--stop-signal", "NOPE", "true"],
        &["run", "-l", "novalue", "true"],
        &["kill", "-s", "99", "x"],
        &["logs", "x", "--stream", "stdin"],
        &["logs", "x", "--from-offset", "5"],
        &["logs", "x", "--since", "yesterday"],
        &["run", "-e", "JOBCTL_TEST_NOT_SET", "true"],
        &["run", "--env-file", "missing", "true"],
        &["start", "-i", "true"],
        &["ps", "-o", "xml"],
        &["run", "--cpus", "0", "true"],
        &["run", "--memory", "lots", "true"],
        &["run", "--ulimit", "nofile", "true"],
        &["run", "--ulimit", "core=0", "--ulimit", "core=1", "true"],
        &["run", "--device-read-bps", "sda:5M", "true"],
        &["start", "--device-read-iops", "5", "--device-read-iops", "6", "true"],
        &["update", "x"],
        &["update", "x", "--force"],
        &["update", "x", "--ulimit", "core=0"],
        &["update", "x", "--time", "+0"],
        &["pause"],
    ] {
        let output = home.jobctl(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {}", err(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn every_command_has_help_with_examples_on_standard_output() {
    let home = Home::new();
    for command in [
        "run",
        "start",
        "ps",
        "list",
        "stats",
        "status",
        "inspect",
        "logs",
        "stream",
        "wait",
        "stop",
        "kill",
        "pause",
        "resume",
        "update",
        "rm",
        "prune",
        "info",
        "completion",
    ] {
        let output = home.jobctl(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(out(&output).contains("Examples:\n  "), "{command}");
        assert!(output.stderr.is_empty(), "{command}");
    }
}

#[test]
fn help_lists_every_exit_status() {
    let text = out(&Home::new().jobctl(&["--help"]));
    for status in ["124", "125", "126", "127", "128+N", "137", "255"] {
        assert!(text.contains(&format!("\n  {status} ")), "{status} in {text}");
    }
}

#[test]
fn missing_settings_are_named_with_flag_variable_and_command() {
    let home = Home::new();
    let output = home.command(&["ps"]).env("JOBCTL_CA", "/ca.pem").output().expect("runs");
    assert_eq!(output.status.code(), Some(125));
    let text = err(&output);
    for part in ["--addr", "JOBCTL_ADDR", "--cert", "JOBCTL_KEY", "config set-context"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("JOBCTL_CA"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_its_flag() {
    let home = Home::new();
    let args = ["ps", "--addr", "127.0.0.1:1", "--ca", "/no/ca", "--cert", "c", "--key", "k"];
    let output = home.jobctl(&args);
    assert_eq!(output.status.code(), Some(125));
    let text = err(&output);
    assert!(
        text.contains("CA certificate /no/ca: No such file") && text.contains("--ca"),
        "{text}"
    );
}

#[test]
fn contexts_are_kept_marked_and_private() {
    let home = Home::new();
    let set = |name: &str, more: &[&str]| {
        let output = home.jobctl(&[&["config", "set-context", name], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    };
    set("lab", &["--addr", "a:1", "--ca", "ca.pem"]);
    set("other", &["--addr", "b:2"]);
    set("lab", &["--key", "/k"]);
    let mode = fs::metadata(home.config()).expect("was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let entries = fs::read_dir(home.0.path().join("jobctl")).expect("a directory").count();
    assert_eq!(entries, 1, "nothing else is left behind");

    let ca = home.0.path().canonicalize().expect("exists").join("ca.pem");
    let table = out(&home.jobctl(&["config", "get-contexts"]));
    let row = table.lines().nth(1).expect("two rows").split_whitespace().collect::<Vec<_>>();
    assert_eq!(row, ["*", "lab", "a:1", &ca.to_string_lossy(), "-", "/k"]);

    assert_eq!(home.jobctl(&["config", "use-context", "other"]).status.code(), Some(0));
    let table = out(&home.jobctl(&["config", "get-contexts"]));
    assert!(table.lines().nth(2).expect("two rows").starts_with("*        other  b:2"), "{table}");
    assert_eq!(out(&home.jobctl(&["config", "get-contexts", "-q"])), "lab\nother\n");
}

#[test]
fn an_unknown_context_is_refused_with_those_that_are_known() {
    let home = Home::new();
    home.jobctl(&["config", "set-context", "lab", "--addr", "a:1"]);
    for args in [&["config", "use-context", "lub"][..], &["ps", "--context", "lub"]] {
        let output = home.jobctl(args);
        assert_eq!(output.status.code(), Some(125));
        assert!(err(&output).contains("known are: lab"), "{}", err(&output));
    }
}

#[test]
fn a_broken_configuration_is_left_alone_and_named() {
    let home = Home::new();
    fs::create_dir_all(home.0.path().join("jobctl")).expect("a directory");
    fs::write(home.config(), "contexts = 7").expect("written");
    let output = home.jobctl(&["config", "set-context", "lab", "--addr", "a:1"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(err(&output).contains("config.toml"), "{}", err(&output));
    assert_eq!(fs::read_to_string(home.config()).expect("still there"), "contexts = 7");
}

#[test]
fn completions_know_the_commands() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = home.jobctl(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(out(&output).contains("inspect"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_reason_for_words() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let child = home
        .command(&["completion", "bash"])
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .spawn()
        .expect("jobctl runs");
    let output = child.wait_with_output().expect("jobctl ends");
    assert_eq!(output.status.code(), Some(141));
    assert!(output.stderr.is_empty(), "{}", err(&output));
}

#[test]
fn version_is_one_line() {
    let text = out(&Home::new().jobctl(&["version"]));
    assert_eq!(text, concat!("jobctl ", env!("CARGO_PKG_VERSION"), "\n"));
}
