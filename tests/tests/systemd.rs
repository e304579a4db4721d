//! The package on a host with systemd: installed, restarted, killed, upgraded, stopped. Jobs notice
//! nothing of it, or it is on record what ended them.
//!
//! They change the machine they run on, one after the other, so they are left out unless asked for:
//! `cargo xtask test` asks in VMs with systemd 252 and 257. The end of the host is in `reboot.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use job_api::v1::isolation::Profile;
use job_api::v1::job::State;
use job_api::v1::{Cause, DeleteJobRequest, Isolation, Job, JobSpec, StartJobRequest};
use job_tests::machine::{Host, Oracles, install, packages, sh, try_install};
use job_tests::{api, is_running, small_root, until};
use serde_json::Value;

const JOBS: usize = 20;

/// Jobs that write while things are done to the host, and that must not notice any of them.
struct Life {
    host: Host,
    jobs: Oracles,
}

impl Life {
    async fn begin() -> Life {
        let host = Host::ready();
        let jobs = host.start_oracles(JOBS).await;
        Life { host, jobs }
    }

    /// Does something; afterwards all of them run, and the broker has them.
    async fn goes_on_over(&self, what: &str, deed: impl FnOnce(&Host)) {
        eprintln!("- {what}");
        deed(&self.host);
        self.host.assert_running(&self.jobs).await;
    }

    /// All of them have written everything, have ended well, and have run once.
    async fn end(self) {
        self.host.assert_intact(&self.jobs).await;
    }
}

/// FAULTS 1, 17, 18, 20; and a broker that hangs.
#[tokio::test]
#[ignore = "changes the machine"]
async fn jobs_notice_nothing_of_what_happens_to_the_broker_and_to_systemd() {
    let life = Life::begin().await;
    life.goes_on_over("restart", |host| {
        sh("systemctl restart job-broker");
        let status = host.property("StatusText");
        let all = format!("{JOBS} running when this broker started were taken over");
        assert!(status.contains(&all), "{status}");
    })
    .await;
    life.goes_on_over("kill -9", |host| {
        let pid = host.property("MainPID");
        sh("systemctl kill -s KILL job-broker");
        host.broker_after(&pid);
    })
    .await;
    life.goes_on_over("daemon-reload", |_| _ = sh("systemctl daemon-reload")).await;
    life.goes_on_over("daemon-reexec, and a restart after it", |_| {
        sh("systemctl daemon-reexec && systemctl restart job-broker");
    })
    .await;
    life.goes_on_over("stop, and start", |host| {
        sh("systemctl stop job-broker");
        assert_eq!(host.property("ActiveState"), "inactive");
        sh("systemctl start job-broker");
    })
    .await;
    life.goes_on_over("kill -9 of the keeper", |host| {
        let keeper = host.keeper();
        sh(&format!("kill -9 {keeper}"));
        until("the keeper has ended", || (!is_running(keeper)).then_some(()));
        until("another keeper", || (host.keeper() != keeper).then_some(()));
    })
    .await;
    life.goes_on_over("a broker that hangs, which the watchdog kills", hang).await;
    life.end().await;
}

/// With less patience than the unit has, which is asserted to have some.
fn hang(host: &Host) {
    assert_eq!(host.property("WatchdogUSec"), "30s");
    sh("mkdir -p /run/systemd/system/job-broker.service.d && \
        printf '[Service]\\nWatchdogSec=2s\\n' >/run/systemd/system/job-broker.service.d/t.conf && \
        systemctl daemon-reload && systemctl restart job-broker");
    // On a slow host the watchdog may have killed the one that is named, and there is none.
    let pid = until("a broker hangs", || {
        let pid = host.property("MainPID");
        let mut stop = Command::new("kill");
        let hangs = pid != "0" && stop.args(["-STOP", &pid]).status().unwrap().success();
        hangs.then_some(pid)
    });
    host.broker_after(&pid);
    sh("rm -r /run/systemd/system/job-broker.service.d && systemctl daemon-reload && \
        systemctl restart job-broker");
}

/// FAULTS 16
#[tokio::test]
#[ignore = "changes the machine"]
async fn upgrade_reinstallation_and_downgrade_restart_the_broker_and_touch_no_job() {
    let (old, new) = packages();
    let life = Life::begin().await;
    for (what, package) in [("upgrade", &new), ("reinstallation", &new), ("downgrade", &old)] {
        life.goes_on_over(what, |host| {
            let (broker, keeper) = (host.property("MainPID"), host.keeper());
            install(package);
            assert_ne!(host.property("MainPID"), broker, "the broker was restarted");
            assert_eq!(host.keeper(), keeper, "and the keeper was not");
        })
        .await;
    }
    life.end().await;
}

/// A job that the new version would not understand; and a configuration that it cannot read.
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_version_that_could_not_take_over_is_installed_and_the_former_broker_goes_on() {
    let (old, new) = packages();
    let life = Life::begin().await;
    let id = &life.jobs.ids()[0];
    let record = format!("/var/lib/job-broker/jobs/{id}/spawn.json");
    let config = "/etc/job-broker/config.toml".to_owned();
    let later = r#"{"format":2}"#;
    for (file, text, words) in [(record, later, id.as_str()), (config, "x = y", "config.toml")] {
        let sound = fs::read_to_string(&file).unwrap();
        fs::write(&file, text).unwrap();
        life.goes_on_over("an upgrade that is refused", |host| {
            let broker = host.property("MainPID");
            let (succeeded, said) = try_install(&new);
            assert!(!succeeded && said.contains(words), "{said}");
            assert!(said.contains("dpkg --configure job-broker"), "{said}");
            assert!(said.contains("a crash of the running broker"), "{said}");
            assert_eq!(host.property("MainPID"), broker);
        })
        .await;
        fs::write(&file, sound).unwrap();
        life.goes_on_over("the rest of it, once that is mended", |host| {
            let broker = host.property("MainPID");
            sh("dpkg --configure job-broker");
            assert_ne!(host.property("MainPID"), broker);
            install(&old);
        })
        .await;
    }
    life.end().await;
}

/// Operators link and mask units in the place where a removal of the package leaves its own mask.
#[tokio::test]
#[ignore = "changes the machine"]
async fn an_upgrade_is_one_whatever_an_operator_has_made_of_the_unit() {
    let (old, new) = packages();
    let host = Host::ready();
    let link = Path::new("/etc/systemd/system/job-broker.service");
    sh("mkdir -p /opt/own && cp /usr/lib/systemd/system/job-broker.service /opt/own && \
        systemctl link /opt/own/job-broker.service && systemctl restart job-broker");
    let broker = host.property("MainPID");
    install(&new);
    assert_ne!(host.property("MainPID"), broker, "the broker was restarted");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("/opt/own/job-broker.service"));

    sh("rm /etc/systemd/system/job-broker.service && systemctl daemon-reload && \
        systemctl stop job-broker && systemctl mask job-broker");
    let (succeeded, said) = try_install(&old);
    assert!(succeeded && !said.contains("job-broker is installed"), "{said}");
    assert_eq!(host.property("ActiveState"), "inactive");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("/dev/null"));
    sh("systemctl unmask job-broker");
    Host::ready().client().await;
}

/// What the unit gives the broker is there, and is the broker's alone.
#[tokio::test]
#[ignore = "changes the machine"]
async fn the_broker_has_what_its_unit_says_and_its_jobs_inherit_none_of_it() {
    let host = Host::ready();
    let broker = format!("/proc/{}", host.property("MainPID"));
    let limits = fs::read_to_string(format!("{broker}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max open files")[..2], ["524288", "524288"]);
    assert_eq!(limit("Max core file size")[..2], ["0", "0"]);
    let score = fs::read_to_string(format!("{broker}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "-500");
    let service = "/sys/fs/cgroup/system.slice/job-broker.service";
    for (file, value) in
        [("pids.max", "4096"), ("memory.high", "1073741824"), ("memory.max", "2147483648")]
    {
        assert_eq!(fs::read_to_string(format!("{service}/{file}")).unwrap().trim(), value);
    }
    let status = fs::read_to_string(format!("{broker}/status")).unwrap();
    assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    for path in ["/run/job-broker", "/var/lib/job-broker", "/etc/job-broker/pki"] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{path}");
    }

    let mut client = host.client().await;
    let script = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; umask; \
                  cat /proc/self/cgroup; env | grep -c -e NOTIFY -e WATCHDOG -e INVOCATION";
    let id = api::start(&mut client, on_the_host(script)).await.id;
    let output = api::output(&mut client, &id).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said[..4], ["1024", "524288", "0", "0022"], "{said:?}");
    let cgroup = format!("0::/jobs.slice/job-broker-jobs.scope/{id}/work");
    assert_eq!(said[4..], [&*cgroup, "0"], "{said:?}");
    for file in ["pids.max", "memory.high", "memory.max"] {
        let all = format!("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/{file}");
        assert_eq!(
            fs::read_to_string(all).unwrap().trim(),
            "max",
            "the scope has no limit: {file}"
        );
    }
}

/// With the packaged configuration, by people who have said nothing but what to run.
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_fork_bomb_a_memory_hog_and_a_disk_filler_do_not_hurt_the_host() {
    let host = Host::ready();
    let altered = sh("dpkg --verify job-broker | grep config.toml || true");
    assert_eq!(altered, "", "the configuration is the package's own");
    let broker = host.property("MainPID");
    let mut client = host.client().await;

    let bomb = api::script("bomb() { bomb | bomb & }; bomb 2>/dev/null; exec sleep 1000");
    let bomb = api::start(&mut client, bomb).await.id;
    let cgroup = format!("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/{bomb}/work");
    let read = |name: &str| fs::read_to_string(format!("{cgroup}/{name}")).unwrap();
    until("the kernel has refused a process", || {
        read("pids.events")
            .lines()
            .any(|line| line.starts_with("max ") && line != "max 0")
            .then_some(())
    });
    assert_eq!(read("pids.max").trim(), "512");
    assert_eq!(read("cpu.max").trim(), "100000 100000");
    answers(&host, &bomb).await;
    api::stop(&mut client, &bomb, Duration::ZERO).await;
    let job = api::ended(&mut client, &bomb).await;
    assert_eq!(job.cause(), Cause::Stopped, "{job:?}");

    // No end of a line comes, for which they would wait. Eight: the testbed kills a process at 256 MiB,
    // since its host has no more mappings for it.
    let hog = "for i in 1 2 3 4 5 6 7 8; do tail /dev/zero & done; wait";
    let hog = api::start(&mut client, api::script(hog)).await.id;
    let job = api::ended(&mut client, &hog).await;
    assert_eq!(job.cause(), Cause::OutOfMemory, "{job:?}");
    answers(&host, &hog).await;

    let filler = api::script("exec head -c 1200M /dev/zero");
    let filler = api::start(&mut client, filler).await.id;
    let job = api::ended(&mut client, &filler).await;
    assert_eq!((job.cause(), job.exit_code), (Cause::Exited, Some(0)), "{job:?}");
    let log = format!("/var/lib/job-broker/jobs/{filler}/stdout.log");
    assert_eq!(fs::metadata(log).unwrap().len(), 1 << 30, "the rest was dropped");
    assert_eq!(job.dropped_bytes, (1200 << 20) - (1 << 30), "{job:?}");
    answers(&host, &filler).await;
    assert_eq!(host.property("MainPID"), broker);
    client.delete_job(DeleteJobRequest { id: filler }).await.unwrap();
}

/// Somebody starts another job, which has a uid of its own.
async fn answers(host: &Host, other: &str) {
    let mut client = host.client().await;
    let id = api::start(&mut client, api::script("exec id -u")).await.id;
    let output = api::output(&mut client, &id).await;
    assert_eq!((output.job.cause(), output.job.exit_code), (Cause::Exited, Some(0)));
    let uid = String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().unwrap();
    assert!((70_000..=79_999).contains(&uid), "{uid}");
    assert_ne!(api::job(&mut client, other).await.uid, uid);
}

/// In the way that the unit and docs/OPERATING.md give, with a broker and a job that run.
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_socket_of_systemds_takes_connections_while_no_broker_runs() {
    let host = Host::ready();
    let jobs = host.start_oracles(1).await;
    let unit = fs::read_to_string("/usr/lib/systemd/system/job-broker.socket").unwrap();
    let way = unit.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();
    assert!(include_str!("../../docs/OPERATING.md").contains(way), "{way}");
    sh(way);
    assert_eq!(sh("systemctl is-enabled job-broker.socket"), "enabled");
    host.assert_running(&jobs).await;
    sh("systemctl stop job-broker");
    assert_eq!(host.property("ActiveState"), "inactive");
    host.assert_intact(&jobs).await; // which starts the broker
    assert_eq!(host.property("ActiveState"), "active");
    sh("systemctl disable --now job-broker.socket && systemctl stop job-broker");
    Host::ready().client().await;
}

/// As needrestart reads it: after an upgrade that was refused, the swap would be made by a restart.
#[tokio::test]
#[ignore = "changes the machine"]
async fn needrestart_restarts_neither_broker_nor_jobs_by_itself() {
    Host::ready();
    let evaluate = r#"our %nrconf; do "/etc/needrestart/conf.d/job-broker.conf"; die $@ if $@;
        foreach my $unit (@ARGV) {
            my @says = map { $nrconf{override_rc}{$_} } grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}};
            print "$unit @says\n";
        }"#;
    let units = ["job-broker.service", "job-broker-drain.service", "job-broker-jobs.scope"];
    let said = Command::new("perl").args(["-we", evaluate]).args(units).output().unwrap();
    let left_alone: String = units.iter().map(|unit| format!("{unit} 0\n")).collect();
    assert_eq!(String::from_utf8_lossy(&said.stdout), left_alone, "{said:?}");
}

/// FAULTS 20
#[tokio::test]
#[ignore = "changes the machine"]
async fn a_keeper_that_is_killed_when_no_job_runs_is_replaced_for_the_next_one() {
    let host = Host::ready();
    sh(&format!("kill -9 {}", host.keeper()));
    let jobs = host.start_oracles(1).await;
    host.assert_intact(&jobs).await;
}

/// FAULTS 19
#[tokio::test]
#[ignore = "changes the machine"]
async fn when_the_scope_is_stopped_every_job_ends_and_is_recorded_so() {
    let host = Host::ready();
    let jobs = host.start_oracles(JOBS).await;
    let mut client = host.client().await;
    let mut spec = api::script("trap '' TERM; echo deaf; while :; do sleep 1; done");
    spec.stop_timeout = Some(api::duration(Duration::from_secs(2)));
    let deaf = api::start(&mut client, spec).await.id;
    host.until_written(std::slice::from_ref(&deaf));
    sh("systemctl stop job-broker-jobs.scope");
    for id in jobs.ids() {
        let job = api::ended(&mut client, id).await;
        assert!(was_ended_by_the_system(&job), "{job:?}");
    }
    let job = api::ended(&mut client, &deaf).await;
    assert_eq!((job.cause(), job.signal), (Cause::Stopped, Some(9)), "{job:?}");
    assert!(was_ended_by_the_system(&job), "{job:?}");
    // And the next job gets a scope again.
    let jobs = host.start_oracles(1).await;
    host.assert_intact(&jobs).await;
}

fn was_ended_by_the_system(job: &Job) -> bool {
    job.state() == State::Finished
        && matches!(job.cause(), Cause::Stopped | Cause::Signaled)
        && job.source() == job_api::v1::Source::System
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn a_reload_takes_what_is_sound_and_keeps_what_is_not() {
    let host = Host::ready();
    let file = "/etc/job-broker/config.toml";
    let sound = fs::read_to_string(file).unwrap();
    fs::write(file, format!("{sound}\nx = y\n")).unwrap();
    let refused = Command::new("systemctl").args(["reload", "job-broker"]).status();
    assert!(!refused.unwrap().success(), "systemctl reload says that the file has a fault");
    sh("systemctl kill -s HUP --kill-whom=main job-broker");
    until("the status says so", || {
        host.property("StatusText").contains("RELOAD FAILED").then_some(())
    });
    fs::write(file, sound.replace("\npids = 512\n", "\npids = 77\n")).unwrap();
    sh("systemctl reload job-broker");
    // Not the words between the two, while it reads.
    until("the status says so", || {
        let status = host.property("StatusText");
        (status.contains("listening on") && !status.contains("RELOAD FAILED")).then_some(())
    });
    let mut client = host.client().await;
    let id = api::start(&mut client, api::script("sleep 60")).await.id;
    let max = format!("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/{id}/work/pids.max");
    assert_eq!(fs::read_to_string(max).unwrap().trim(), "77");
    api::stop(&mut client, &id, Duration::ZERO).await;
    api::ended(&mut client, &id).await;
    fs::write(file, sound).unwrap();
    sh("systemctl reload job-broker");
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn without_certificates_the_service_says_what_to_run_and_does_not_try_again() {
    let host = Host::ready();
    sh("mv /etc/job-broker/pki /etc/job-broker/away; systemctl restart job-broker || true");
    let status = host.property("StatusText");
    let state = host.property("ActiveState");
    sh("mv /etc/job-broker/away /etc/job-broker/pki");
    assert!(status.contains("job-certs init"), "{status}");
    assert_eq!(state, "failed");
    Host::ready().client().await;
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn a_removal_that_is_broken_off_in_the_middle_of_the_drain_leaves_a_broker_that_runs() {
    let host = Host::ready();
    let mut client = host.client().await;
    let mut spec = api::script("trap '' TERM; echo deaf; while :; do sleep 1; done");
    spec.stop_timeout = Some(api::duration(Duration::from_secs(15)));
    let deaf = api::start(&mut client, spec).await.id;
    host.until_written(std::slice::from_ref(&deaf));
    let mut removal = Command::new("dpkg").args(["--remove", "job-broker"]).spawn().unwrap();
    until("the drain has begun", || {
        let state = sh("systemctl show --value -p ActiveState job-broker-drain");
        (state == "deactivating").then_some(())
    });
    let prerm = Command::new("pgrep").args(["-f", "info/job-broker.prerm"]).output().unwrap();
    sh(&format!("kill {}", String::from_utf8(prerm.stdout).unwrap().trim()));
    assert!(!removal.wait().unwrap().success());

    assert_eq!(host.property("ActiveState"), "active");
    assert_eq!(sh("systemctl is-active job-broker-drain"), "active");
    let job = api::ended(&mut host.client().await, &deaf).await;
    assert!(was_ended_by_the_system(&job), "{job:?}");
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn a_state_directory_on_a_file_system_of_its_own_is_purged_of_all_that_is_in_it() {
    Host::ready();
    sh("systemctl stop job-broker");
    sh("mount -t tmpfs tmpfs /var/lib/job-broker && systemctl start job-broker && \
        mkdir /var/lib/job-broker/below && mount -t tmpfs tmpfs /var/lib/job-broker/below && \
        touch /var/lib/job-broker/below/somebodys");
    sh("dpkg --purge job-broker");
    let left = sh("cd /var/lib/job-broker && find . -mindepth 1");
    sh("umount /var/lib/job-broker/below /var/lib/job-broker && rm -rf /var/lib/job-broker");
    assert_eq!(left, "./below\n./below/somebodys");
    assert!(!Path::new("/etc/job-broker").exists());
    assert_eq!(sh("dpkg -l | grep job-broker || true"), "", "dpkg has done with it");
    Host::ready().client().await;
}

#[tokio::test]
#[ignore = "changes the machine"]
async fn removal_ends_jobs_in_good_order_and_keeps_data_which_purging_removes() {
    let host = Host::ready();
    let jobs = host.start_oracles(2).await;
    sh("dpkg --remove job-broker");
    assert!(!Path::new("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope").exists());
    // The configuration was kept, too: with a fault in it the package is installed, and says so.
    let file = "/etc/job-broker/config.toml";
    let sound = fs::read_to_string(file).unwrap();
    fs::write(file, format!("{sound}\nx = y\n")).unwrap();
    let (succeeded, said) = try_install(&packages().0);
    fs::write(file, sound).unwrap();
    assert!(succeeded && said.contains("x = y") && !said.contains("job-certs"), "{said}");
    sh("systemctl start job-broker");
    let mut client = host.client().await;
    for id in jobs.ids() {
        let job = api::job(&mut client, id).await;
        assert_eq!(job.cause(), Cause::Stopped, "{job:?}");
        assert!(was_ended_by_the_system(&job), "{job:?}");
    }
    sh("dpkg --purge job-broker");
    for path in ["/var/lib/job-broker", "/etc/job-broker", "/run/job-broker"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    let (succeeded, said) = try_install(&packages().0);
    assert!(succeeded && said.contains("job-certs init --dir /etc/job-broker/pki"), "{said}");
    Host::ready().client().await;
}

/// Where systemd looks for what this test adds to the unit.
const DROP_INS: &str = "/run/systemd/system/job-broker.service.d";

/// Restarts the broker with lines of its own in the unit. Whether it runs then.
fn restarted_with(lines: &str) -> bool {
    sh(&format!(
        "mkdir -p {DROP_INS} && printf '[Service]\\n{lines}\\n' >{DROP_INS}/t.conf && \
         systemctl daemon-reload && systemctl reset-failed job-broker"
    ));
    Command::new("systemctl").args(["restart", "job-broker"]).status().unwrap().success()
}

fn restarted_without(capability: &str) -> bool {
    restarted_with(&format!("CapabilityBoundingSet=~{capability}"))
}

/// A job that sees what the host's processes see.
fn on_the_host(script: &str) -> JobSpec {
    let isolation = Isolation { profile: Profile::Host.into(), ..Isolation::default() };
    JobSpec { isolation: Some(isolation), ..api::script(script) }
}

/// Why a job does not start; the step of its shim.
async fn failed_step(host: &Host) -> String {
    let spec = api::script("exec true");
    let request = StartJobRequest { spec: Some(spec), ..Default::default() };
    host.client().await.start_job(request).await.unwrap_err().message().to_owned()
}

/// Each one that the unit leaves to the broker is taken away; those of namespaces are tried where jobs have them.
#[tokio::test]
#[ignore = "changes the machine"]
async fn the_broker_needs_each_capability_that_its_unit_leaves_it() {
    let host = Host::ready();
    let of_namespaces = ["cap_sys_admin", "cap_sys_chroot", "cap_mknod", "cap_net_admin"];
    let mut left: Vec<_> =
        host.property("CapabilityBoundingSet").split(' ').map(str::to_owned).collect();
    left.retain(|name| !of_namespaces.contains(&&**name));

    let mut tried = Vec::new();
    for (capability, words) in [
        ("cap_chown", "/var/lib/job-broker-work/"),
        ("cap_setuid", "drop_privileges"),
        ("cap_setgid", "drop_privileges"),
        ("cap_setpcap", "capabilities"),
    ] {
        assert!(restarted_without(capability));
        let said = failed_step(&host).await;
        assert!(said.contains(words) && said.contains("not permitted"), "{capability}: {said}");
        tried.push(capability);
    }

    // A shim that does not end by itself, and that the kernel may kill when memory runs out.
    assert!(restarted_without("cap_kill cap_sys_resource"));
    let mut client = host.client().await;
    let id = api::start(&mut client, api::script("exec sleep 1000")).await.id;
    let cgroup = format!("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/{id}");
    let shim = fs::read_to_string(format!("{cgroup}/shim/cgroup.procs")).unwrap();
    let shim = shim.trim();
    let score = fs::read_to_string(format!("/proc/{shim}/oom_score_adj")).unwrap();
    assert_ne!(score.trim(), "-1000");
    sh(&format!("kill -STOP {shim}"));
    api::stop(&mut client, &id, Duration::ZERO).await;
    let refused =
        format!("journalctl -b -u job-broker -o cat | grep {id} | grep -i 'not permitted'");
    until("the kill is refused", || (!sh(&format!("{refused} || true")).is_empty()).then_some(()));
    sh(&format!("kill -CONT {shim}"));
    api::ended(&mut client, &id).await;
    tried.extend(["cap_kill", "cap_sys_resource"]);

    // Files that are not root's: the broker's key, the socket of the metrics for an agent; and a port below 1024.
    let file = "/etc/job-broker/config.toml";
    let sound = fs::read_to_string(file).unwrap();
    sh("mkdir -p /run/agent && chown nobody /etc/job-broker/pki/server.key");
    let agent =
        "[metrics]\nlisten = \"/run/agent/metrics.sock\"\nowner = \"nobody\"\nmode = 0o600\n";
    let altered =
        sound.replacen("[metrics]\n", agent, 1).replace("127.0.0.1:7443", "127.0.0.1:443");
    fs::write(file, altered).unwrap();
    let is_served = || {
        let id = host.property("InvocationID");
        let lines =
            format!("journalctl _SYSTEMD_INVOCATION_ID={id} -o cat | grep 'metrics are' || true");
        until("it says", || Some(sh(&lines)).filter(|line| !line.is_empty())).contains("are served")
    };
    let mut outcomes = Vec::new();
    outcomes.push(("cap_fowner", restarted_without("cap_fowner") && !is_served()));
    for capability in ["cap_dac_override", "cap_net_bind_service"] {
        outcomes.push((capability, !restarted_without(capability)));
    }
    let with_all = restarted_with("") && is_served();
    fs::write(file, sound).unwrap();
    sh(&format!(
        "rm -r {DROP_INS} /run/agent && chown root /etc/job-broker/pki/server.key && systemctl daemon-reload && systemctl restart job-broker"
    ));
    assert!(with_all && outcomes.iter().all(|(_, fails)| *fails), "{with_all} {outcomes:?}");
    tried.extend(outcomes.iter().map(|(capability, _)| *capability));
    tried.sort_unstable();
    left.sort_unstable();
    assert_eq!(left, tried);
}

/// The unit's devices and sockets are those of its own cgroup, which jobs are not in.
#[tokio::test]
#[ignore = "changes the machine"]
async fn the_broker_opens_no_disk_and_waits_for_no_packets_and_its_jobs_are_not_bound_by_that() {
    let host = Host::ready();
    let bind = "import socket; socket.socket(type=socket.SOCK_DGRAM).bind(('127.0.0.1', 5555))";
    fs::write("/usr/local/bin/bind.py", bind).unwrap();
    let disk = sh("findmnt --noheadings --output SOURCE /");
    let said = "/run/said";
    let try_both = format!(
        "ExecStartPre=/bin/sh -c \"head -c1 {disk} >{said} 2>>{said}; python3 /usr/local/bin/bind.py 2>>{said} || true\""
    );
    assert!(restarted_with(&try_both));
    let refused = fs::read_to_string(said).unwrap();
    let disk_refused = format!("'{disk}' for reading: Operation not permitted");
    assert!(refused.contains(&disk_refused), "{refused}");
    if sh("systemctl --version").contains("+BPF_FRAMEWORK") {
        assert!(refused.contains("PermissionError"), "{refused}");
    } else {
        eprintln!("left out: systemd without BPF_FRAMEWORK cannot bound sockets");
    }
    sh(&format!("rm -r {DROP_INS} && systemctl daemon-reload && systemctl restart job-broker"));
    let mut client = host.client().await;
    let script = "python3 /usr/local/bin/bind.py && grep CapBnd /proc/self/status";
    let id = api::start(&mut client, api::script(script)).await.id;
    let output = api::output(&mut client, &id).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told, "CapBnd:\t0000000000000000\n", "{output:?}");
    // As an account that may open it, in a job that has the host's devices.
    sh(&format!("chmod o+r {disk}"));
    let reader = on_the_host(&format!("head -c1 {disk} | wc -c"));
    let id = api::start(&mut client, reader).await.id;
    let output = api::output(&mut client, &id).await;
    sh(&format!("chmod o-r {disk}"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
}

/// The unit leaves the broker what that takes: user namespaces, mounts, another root.
#[tokio::test]
#[ignore = "changes the machine"]
async fn an_image_is_imported_and_what_is_roots_in_it_is_its_jobs() {
    let host = Host::ready();
    let (root, archive) = (Path::new("/var/tmp/small"), "/var/tmp/small.tar");
    small_root::make(root);
    sh(&format!(
        "tar -C {} -cf {archive} . && job-broker images import small {archive}",
        root.display()
    ));
    let isolation =
        Isolation { image: "small".into(), root_bytes: 1 << 20, ..Isolation::default() };
    let script = "echo made >/etc/made && cat /etc/name /etc/made";
    let spec = JobSpec { isolation: Some(isolation), ..api::script(script) };
    let mut client = host.client().await;
    let id = api::start(&mut client, spec).await.id;
    let output = api::output(&mut client, &id).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "small\nmade\n", "{output:?}");
    sh("job-broker images remove small");
}

/// As fields, which journalctl(1) finds without a regular expression.
#[tokio::test]
#[ignore = "changes the machine"]
async fn the_journal_has_one_line_of_a_jobs_start_and_one_of_its_end_with_their_fields() {
    let host = Host::ready();
    let file = "/etc/job-broker/config.toml";
    let sound = fs::read_to_string(file).unwrap();
    fs::write(file, sound.replacen("[log]\n", "[log]\nformat = \"journald\"\n", 1)).unwrap();
    sh("systemctl restart job-broker");
    let mut client = host.client().await;
    let id = api::start(&mut client, api::script("echo out; exit 7")).await.id;
    api::ended(&mut client, &id).await;
    let lines = until("the journal has its end", || {
        let lines = sh(&format!("journalctl -b -o json BROKER_JOB={id}"));
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.iter().any(|line| message(line).starts_with("ended ")).then_some(lines)
    });
    fs::write(file, sound).unwrap();
    sh("systemctl restart job-broker");
    let one = |word: &str| {
        let lines: Vec<_> = lines.iter().filter(|line| message(line).starts_with(word)).collect();
        assert_eq!(lines.len(), 1, "{word}: {lines:#?}");
        lines[0]
    };
    let cgroup = format!("/sys/fs/cgroup/jobs.slice/job-broker-jobs.scope/{id}");
    for (word, fields) in [
        (
            "started ",
            [
                ("BROKER_OWNER", "admin"),
                ("BROKER_CGROUP", &*cgroup),
                ("BROKER_TARGET", "job_broker::audit"),
            ],
        ),
        (
            "ended ",
            [("BROKER_OWNER", "admin"), ("BROKER_CAUSE", "Exited"), ("BROKER_EXIT_CODE", "7")],
        ),
    ] {
        let line = one(word);
        for (field, value) in
            [("_SYSTEMD_UNIT", "job-broker.service"), ("PRIORITY", "6")].into_iter().chain(fields)
        {
            assert_eq!(line[field], value, "{field}: {line:#}");
        }
    }
    let pid = one("started ")["BROKER_PID"].as_str().unwrap_or_default().parse::<u32>();
    assert!(pid.is_ok_and(|pid| pid > 1));
}

fn message(line: &Value) -> &str {
    line["MESSAGE"].as_str().unwrap_or_default()
}
