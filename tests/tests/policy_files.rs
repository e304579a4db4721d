//! Programs and working directories of a role that lists them: what is judged is what runs, and nobody learns from a
//! refusal what the host has.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use job_api::client::Client;
use job_api::v1::{CanIRequest, JobSpec};
use job_shim::crash::Point;
use job_tests::{Env, Hold, api, host};
use tonic::{Code, Status};

/// A role of `ci`, with these keys, and these programs with any arguments.
fn role(keys: &str, programs: &[&Path]) -> String {
    let program = |path: &&Path| {
        format!("[[role.program]]\npath = \"{}\"\nargs = [\"...\"]\n", path.display())
    };
    let programs: String = programs.iter().map(program).collect();
    format!(
        "[[role]]\nname = \"ci\"\nidentities = [\"ci\"]\nallow = [\"start\", \"view\", \"logs\"]\n{keys}\n{programs}"
    )
}

/// An environment and its directory for everybody, without symbolic links.
fn env() -> (Env, PathBuf) {
    let env = Env::builder().user("ci").start();
    let dir = env.shared().canonicalize().unwrap();
    (env, dir)
}

fn put_in_force(env: &mut Env, policy: &str) {
    env.set_policy(Some(policy));
    env.reload_and_wait();
}

fn copy(from: &str, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
}

/// What a job prints.
async fn ran(mut client: Client, spec: JobSpec) -> Result<String, Status> {
    let id = api::try_start(&mut client, spec).await?.id;
    Ok(String::from_utf8(api::output(&mut client, &id).await.stdout).unwrap())
}

fn spec(argv: &[&str], directory: &Path) -> JobSpec {
    JobSpec { working_directory: directory.to_str().unwrap().into(), ..api::spec(argv) }
}

/// Starts a job, and changes the host when the broker has judged it, and nothing of the job exists yet.
async fn ran_after(env: &mut Env, spec: JobSpec, attack: impl FnOnce()) -> Result<String, Status> {
    let hold = Hold::at(env, Point::JobRegistered.name());
    let ran = tokio::spawn(ran(env.client("ci").await, spec));
    hold.is_reached();
    attack();
    hold.let_go();
    ran.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_takes_the_place_of_a_checked_program_never_runs() {
    let (mut env, dir) = env();
    let (tool, link) = (dir.join("tool"), dir.join("link"));
    copy("/bin/echo", &tool);
    symlink(&tool, &link).unwrap();
    env.set_policy(Some(&role("", &[&tool])));
    let evil = |at: &Path| {
        let draft = dir.join("draft");
        fs::write(&draft, "#!/bin/sh\necho evil\n").unwrap();
        fs::set_permissions(&draft, Permissions::from_mode(0o755)).unwrap();
        fs::rename(&draft, at).unwrap();
    };
    let link = link.to_str().unwrap();
    // The link, the file, and both at once, which the role lists by their names.
    let swap = || evil(Path::new(link));
    assert_eq!(
        ran_after(&mut env, api::spec(&[link, "checked"]), swap).await.unwrap(),
        "checked\n"
    );
    let swap = || evil(&tool);
    let argv = [tool.to_str().unwrap(), "checked"];
    assert_eq!(ran_after(&mut env, api::spec(&argv), swap).await.unwrap(), "checked\n");
    // It would have run: asked anew, the file is a script, whose interpreter no role lists.
    let denied = ran(env.client("ci").await, api::spec(&argv)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    assert!(denied.message().contains("does not allow the program \"/usr/bin/dash\""), "{denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_working_directory_that_is_replaced_after_the_check_is_not_entered() {
    let (mut env, dir) = env();
    let (work, away) = (dir.join("work"), dir.join("away"));
    fs::create_dir(&work).unwrap();
    let keys = format!("workdirs = [\"{}\"]", work.display());
    env.set_policy(Some(&role(&keys, &[Path::new("/usr/bin/touch")])));
    let swap = || {
        fs::rename(&work, &away).unwrap();
        symlink(&dir, &work).unwrap();
    };
    let failed = ran_after(&mut env, spec(&["touch", "file"], &work), swap).await.unwrap_err();
    assert_eq!(api::reason(&failed), "START_FAILED");
    assert!(
        failed.message().contains("was another directory when your role was asked"),
        "{failed}"
    );
    assert!(!dir.join("file").exists() && !away.join("file").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn links_do_not_lead_out_of_the_directories_of_a_role() {
    let (mut env, dir) = env();
    let (work, own) = (dir.join("work"), dir.join("own"));
    fs::create_dir_all(work.join("sub")).unwrap();
    symlink("/usr", work.join("out")).unwrap();
    symlink("sub", work.join("in")).unwrap();
    symlink(&work, &own).unwrap();
    let at = |path: &Path| format!("\"{}\"", path.display());
    let keys = format!("workdirs = [{}, {}]", at(&own), at(&work.join("**")));
    let free = format!(
        "{}[[role]]\nname = \"free\"\nidentities = [\"free\"]\nallow = [\"start\", \"view\", \"logs\"]\n{keys}\n[[role.program]]\npath = \"/**\"\nargs = [\"...\"]\n",
        role(&keys, &[Path::new("/bin/pwd")])
    );
    put_in_force(&mut env, &free);
    for user in ["ci", "free"] {
        let client = env.client(user).await;
        let pwd = async |directory: &Path| {
            ran(client.clone(), spec(&["/bin/pwd", "-P"], directory)).await
        };
        for (directory, real) in
            [("work/sub", "work/sub"), ("work/in", "work/sub"), ("own", "work")]
        {
            let there = format!("{}\n", dir.join(real).display());
            assert_eq!(pwd(&dir.join(directory)).await.unwrap(), there, "{user} {directory}");
        }
        let denied = pwd(&work.join("out")).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{user} {denied}");
        assert!(denied.message().contains("the working directory \"/usr\", to which"), "{denied}");
        // What is not allowed as it is written is not looked up: there or not makes no difference.
        let answer = async |path: &str| {
            let denied = pwd(Path::new(path)).await.unwrap_err();
            (denied.code(), denied.message().replace(path, "PATH"))
        };
        let there = answer("/usr").await;
        assert_eq!(there.0, Code::PermissionDenied);
        for path in ["/no/such", "/root", "/etc/passwd", &format!("{}/../..", work.display())] {
            assert_eq!(answer(path).await, there, "{user} {path}");
        }
    }
    let gone = ran(env.client("ci").await, spec(&["/bin/pwd"], &work.join("gone"))).await;
    let gone = gone.unwrap_err();
    assert_eq!(api::reason(&gone), "START_FAILED");
    assert!(
        gone.message().contains("cannot enter") && gone.message().contains("No such file"),
        "{gone}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refusal_does_not_tell_which_files_there_are() {
    let (mut env, dir) = env();
    let tool = dir.join("tool");
    copy("/bin/echo", &tool);
    copy("/bin/echo", &dir.join("other"));
    fs::write(dir.join("data"), "").unwrap();
    fs::write(dir.join("script"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(dir.join("script"), Permissions::from_mode(0o755)).unwrap();
    symlink("other", dir.join("link")).unwrap();
    symlink("tool", dir.join("short")).unwrap();
    let shut = dir.join("shut");
    fs::create_dir(&shut).unwrap();
    copy("/bin/echo", &shut.join("there"));
    fs::set_permissions(&shut, Permissions::from_mode(0o700)).unwrap();
    let listed = dir.join("listed");
    put_in_force(&mut env, &role("", &[&tool, &listed]));
    let mut client = env.client("ci").await;
    let mut answer = async |name: &str| {
        let path = dir.join(name).to_str().unwrap().to_owned();
        let asked = CanIRequest {
            verb: "start".into(),
            spec: Some(api::spec(&[&path])),
            ..Default::default()
        };
        let verdict = client.can_i(asked).await.unwrap().into_inner();
        let refused = api::try_start(&mut client, api::spec(&[&path])).await.unwrap_err();
        let hidden = |text: &str| text.replace(&path, "PATH");
        let details = refused.details().len() - refused.message().len();
        let told = hidden(refused.message());
        (
            verdict.allowed,
            hidden(&verdict.reason),
            refused.code(),
            told,
            api::reason(&refused),
            details,
        )
    };
    let absent = answer("absent").await;
    assert_eq!((absent.0, absent.2), (false, Code::PermissionDenied));
    assert_eq!(absent.1, "role ci does not allow the program \"PATH\"");
    for name in ["other", "data", "script", "link", "shut", "shut/there", "shut/absent", "tool/x"] {
        assert_eq!(answer(name).await, absent, "{name}");
    }
    // Of what the role names it says all: that it is absent; and a link to it is as good as its name.
    let gone = answer("listed").await;
    assert_eq!((gone.2, &*gone.4), (Code::FailedPrecondition, "START_FAILED"));
    assert!(gone.1.contains("No such file"), "{gone:?}");
    let short = dir.join("short");
    assert_eq!(ran(client, api::spec(&[short.to_str().unwrap(), "x"])).await.unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_checked_program_that_the_kernel_cannot_load_says_what_it_lacks() {
    let (mut env, dir) = env();
    let tool = dir.join("tool");
    let mut binary = fs::read("/bin/echo").unwrap();
    let linker = b"/lib64/ld-linux";
    let Some(at) = binary.windows(linker.len()).position(|bytes| bytes == linker) else {
        return host::skip("/bin/echo names no dynamic linker of x86-64");
    };
    binary[at + 1] = b'x';
    fs::write(&tool, binary).unwrap();
    fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
    put_in_force(&mut env, &role("", &[&tool]));
    let failed = ran(env.client("ci").await, api::spec(&[tool.to_str().unwrap()])).await;
    let failed = failed.unwrap_err();
    assert_eq!(api::reason(&failed), "START_FAILED");
    for word in ["No such file", "dynamic linker", "binfmt_misc"] {
        assert!(failed.message().contains(word), "{failed}");
    }
}
