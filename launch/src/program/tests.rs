use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;

fn somebody() -> Account {
    let (name, home) = ("somebody".into(), "/".into());
    Account { name, uid: 65_533, gid: 65_533, groups: vec![], home }
}

/// A directory that everybody may look into; `None` where only root could be somebody else.
fn public() -> Option<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().canonicalize().unwrap();
    nix::unistd::geteuid().is_root().then_some((dir, path))
}

fn file(path: &Path, content: &[u8], mode: u32) -> String {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn opened(directory: &Path, path: &str, argv: &[&str]) -> Result<OpenProgram, ProgramError> {
    let argv: Vec<String> = argv.iter().map(|arg| (*arg).to_owned()).collect();
    open(&argv, format!("PATH={path}").as_bytes(), directory.to_str().unwrap(), &somebody())
}

fn errno(directory: &Path, path: &str, argv: &[&str]) -> i32 {
    opened(directory, path, argv).map(drop).unwrap_err().errno()
}

/// Each question, as a line.
fn asked(program: &OpenProgram) -> Vec<String> {
    let asked = program.invocations().into_iter();
    asked
        .inspect(|one| assert_eq!(one.file, Path::new(&one.argv[0])))
        .map(|one| one.argv.join("|"))
        .collect()
}

const ELF: &[u8] = b"\x7fELF";

#[test]
fn a_program_is_found_as_execvp_finds_it_and_has_its_true_name() {
    let Some((_dir, dir)) = public() else { return };
    fs::create_dir(dir.join("bin")).unwrap();
    fs::create_dir(dir.join("make")).unwrap(); // a directory of that name is passed over
    let make = file(&dir.join("bin/make.real"), ELF, 0o755);
    symlink("make.real", dir.join("bin/make")).unwrap();
    let path = format!("/no/such:{}::bin", dir.display());
    for name in ["make", "bin/make", "./bin/../bin/make", &format!("{}/bin/make", dir.display())] {
        let program = opened(&dir, &path, &[name, "a b"]).unwrap();
        assert_eq!(asked(&program), [format!("{make}|a b")], "{name}");
        assert_eq!(program.argv(), [make.as_bytes(), b"a b"], "{name}");
        assert_eq!(program.kind(), launch::Program::Binary);
    }
    assert_eq!(errno(&dir, &path, &["absent"]), libc::ENOENT);
    assert_eq!(errno(&dir, &path, &[""]), libc::ENOENT);
    assert_eq!(errno(&dir, &dir.display().to_string(), &["make"]), libc::EACCES);
}

#[test]
fn what_was_opened_stays_what_it_is_when_its_name_is_given_to_something_else() {
    let Some((_dir, dir)) = public() else { return };
    let good = file(&dir.join("good"), b"\x7fELF good", 0o755);
    let link = dir.join("link");
    symlink(&good, &link).unwrap();
    let program = opened(&dir, "", &[link.to_str().unwrap()]).unwrap();
    file(&dir.join("evil"), b"\x7fELF evil", 0o755);
    fs::rename(dir.join("evil"), &good).unwrap();
    assert_eq!(asked(&program), [good]);
    let executed = format!("/proc/self/fd/{}", program.descriptors()[0]);
    assert_eq!(fs::read(executed).unwrap(), b"\x7fELF good");
}

#[test]
fn a_hard_link_is_judged_by_the_name_that_it_was_opened_by() {
    let Some((_dir, dir)) = public() else { return };
    let listed = file(&dir.join("listed"), ELF, 0o755);
    fs::hard_link(&listed, dir.join("other")).unwrap();
    let other = dir.join("other").to_str().unwrap().to_owned();
    assert_eq!(asked(&opened(&dir, "", &[&other]).unwrap()), [other]);
}

#[test]
fn of_a_script_the_interpreter_is_judged_too_with_its_script_as_argument() {
    let Some((_dir, dir)) = public() else { return };
    let shell = file(&dir.join("dash"), ELF, 0o755);
    symlink("dash", dir.join("sh")).unwrap();
    let sh = format!("{}/sh", dir.display());
    let script = file(&dir.join("script"), format!("#! {sh} -e u\n").as_bytes(), 0o755);
    let program = opened(&dir, "", &[&script, "x"]).unwrap();
    assert_eq!(asked(&program), [format!("{script}|x"), format!("{shell}|-e u|{script}|x")]);
    let argv: Vec<_> = program.argv().into_iter().map(|a| String::from_utf8(a).unwrap()).collect();
    assert_eq!(argv, [&sh, "-e u", SCRIPT_PATH, "x"]);
    assert_eq!((program.kind(), program.descriptors().len()), (launch::Program::Script, 2));
}

#[test]
fn a_script_whose_interpreter_cannot_be_checked_is_refused_with_the_reason() {
    let Some((_dir, dir)) = public() else { return };
    let nested = file(&dir.join("nested"), b"#!/bin/sh\n", 0o755);
    let cases = [
        ("#!sh\n".to_owned(), libc::ENOEXEC, "absolute path"),
        (format!("#!{nested}\n"), libc::ENOEXEC, "is a script itself"),
        ("#!/no/such\n".into(), libc::ENOENT, "its interpreter \"/no/such\": No such file"),
        (format!("#!{}\n", "/".repeat(300)), libc::ENOEXEC, "longer than"),
    ];
    for (text, errno, reason) in cases {
        let script = file(&dir.join("script"), text.as_bytes(), 0o755);
        let error = opened(&dir, "", &[&script]).map(drop).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.errno(), errno, "{error}");
    }
}

#[test]
fn what_its_user_may_not_read_is_never_a_script_and_what_it_may_not_execute_is_refused() {
    let Some((_dir, dir)) = public() else { return };
    let secret = file(&dir.join("secret"), b"#!/bin/sh\n", 0o711);
    // The kernel refuses a script that comes as a binary: the descriptor is close-on-exec.
    assert_eq!(opened(&dir, "", &[&secret]).unwrap().kind(), launch::Program::Binary);
    let roots = file(&dir.join("roots"), ELF, 0o700);
    assert_eq!(errno(&dir, "", &[&roots]), libc::EACCES);
    fs::create_dir(dir.join("closed")).unwrap();
    file(&dir.join("closed/x"), ELF, 0o755);
    fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o700)).unwrap();
    for name in ["closed/x", "closed/absent"] {
        assert_eq!(errno(&dir, "", &[name]), libc::EACCES, "{name}: no more is said of one");
    }
}

#[test]
fn neither_a_fifo_nor_a_device_nor_a_magic_link_is_opened() {
    let Some((_dir, dir)) = public() else { return };
    nix::unistd::mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o777)).unwrap();
    fs::set_permissions(dir.join("fifo"), Permissions::from_mode(0o777)).unwrap();
    assert_eq!(errno(&dir, "", &["./fifo"]), libc::EACCES);
    assert_eq!(errno(&dir, "", &["/dev/null"]), libc::EACCES);
    for magic in ["/proc/self/exe", "/proc/self/fd/0", "/dev/stdin"] {
        assert!([libc::ELOOP, libc::EACCES].contains(&errno(&dir, "", &[magic])), "{magic}");
    }
}

#[test]
fn a_file_that_is_gone_before_it_has_been_judged_is_no_program() {
    let Some((_dir, dir)) = public() else { return };
    let path = file(&dir.join("gone"), ELF, 0o755);
    let opened = as_user::open(&somebody(), Path::new(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let error = OpenFile::of(opened).map(drop).unwrap_err();
    assert!(error.to_string().contains("has been removed"), "{error}");
}
