//! A program that the broker has checked is executed by its descriptor, whatever its name means by then.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use job_shim::launch::{Launch, Program, SCRIPT_PATH};
use job_shim::wire::{Failed, Step, ToShim};
use tempfile::TempDir;

use crate::broker::{Shim, program};
use crate::host::Host;

/// A directory that everybody may look into.
fn public() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A copy of a program of the host.
fn copy(dir: &TempDir, name: &str, of: &str, mode: u32) -> PathBuf {
    let path = dir.path().join(name);
    fs::copy(of, &path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn script(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// As the broker opens what it checks.
fn open(path: &Path) -> OwnedFd {
    let flags = libc::O_PATH;
    OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap().into()
}

fn checked(argv: &[&str], what: Program) -> Launch {
    Launch { program: Some(what), ..program(argv) }
}

/// Waits for HELLO, lets `attack` change what names mean, says GO, and returns the output.
fn output_after(
    launch: &Launch,
    program: Vec<OwnedFd>,
    attack: impl FnOnce(),
) -> Option<(i32, String)> {
    let mut shim = Shim::spawn_with(Host::new()?, launch, program);
    shim.hello();
    attack();
    shim.wire.send(&ToShim::Go);
    shim.started();
    let exited = shim.exited();
    shim.ended();
    Some((exited.wait_status, shim.stdout()))
}

#[test]
fn the_file_that_was_checked_runs_though_its_name_leads_to_another() {
    let dir = public();
    let (good, evil) =
        (copy(&dir, "good", "/bin/echo", 0o755), copy(&dir, "evil", "/bin/false", 0o755));
    let link = dir.path().join("link");
    symlink(&good, &link).unwrap();
    let argv0 = link.to_str().unwrap();
    let swap_link = || {
        fs::rename(&evil, &good).unwrap();
        let other = copy(&dir, "other", "/bin/false", 0o755);
        fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
    };
    let launch = checked(&[argv0, "checked"], Program::Binary);
    let Some(ran) = output_after(&launch, vec![open(&link)], swap_link) else { return };
    assert_eq!(ran, (0, "checked\n".to_owned()));
    // The attack would have worked otherwise.
    let by_name = output_after(&program(&[argv0, "checked"]), vec![], || {});
    assert_eq!(by_name, Some((1 << 8, String::new())));
}

#[test]
fn the_script_that_was_checked_is_interpreted_though_its_name_leads_to_another() {
    let dir = public();
    let good = script(&dir, "good", "#!/bin/sh\necho checked $0 $*\nexec 5>&- 6>&-; echo on\n");
    let evil = script(&dir, "evil", "#!/bin/sh\necho evil\n");
    let shell = copy(&dir, "shell", "/bin/dash", 0o755);
    let launch = checked(&[shell.to_str().unwrap(), SCRIPT_PATH, "a", "b"], Program::Script);
    let attack = || {
        fs::rename(&evil, &good).unwrap();
        fs::copy("/bin/false", dir.path().join("x")).unwrap();
        fs::rename(dir.path().join("x"), &shell).unwrap();
    };
    let Some(ran) = output_after(&launch, vec![open(&shell), open(&good)], attack) else { return };
    assert_eq!(ran, (0, format!("checked {SCRIPT_PATH} a b\non\n")));
}

#[test]
fn nothing_takes_the_place_of_a_checked_binary_as_its_interpreter() {
    let dir = public();
    // What was a program when it was checked is a script of somebody's choice now.
    let script = script(&dir, "script", "#!/bin/sh\necho evil\n");
    let Some(host) = Host::new() else { return };
    let launch = checked(&[script.to_str().unwrap()], Program::Binary);
    let mut shim = Shim::spawn_with(host, &launch, vec![open(&script)]);
    shim.hello();
    shim.wire.send(&ToShim::Go);
    assert_eq!(shim.failed(), Failed { step: Step::Exec, errno: libc::ENOENT });
    shim.gone();
    assert_eq!(shim.stdout(), "");
}

#[test]
fn a_program_that_may_be_executed_and_not_read_runs() {
    let dir = public();
    let path = copy(&dir, "secret", "/bin/echo", 0o111);
    let launch = checked(&[path.to_str().unwrap(), "ran"], Program::Binary);
    let Some(ran) = output_after(&launch, vec![open(&path)], || {}) else { return };
    assert_eq!(ran, (0, "ran\n".to_owned()));
}

#[test]
fn a_program_that_the_user_may_not_execute_fails_at_exec_with_eacces() {
    let dir = public();
    let path = copy(&dir, "roots", "/bin/echo", 0o700);
    let Some(host) = Host::new() else { return };
    let launch = checked(&[path.to_str().unwrap()], Program::Binary);
    let mut shim = Shim::spawn_with(host, &launch, vec![open(&path)]);
    shim.hello();
    shim.wire.send(&ToShim::Go);
    assert_eq!(shim.failed(), Failed { step: Step::Exec, errno: libc::EACCES });
}

#[test]
fn without_the_descriptor_of_its_checked_program_no_job_runs() {
    for (what, given) in [(Program::Binary, 0), (Program::Script, 1)] {
        let Some(host) = Host::new() else { return };
        let given = (0..given).map(|_| File::open("/bin/echo").unwrap().into()).collect();
        let mut shim = Shim::spawn_with(host, &checked(&["/bin/echo", "ran"], what), given);
        assert_eq!(shim.failed(), Failed { step: Step::CheckedProgram, errno: libc::EBADF });
        shim.gone();
        assert_eq!(shim.stdout(), "");
    }
}

#[test]
fn a_checked_program_has_the_descriptors_of_any_other_and_its_shim_keeps_none() {
    let dir = public();
    let path = copy(&dir, "shell", "/bin/dash", 0o755);
    let text = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -c shell; exec sleep 60";
    let launch = checked(&[path.to_str().unwrap(), "-c", text], Program::Binary);
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::spawn_with(host, &launch, vec![open(&path)]);
    shim.hello();
    shim.wire.send(&ToShim::Go);
    shim.started();
    shim.watch(|progress| progress.stdout > 0);
    assert_eq!(shim.stdout(), "0\n");
    let held = fs::read_dir(format!("/proc/{}/fd", shim.process.id())).unwrap();
    let held: Vec<_> = held.map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect();
    assert!(!held.contains(&path), "{held:?}");
}
