//! File systems of the host's own that are mounted in more than one place, or in thousands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use job_tests::{Env, host, scaled};
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

/// The directory of this test's mounts, when it runs in a mount namespace of its own.
const INSIDE: &str = "JOB_TESTS_MANY_MOUNTS";
/// A start on such a host, where a start takes milliseconds elsewhere; the machine may be slow.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_host_with_ten_thousand_mounts_starts_jobs_soon_and_in_views_with_no_more_of_them() {
    let Some(dir) = std::env::var_os(INSIDE).map(PathBuf::from) else {
        // Again, where this machine does not see them, and they end with it.
        let dir = tempfile::Builder::new().prefix("job-tests-").tempdir_in("/opt").unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
        again.args(["--exact", std::thread::current().name().unwrap(), "--nocapture"]);
        assert!(again.env(INSIDE, dir.path()).status().unwrap().success());
        return;
    };
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], &dir);
    for n in 0..scaled(10_000, 1_000) {
        let place = dir.join(n.to_string());
        fs::create_dir(&place).unwrap();
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&dir), &place, None::<&str>, bind, None::<&str>).unwrap();
    }
    let count = |text: &str| text.lines().count();
    let mounts = count(&fs::read_to_string("/proc/self/mountinfo").unwrap());
    let begin = Instant::now();
    let env = env();
    host::tell(&format!("{mounts} mounts: a broker is ready after {:?}", begin.elapsed()));
    for profile in PROFILES {
        let begin = Instant::now();
        let seen = count(&attack(&env, profile, "cat /proc/self/mountinfo"));
        let took = begin.elapsed();
        host::tell(&format!("{profile}: {seen} mounts, after {took:?}"));
        assert!(took < SOON, "{profile}: {took:?}");
        assert!((5..mounts + 40).contains(&seen), "{profile}: {seen}");
    }
    env.assert_clean();
}
