//! Links that change while a job that names them starts. Each race is run for a second with each option: what must
//! never happen in it is seen by its effect.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use job_tests::{Env, Finished, scaled};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempDir;

use crate::{PROFILES, SECRET};

/// How long each race lasts.
const RACE: Duration = Duration::from_millis(700);
/// Starts in it, at least: here, and in the VM, where one takes a second.
const STARTS: (u32, u32) = (8, 3);

/// A link that leads in turn to two places.
struct Swapped {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Swapped {
    fn new(dir: &Path, one: &Path, two: &Path) -> Swapped {
        let (path, other) = (dir.join("link"), dir.join("other"));
        symlink(one, &path).unwrap();
        symlink(two, &other).unwrap();
        let (stop, swaps) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (stopped, count, link) = (Arc::clone(&stop), Arc::clone(&swaps), path.clone());
        let swap = move || {
            while !stopped.load(Ordering::Relaxed) {
                let exchange = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &link, AT_FDCWD, &other, exchange).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        };
        Swapped { path, stop, swaps, thread: Some(thread::spawn(swap)) }
    }

    /// Starts jobs meanwhile.
    fn race(&self, mut start: impl FnMut(&str)) {
        let (begin, before) = (Instant::now(), self.swaps.load(Ordering::Relaxed));
        let (mut starts, least) = (0, scaled(STARTS.0, STARTS.1));
        while starts < least || begin.elapsed() < RACE {
            start(self.path.to_str().unwrap());
            starts += 1;
        }
        let swaps = self.swaps.load(Ordering::Relaxed) - before;
        assert!(swaps >= starts, "{swaps} swaps in {starts} starts");
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A directory with a file in it, outside of `/tmp`.
fn directory(parent: &Path, name: &str, mode: u32, content: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("data"), format!("{content}\n")).unwrap();
    fs::write(path.join("program"), format!("#!/bin/sh\necho {content}\n")).unwrap();
    fs::set_permissions(path.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn outside() -> TempDir {
    let dir = tempfile::Builder::new().prefix("job-tests-").tempdir_in("/opt").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn run(env: &Env, profile: &str, options: &[String], argv: &[&str]) -> Finished {
    let all = ["run".into(), format!("--isolation={profile}"), "--user=nobody".into()];
    let words = all.into_iter().chain(options.iter().cloned()).chain(["--".into()]);
    env.jobctl("user-b", &words.chain(argv.iter().map(|word| (*word).into())).collect::<Vec<_>>())
}

#[test]
fn a_link_that_is_swapped_meanwhile_never_shows_what_its_user_may_not_read() {
    let dir = outside();
    let fine = directory(dir.path(), "fine", 0o755, "fine");
    let roots = directory(dir.path(), "roots", 0o700, SECRET);
    let anothers = directory(dir.path(), "anothers", 0o700, SECRET);
    std::os::unix::fs::chown(&anothers, Some(70_001), Some(70_001)).unwrap();
    let lists = format!("minimum = \"host\"\nread_write = [\"{}/*\"]\n", dir.path().display());
    let env = Env::builder().sections(&format!("[isolation]\n{lists}")).start();
    let mut seen = 0;
    for (n, secret) in [roots, anothers].iter().enumerate() {
        let links = dir.path().join(format!("links-{n}"));
        fs::create_dir(&links).unwrap();
        let link = Swapped::new(&links, &fine, secret);
        let options = [
            ("--read-only=LINK", ["cat", "LINK/data"]),
            ("--volume=LINK:/x:ro", ["cat", "/x/data"]),
            ("--volume=LINK/data:/x:ro", ["cat", "/x"]),
            ("--volume=LINK:/x", ["cat", "/x/data"]),
            ("--workdir=LINK", ["cat", "data"]),
            ("--time=60s", ["LINK/program", "argument"]),
        ];
        for ((option, argv), profile) in options.into_iter().zip(PROFILES.into_iter().cycle()) {
            link.race(|link| {
                let option = option.replace("LINK", link);
                let argv = argv.map(|word| word.replace("LINK", link));
                let ran = run(&env, profile, &[option], &[&argv[0], &argv[1]]);
                let said = ran.out() + &ran.err();
                assert!(!said.contains(SECRET), "{argv:?}: {said}");
                seen += u32::from(said.contains("fine\n"));
            });
        }
    }
    assert!(seen > 0, "no job has started");
    env.assert_clean();
}

#[test]
fn a_link_that_is_swapped_meanwhile_never_leads_out_of_the_operators_lists() {
    let dir = outside();
    let listed = directory(dir.path(), "listed", 0o777, "fine");
    let unlisted = directory(dir.path(), "unlisted", 0o777, SECRET);
    let links = dir.path().join("links");
    fs::create_dir(&links).unwrap();
    let link = Swapped::new(&links, &listed, &unlisted);
    let root = dir.path().display();
    let listed_only = format!("[\"{root}/listed\", \"{root}/listed/**\", \"{root}/links/**\"]");
    let sections = format!("[isolation]\nread_only = {listed_only}\nread_write = {listed_only}\n");
    let env = Env::builder().sections(&sections).start();
    let script = "cat /x/data; echo x >/x/written";
    for (how, profile) in [("ro", "strict"), ("rw", "strict"), ("rw", "private")] {
        link.race(|link| {
            let option = format!("--volume={link}:/x{}", if how == "ro" { ":ro" } else { "" });
            let ran = run(&env, profile, &[option], &["sh", "-c", script]);
            assert!(!ran.out().contains(SECRET), "{}", ran.out());
        });
    }
    assert!(listed.join("written").exists(), "the right directory was written to");
    assert!(!unlisted.join("written").exists());
    env.assert_clean();
}

#[test]
fn a_place_of_a_mount_that_is_swapped_meanwhile_is_never_made_on_the_host() {
    let dir = outside();
    let hosts = directory(dir.path(), "hosts", 0o777, "fine");
    let by_process = PathBuf::from(format!("/proc/1/root{}", hosts.display()));
    let env = Env::builder().sections("[isolation]\nminimum = \"host\"\n").start();
    for (n, target) in [&hosts, &by_process].into_iter().enumerate() {
        let links = dir.path().join(format!("links-{n}"));
        fs::create_dir(&links).unwrap();
        let link = Swapped::new(&links, Path::new("/tmp"), target);
        for (n, profile) in PROFILES.into_iter().chain(["host"]).enumerate() {
            link.race(|link| {
                let option = match n % 2 {
                    0 => format!("--tmpfs={link}/made"),
                    _ => format!("--volume=/etc/hostname:{link}/made:ro"),
                };
                run(&env, profile, &[option], &["sh", "-c", "echo x >made; echo x >/tmp/made"]);
                assert!(!hosts.join("made").exists(), "{profile}");
            });
        }
    }
    let _ = fs::remove_file("/tmp/made"); // of the profile `host`
    env.assert_clean();
}
