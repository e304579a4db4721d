//! File systems of the host's own that are mounted in more than one place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use job_tests::Env;
use tempfile::TempDir;

use crate::{PROFILES, SECRET, Victim, attack, env};

/// Mounts of the host as schroot(1), debootstrap(8) and the like make them: in a tree outside of `/tmp`, where jobs see
/// it. All of them go with it.
struct Tree(TempDir);

impl Tree {
    fn new() -> Tree {
        let dir = tempfile::Builder::new().prefix("job-tests-").tempdir_in("/opt").unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], dir.path());
        Tree(dir)
    }

    fn mount(&self, name: &str, words: &[&str]) -> PathBuf {
        let place = self.0.path().join(name);
        fs::create_dir(&place).unwrap();
        mount(words, &place);
        place
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.0.path()).status();
    }
}

fn mount(words: &[&str], place: &Path) {
    let mut mount = Command::new("mount");
    assert!(mount.args(words).arg(place).status().unwrap().success(), "{words:?}");
}

#[test]
fn a_second_proc_of_the_host_shows_no_job_to_another() {
    let tree = Tree::new();
    let before = tree.mount("before", &["-t", "proc", "proc"]);
    let env = env();
    let after = tree.mount("with space", &["-t", "proc", "proc"]);
    for profile in PROFILES {
        let victim = Victim::start(&env, profile);
        for proc in [&before, &after] {
            let process = proc.join(victim.pid.to_string());
            let script = format!(
                "cd '{}' && tr '\\0' '\\n' <environ; cat root/tmp/victim cwd/victim",
                process.display()
            );
            let said = attack(&env, profile, &script);
            assert!(!said.contains(SECRET), "{profile}: {script}: {said}");
            mounts_nothing(&env, profile, proc);
            mounts_nothing(&env, profile, &process);
            mounts_nothing(&env, profile, &process.join("environ"));
        }
        // What is above comes with what is below.
        mounts_nothing(&env, profile, tree.0.path());
    }
}

#[test]
fn sockets_of_run_and_cgroups_are_not_there_by_another_name() {
    let tree = Tree::new();
    let run = tree.mount("run", &["--bind", "/run"]);
    let cgroup = tree.mount("cgroup", &["-t", "cgroup2", "cgroup2"]);
    let env = env();
    for profile in PROFILES {
        let list = format!("ls -A {} {}", run.display(), cgroup.display());
        let said = attack(&env, profile, &format!("{list} 2>/dev/null | grep -v :; echo done"));
        assert_eq!(said.trim(), "done", "{profile}");
        mounts_nothing(&env, profile, &cgroup);
        mounts_nothing(&env, profile, &run);
    }
}

fn mounts_nothing(env: &Env, profile: &str, source: &Path) {
    let profile = format!("--isolation={profile}");
    let volume = format!("--volume={}:/x:ro", source.display());
    let argv = ["run", &profile, &volume, "--user=nobody", "--", "ls", "-dR", "/x"];
    let ran = env.jobctl("user-b", &argv);
    assert!(ran.code() != 0 && ran.out().is_empty(), "{}: {}", source.display(), ran.out());
}
