//! A whole host with systemd, on which the package is installed as an operator would: for a machine
//! that is thrown away, since nothing of it is undone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use job_api::client::{self, Client, Credentials};
use job_api::v1::JobSpec;
use job_api::v1::job::State;

use crate::patience::until;
use crate::{Programs, api, oracle};

const PKI: &str = "/etc/job-broker/pki";
const MARKS: &str = "/var/tmp/oracle";
const ORACLE: &str = "/usr/local/bin/oracle";
/// Lines that a job of [`Host::start_oracles`] writes in a second.
const LINES_PER_SECOND: u64 = 25;

/// Jobs that write what can be checked.
#[derive(Debug)]
pub struct Oracles {
    ids: Vec<String>,
    /// That each of them writes to each stream.
    lines: u64,
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

impl Host {
    /// The host with the package, its certificates and a running service: made by whoever asks
    /// first, found by the others.
    pub fn ready() -> Host {
        let host = Host(());
        if !Path::new(PKI).join("admin.key").exists() {
            install(&packages().0);
            sh(&format!(
                "cd {PKI} && job-certs init --dir . && \
                 job-certs issue server --dir . --dns broker.example --ip 127.0.0.1 && \
                 job-certs issue user admin --dir ."
            ));
            fs::copy(Programs::find().oracle, ORACLE).expect("it can be copied");
            fs::create_dir_all(MARKS).expect("a directory");
            fs::set_permissions(MARKS, fs::Permissions::from_mode(0o777)).expect("it is ours");
        }
        sh("systemctl reset-failed job-broker; systemctl start job-broker");
        host
    }

    /// A connection as an admin.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub async fn client(&self) -> Client {
        let read = |name: &str| fs::read(Path::new(PKI).join(name)).expect("it was issued");
        let credentials =
            Credentials { ca: read("ca.crt"), cert: read("admin.crt"), key: read("admin.key") };
        client::connect("127.0.0.1:7443", &credentials).await.expect("the broker answers")
    }

    /// Starts so many jobs that write for so long; a second run of one would show.
    pub async fn start_oracles(&self, count: usize, seconds: u64) -> Oracles {
        let lines = LINES_PER_SECOND * seconds;
        let pause = 1000 / LINES_PER_SECOND;
        let mut client = self.client().await;
        let mut ids = Vec::new();
        for _ in 0..count {
            let mut spec: JobSpec =
                api::spec(&[ORACLE, "lines", &lines.to_string(), &pause.to_string()]);
            spec.env.insert("ORACLE_MARK".into(), MARKS.into());
            ids.push(api::start(&mut client, spec).await.id);
        }
        Oracles { ids, lines }
    }

    /// Waits for the end of these jobs, and asserts that each has run once, has written every byte
    /// and has ended as it should.
    ///
    /// # Panics
    /// When one has not.
    pub async fn assert_intact(&self, jobs: &Oracles) {
        let mut client = self.client().await;
        for id in &jobs.ids {
            let output = api::output(&mut client, id).await;
            oracle::assert_whole(&output.stdout, &output.stderr, jobs.lines);
            let end = (output.job.state(), output.job.exit_code);
            assert_eq!(end, (State::Finished, Some(0)), "{:?}", output.job);
        }
    }

    /// How many of these run now.
    pub async fn running(&self, jobs: &Oracles) -> usize {
        let mut client = self.client().await;
        let mut count = 0;
        for id in &jobs.ids {
            count += usize::from(api::job(&mut client, id).await.state() == State::Running);
        }
        count
    }

    /// The keeper's pid, when there is one.
    pub fn keeper(&self) -> i32 {
        let file = "/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/keeper/cgroup.procs";
        until("a keeper", || fs::read_to_string(file).ok()?.trim().parse().ok())
    }

    /// A property of the service, as `systemctl show` has it.
    pub fn property(&self, name: &str) -> String {
        sh(&format!("systemctl show --value -p {name} job-broker.service"))
    }
}

/// Installs a package with dpkg, whatever version is there.
pub fn install(package: &Path) {
    // A minimal system has no keyboard to ask about changed configuration.
    sh(&format!("DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i {}", package.display()));
}
