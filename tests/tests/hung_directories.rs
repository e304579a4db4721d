//! A directory of the jobs' views that does not answer: nobody waits for it but the jobs that need it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use job_tests::{Env, host, until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Looks of 5 s, one after the other, on a slow machine.
const SOON: Duration = Duration::from_secs(60);

/// A file system whose server never answers, as that of a network that is gone; once its server is dropped, it fails.
struct Hung {
    place: PathBuf,
    server: Option<File>,
}

impl Hung {
    /// `None` where this kernel has no FUSE.
    fn mount(place: &Path) -> Option<Hung> {
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("hung"), place, Some("fuse"), MsFlags::empty(), Some(options.as_str())).ok()?;
        Some(Hung { place: place.into(), server: Some(server) })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.server = None;
        let _ = umount2(&self.place, MntFlags::MNT_DETACH); // a test that failed has failed already
    }
}

#[test]
fn a_broker_starts_and_serves_who_does_not_need_it_and_the_rest_once_it_answers() {
    let dir = tempfile::Builder::new().prefix("job-tests-hung-").tempdir_in("/var/tmp").unwrap();
    let Some(mut hung) = Hung::mount(dir.path()) else {
        host::skip("there is no FUSE here");
        return;
    };
    let shared =
        format!("[isolation]\nminimum = \"host\"\nshared = [\"{}/cache\"]\n", dir.path().display());
    let begin = Instant::now();
    let env = Env::builder().sections(&shared).start();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let run = |profile: &str| {
        let isolation = format!("--isolation={profile}");
        env.jobctl("user-a", &["run", &isolation, "--workdir=/", "--", "echo", "ran"])
    };
    assert_eq!(run("host").expect(0).out(), "ran\n");
    for profile in ["private", "strict"] {
        let error = run(profile).err();
        assert!(error.contains("isolation.shared") && error.contains("do not answer"), "{error}");
    }
    let info = env.jobctl("user-a", &["info"]).expect(0).out();
    assert!(info.contains("do not answer"), "{info}");

    let said = env.path("said");
    let mut check = Command::new(env.programs().broker.clone())
        .arg("--config")
        .arg(env.path("broker.toml"))
        .arg("check-config")
        .stderr(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    // While the directory still hangs, and with it what looked at it: nobody waits for that.
    let status = until("check-config has ended", || check.try_wait().unwrap());
    let said = fs::read_to_string(&said).unwrap();
    assert!(status.success() && said.contains("/cache does not answer"), "{said}");

    hung.server = None; // from now on it fails at once
    until("jobs have their view", || (run("private").code() == 0).then_some(()));
    assert_eq!(run("strict").expect(0).out(), "ran\n");
    drop(hung);
    env.assert_clean();
}
