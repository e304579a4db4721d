//! A whole host with systemd, on which the package is installed as an operator would: for a machine
//! that is thrown away, since nothing of it is undone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::SystemTime;

use job_api::client::{self, Client, Credentials};
use job_api::v1::isolation::Profile;
use job_api::v1::job::State;
use job_api::v1::{Isolation, Job, JobSpec};

use crate::wait::{TIMEOUT, eventually, is_testbed, until};
use crate::{Programs, api, oracle};

const PKI: &str = "/etc/job-broker/pki";
const POLICY: &str = "/etc/job-broker/policy.toml";
const MARKS: &str = "/var/tmp/oracle";
const ORACLE: &str = "/usr/local/bin/oracle";
/// Between two lines of a job of [`Host::start_oracles`].
const PAUSE_MS: &str = "100";

/// Jobs that write checkable lines until a file tells them to stop.
#[derive(Debug)]
pub struct Oracles {
    ids: Vec<String>,
    /// Tells them, once it is there.
    enough: PathBuf,
}

/// This machine, with the package.
#[derive(Debug)]
pub struct Host(());

/// Packages to install, from `JOB_PACKAGES`: an older and a newer one.
///
/// # Panics
/// When the variable does not name two.
pub fn packages() -> (PathBuf, PathBuf) {
    let names = std::env::var("JOB_PACKAGES").expect("JOB_PACKAGES is set: cargo xtask test does");
    let (old, new) = names.split_once(':').expect("two packages");
    (old.into(), new.into())
}

/// Runs a command that has to succeed, and answers with what it wrote.
///
/// # Panics
/// When it does not, with what it said.
pub fn sh(script: &str) -> String {
    let Output { status, stdout, stderr } =
        Command::new("sh").args(["-c", script]).output().expect("there is a shell");
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{script}: {status}\nstdout: {out}\nstderr: {err}");
    out.trim().to_owned()
}

impl Oracles {
    /// Their ids.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }
}

/// The package lets nobody start a job that shares the host's files.
fn allow_host_isolation() {
    let role = "[[role]]\nname = \"tests\"\nidentities = [\"admin\"]\nallow = [\"start\"]\n\
                workdirs = [\"/**\"]\nenv = [\"*\"]\nrun_as = [\"*\"]\n\
                [role.isolation]\nminimum = \"host\"\n\
                [[role.program]]\npath = \"/**\"\nargs = [\"...\"]\n";
    let file = fs::OpenOptions::new().append(true).open(POLICY);
    file.and_then(|mut file| file.write_all(role.as_bytes())).expect("the package has a policy");
}

impl Host {
    /// The host as it is, with a service that somebody has installed.
    ///
    /// # Panics
    /// On a machine that somebody may want to keep.
    pub fn installed() -> Host {
        assert!(is_testbed(), "only in a machine of `cargo xtask vm`: this changes it, or ends it");
        Host(())
    }

    /// The host with the package, its certificates and a running service: made by whoever asks
    /// first, found by the others.
    pub fn ready() -> Host {
        let host = Host::installed();
        if !Path::new(PKI).join("admin.key").exists() {
            install(&packages().0);
            sh(&format!(
                "cd {PKI} && job-certs init --dir . && \
                 job-certs issue server --dir . --dns broker.example --ip 127.0.0.1 && \
                 job-certs issue user admin --dir ."
            ));
            allow_host_isolation();
            fs::copy(Programs::find().oracle, ORACLE).expect("it can be copied");
            fs::create_dir_all(MARKS).expect("a directory");
            fs::set_permissions(MARKS, fs::Permissions::from_mode(0o777)).expect("it is ours");
        }
        sh("systemctl reset-failed job-broker; systemctl start job-broker");
        host
    }

    /// A connection as an admin, to a broker that may be on its way.
    ///
    /// # Panics
    /// When it does not answer for [`TIMEOUT`].
    pub async fn client(&self) -> Client {
        let read = |name: &str| fs::read(Path::new(PKI).join(name)).expect("it was issued");
        let credentials =
            Credentials { ca: read("ca.crt"), cert: read("admin.crt"), key: read("admin.key") };
        let connect = async || client::connect("127.0.0.1:7443", &credentials).await.ok();
        eventually("the broker answers", connect).await
    }

    /// Starts so many jobs that write; a second run of one would show.
    pub async fn start_oracles(&self, count: usize) -> Oracles {
        let mut client = self.client().await;
        // Not the same after a reboot, which this directory outlives.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
        let enough = Path::new(MARKS).join(format!("enough-{}", now.as_nanos()));
        let mut ids = Vec::new();
        for _ in 0..count {
            let file = enough.to_string_lossy();
            let mut spec: JobSpec = api::spec(&[ORACLE, "until", &file, PAUSE_MS]);
            spec.env.insert("ORACLE_MARK".into(), MARKS.into());
            // Its marks are files of the host.
            let host = Isolation { profile: Profile::Host.into(), ..Isolation::default() };
            spec.isolation = Some(host);
            ids.push(api::start(&mut client, spec).await.id);
        }
        Oracles { ids, enough }
    }

    /// Lets these jobs end, and asserts that each has run once, that every byte that it has written
    /// is there, and that it has ended as it should.
    ///
    /// # Panics
    /// When one has not.
    pub async fn assert_intact(&self, jobs: &Oracles) {
        fs::write(&jobs.enough, "").expect("it is ours");
        let mut client = self.client().await;
        for id in &jobs.ids {
            let output = api::output(&mut client, id).await;
            let end = (output.job.state(), output.job.exit_code);
            assert_eq!(end, (State::Finished, Some(0)), "{:?}", output.job);
            let lines = fs::read_to_string(Path::new(MARKS).join(id)).expect("its mark");
            let lines = lines.parse().expect("how many lines it has written");
            oracle::assert_whole(&output.stdout, &output.stderr, lines);
        }
    }

    /// Asserts that the service runs, and has every one of these jobs running and in its hands.
    ///
    /// # Panics
    /// When it has not.
    pub async fn assert_running(&self, jobs: &Oracles) {
        until("the service runs", || (self.property("ActiveState") == "active").then_some(()));
        let mut client = self.client().await;
        for id in &jobs.ids {
            // A shim that does not answer in time is a warning, until it does.
            let is_in_its_hands = |job: &Job| !job.recovering && job.warnings.is_empty();
            let job = api::becomes(&mut client, id, is_in_its_hands).await;
            assert_eq!(job.state(), State::Running, "{job:?}");
        }
    }

    /// The pid of the broker, once it is another one and serves.
    pub fn broker_after(&self, pid: &str) -> String {
        until("another broker", || {
            let now = self.property("MainPID");
            let is_other = now != "0" && now != pid;
            (is_other && self.property("ActiveState") == "active").then_some(now)
        })
    }

    /// The keeper's pid, when there is one.
    pub fn keeper(&self) -> i32 {
        let file = "/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/keeper/cgroup.procs";
        until("a keeper", || fs::read_to_string(file).ok()?.trim().parse().ok())
    }

    /// A job's log as it is on the disk now.
    pub fn log(&self, id: &str) -> Vec<u8> {
        fs::read(format!("/var/lib/job-broker/jobs/{id}/stdout.log")).unwrap_or_default()
    }

    /// Answers when these jobs write.
    pub fn until_written(&self, ids: &[String]) {
        until("output", || ids.iter().all(|id| !self.log(id).is_empty()).then_some(()));
    }

    /// Goes down as an operator has it go down; the testbed boots it again. Does not return.
    ///
    /// # Panics
    /// When it goes on.
    pub fn power_off(&self) -> ! {
        // What runs us would be stopped first, and the machine with it. This way it is among the
        // last processes that systemd ends, when all its units have been stopped.
        sh("mkdir -p /run/systemd/system/testbed.service.d && \
            printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/testbed.service.d/a.conf && \
            systemctl daemon-reload && systemctl --no-block poweroff");
        sleep(TIMEOUT * 2);
        panic!("it has not gone down");
    }

    /// Cuts the power. Does not return.
    ///
    /// # Panics
    /// When it goes on.
    pub fn cut_power(&self) -> ! {
        fs::write("/proc/sysrq-trigger", "o").expect("root may");
        sleep(TIMEOUT);
        panic!("it has not gone down");
    }

    /// A property of the service, as `systemctl show` has it.
    pub fn property(&self, name: &str) -> String {
        sh(&format!("systemctl show --value -p {name} job-broker.service"))
    }
}

/// Installs a package with dpkg, whatever version is there.
///
/// # Panics
/// When dpkg fails, with what it said.
pub fn install(package: &Path) {
    let (succeeded, said) = try_install(package);
    assert!(succeeded, "{said}");
}

/// Whether that succeeds, and what is said on the way.
///
/// # Panics
/// When there is no dpkg.
pub fn try_install(package: &Path) -> (bool, String) {
    let mut dpkg = Command::new("dpkg");
    // A minimal system has no keyboard to ask about changed configuration; and no disk to wait for.
    dpkg.env("DEBIAN_FRONTEND", "noninteractive").arg("--force-confold,unsafe-io").arg("-i");
    let Output { status, stdout, stderr } = dpkg.arg(package).output().expect("there is a dpkg");
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}
