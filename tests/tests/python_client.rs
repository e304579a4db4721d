//! The contract from a client that was not written here: Python's grpcio, generated from `proto/`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use job_tests::{Env, target_dir};

const PACKAGES: [&str; 5] = [
    "grpcio",
    "grpcio-tools",
    "grpcio-reflection",
    "grpcio-health-checking",
    // The details of errors.
    "googleapis-common-protos",
];

fn here(path: &str) -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join(path)
}

/// Python with the packages; made once and kept in the target directory. `None`, with the reason
/// told, where Python or PyPI cannot be reached.
fn python() -> Option<PathBuf> {
    let home = target_dir().join("python-client");
    let python = home.join("bin/python");
    let imports = "import grpc, grpc_tools, grpc_reflection.v1alpha, grpc_health.v1, google.rpc";
    let works = |python: &Path| run(Command::new(python).args(["-c", imports])).is_ok();
    if works(&python) {
        return Some(python);
    }
    if job_tests::is_testbed() {
        eprintln!("skipped: the testbed has no network, and {} does not work", python.display());
        return None;
    }
    // Made beside it and renamed: a run that was cut leaves nothing that looks whole.
    let draft = tempfile::Builder::new().prefix("python-client-").tempdir_in(target_dir()).unwrap();
    let path = draft.path().join("venv");
    if let Err(why) = run(Command::new("python3").args(["-m", "venv"]).arg(&path)) {
        eprintln!("skipped: python3 -m venv does not work (apt install python3-venv): {why}");
        return None;
    }
    let mut pip = Command::new(path.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    if let Err(why) = run(&mut pip) {
        let unreachable = ["Connection", "Temporary failure", "No matching distribution"];
        assert!(unreachable.iter().any(|sign| why.contains(sign)), "pip failed: {why}");
        eprintln!("skipped: PyPI cannot be reached: {why}");
        return None;
    }
    // One that stopped working, say because the host's Python was replaced.
    let _ = fs::rename(&home, draft.path().join("old"));
    if let Err(error) = fs::rename(&path, &home) {
        assert!(works(&python), "{error}"); // somebody else was faster
    }
    Some(python)
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(output) } else { Err(said) }
}

#[test]
fn pythons_grpcio_drives_every_call_over_mutual_tls() {
    let Some(python) = python() else { return };
    let env = Env::builder().user("user-a").user("user-b").start();
    let stubs = env.path("stubs");
    fs::create_dir(&stubs).unwrap();
    let proto = here("../proto");
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto);
    for option in ["--python_out", "--grpc_python_out"] {
        generate.arg(format!("{option}={}", stubs.display()));
    }
    run(generate.arg(proto.join("job/v1/job.proto"))).unwrap();

    let mut client = Command::new("timeout");
    client.arg("300").arg(&python).arg("-B").arg(here("python/client.py"));
    client
        .env("PYTHONPATH", &stubs)
        .env("BROKER", env.addr())
        .env("PKI", env.path("pki"))
        .env("GRPC_VERBOSITY", "ERROR")
        // gRPC goes through a proxy that the environment names, to this host too.
        .env("no_proxy", "127.0.0.1");
    let output = client.output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    println!("{out}");
    assert!(out.contains("13 of 13 passed"), "{out}");
    env.assert_clean();
}
