//! What the profiles and a root of one's own add to a start: one broker, jobs of all kinds in turn, on this host as it is
//! and with 300 mounts more. It must alternate them, so that all see the same host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use job_api::client::{Client, connect};
use job_api::v1::isolation::Profile;
use job_api::v1::wait_job_request::Until;
use job_api::v1::{Isolation, JobSpec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::api;
use super::quantile::median;
use super::report::Row;
use super::setup::Bench;
use crate::site::{Ending, IDENTITIES, Throwaway};
use crate::{interrupt, packages};

/// Kinds of jobs: the profiles, and `strict` with a root of its own, read-only and under an overlay in memory.
const KINDS: usize = 5;
/// What runs in such a root: a program that needs no other file, and ends at once by itself.
const IN_ROOT: &str = "/job-shim";
/// Mounts that a host of many containers has besides.
const MANY: usize = 300;
/// Rounds that do not count.
const WARM_UP: usize = 5;
/// bubblewrap, with what `private` has; without the second word with what `strict` has.
const BUBBLEWRAP: [&str; 18] = [
    "--unshare-all",
    "--share-net",
    "--die-with-parent",
    "--new-session",
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/run",
    "--tmpfs",
    "/var/tmp",
    "/bin/true",
];
/// A service for one command, with what `strict` has as far as systemd has it: the host's files are all there.
const SERVICE: [&str; 15] = [
    "--quiet",
    "--wait",
    "--pipe",
    "--property=User=nobody",
    "--property=PrivateTmp=yes",
    "--property=ProtectSystem=strict",
    "--property=ProtectHome=yes",
    "--property=PrivateDevices=yes",
    "--property=PrivateNetwork=yes",
    "--property=PrivateIPC=yes",
    "--property=ProtectHostname=yes",
    "--property=ProtectProc=invisible",
    "--property=NoNewPrivileges=yes",
    "--property=SystemCallFilter=@system-service",
    "/bin/true",
];
/// What crun(1) and runc(8) run: a base system read-only as `nobody`, with what else `strict` has but its filter.
const BUNDLE: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs","readonly":true},"hostname":"job",
"process":{"terminal":false,"user":{"uid":65534,"gid":65534},"args":["/bin/true"],"cwd":"/",
"env":["PATH=/usr/bin:/bin"],"noNewPrivileges":true,"capabilities":{}},
"mounts":[{"destination":"/usr","type":"bind","source":"/usr","options":["rbind","ro"]},
{"destination":"/etc","type":"bind","source":"/etc","options":["rbind","ro"]},
{"destination":"/proc","type":"proc","source":"proc"},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755","size=64k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666"]},
{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","nodev"]},
{"destination":"/dev/mqueue","type":"mqueue","source":"mqueue"},
{"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev"]},
{"destination":"/var/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev"]},
{"destination":"/run","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev"]}],
"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"network"},
{"type":"cgroup"}]}}"#;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let [host, private, strict, root, overlay] = starts(bench)?;
    let many = {
        let _mounts = Mounts::make()?;
        starts(bench)?
    };
    let mut rows = vec![
        Row::new("the profile private adds to a start, p50", private - host, "ms").at_most(0.5),
        Row::new("the profile strict adds, p50", strict - host, "ms").at_most(1.5),
        Row::new("private adds with 300 mounts more, p50", many[1] - many[0], "ms").at_most(1.0),
        Row::new("strict adds with 300 mounts more, p50", many[2] - many[0], "ms").at_most(3.0),
        Row::new("a root of its own adds to strict, p50", root - strict, "ms"),
        Row::new("an overlay in memory adds to that, p50", overlay - root, "ms"),
        Row::new("StartJob in private, p50", private, "ms").beside("in host", host),
    ];
    rows.extend(peers(bench)?);
    Ok(rows)
}

/// The median of each kind, in milliseconds.
fn starts(bench: &Bench) -> Result<[f64; KINDS]> {
    let root = make_root(bench)?;
    let broker = bench.broker()?;
    broker.site.end(Ending::Asked)?;
    let file = broker.site.file("config.toml");
    let config = fs::read_to_string(&file)?;
    let rules = format!("[isolation]\nminimum = \"host\"\nrootfs = [{:?}]\n", root.path());
    fs::write(&file, config.replacen("[isolation]\n", &rules, 1))?;
    broker.site.start(&bench.programs)?;
    let took = alternate(bench, &broker, &kinds(root.path()))?;
    broker.close()?;
    Ok(took.each_ref().map(|samples| median(samples)))
}

fn make_root(bench: &Bench) -> Result<TempDir> {
    let root = tempfile::Builder::new().prefix("job-bench-root-").tempdir_in("/var/lib")?;
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(&bench.programs.shim, root.path().join(IN_ROOT.trim_start_matches('/')))?;
    Ok(root)
}

fn kinds(root: &Path) -> [JobSpec; KINDS] {
    let job = |isolation, program: &str| JobSpec {
        argv: vec![program.into(), "--version".into()],
        isolation: Some(isolation),
        ..JobSpec::default()
    };
    let profile = |profile: Profile| Isolation { profile: profile.into(), ..Isolation::default() };
    let rootfs = Isolation { rootfs: root.display().to_string(), ..profile(Profile::Strict) };
    let overlay = Isolation { root_bytes: 1 << 20, ..rootfs.clone() };
    [
        job(profile(Profile::Host), "/bin/true"),
        job(profile(Profile::Private), "/bin/true"),
        job(profile(Profile::Strict), "/bin/true"),
        job(rootfs, IN_ROOT),
        job(overlay, IN_ROOT),
    ]
}

fn alternate(
    bench: &Bench,
    broker: &Throwaway,
    kinds: &[JobSpec; KINDS],
) -> Result<[Vec<f64>; KINDS]> {
    let mut took = [const { Vec::new() }; KINDS];
    api::runtime()?.block_on(async {
        let (addr, user) = (broker.site.addr().to_string(), IDENTITIES[1]);
        let mut client = connect(&addr, &broker.site.credentials(user)?).await?;
        for round in 0..WARM_UP + bench.rounds(100, 500) {
            for n in (0..KINDS).map(|n| (n + round) % KINDS) {
                let one = start(&mut client, kinds[n].clone()).await?;
                if round >= WARM_UP {
                    took[n].push(one);
                }
            }
            interrupt::check()?;
        }
        anyhow::Ok(())
    })?;
    Ok(took)
}

/// Milliseconds of one start. Returns when nothing of the job is left.
async fn start(client: &mut Client, spec: JobSpec) -> Result<f64> {
    let begin = Instant::now();
    let job = api::start_spec(client, spec).await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    api::wait(client, &job.id, Until::End).await?;
    Ok(took)
}

/// What others add to a process, from its start to its end; those that run here.
fn peers(bench: &Bench) -> Result<Vec<Row>> {
    let needed = [("bwrap", "bubblewrap"), ("crun", "crun"), ("/usr/sbin/runc", "runc")];
    if let Err(error) = packages::ensure(&needed, "to compare isolation with") {
        println!("not all are compared: {error:#}");
    }
    let bundle = make_bundle()?;
    let directory = bundle.path().display().to_string();
    let own_network: Vec<_> =
        BUBBLEWRAP.iter().copied().filter(|word| *word != "--share-net").collect();
    let container = ["run", "--bundle", &directory, "job-bench"];
    let mut all: Vec<(&str, &str, &[&str])> = vec![
        ("bwrap --unshare-all --share-net, as private", "bwrap", &BUBBLEWRAP),
        ("bwrap --unshare-all, as strict", "bwrap", &own_network),
        ("crun run, as strict but for a filter", "crun", &container),
        ("runc run, as strict but for a filter", "/usr/sbin/runc", &container),
        ("systemd-run --wait, as strict but for files and pids", "systemd-run", &SERVICE),
    ];
    all.retain(|(name, program, words)| {
        let failed = run(program, words).err();
        failed.iter().for_each(|error| println!("not compared: {name}: {error:#}"));
        failed.is_none()
    });
    all.push(("", "/bin/true", &[]));
    let mut took = vec![Vec::new(); all.len()];
    for _ in 0..bench.rounds(100, 300) {
        for ((_, program, words), took) in all.iter().zip(&mut took) {
            took.push(run(program, words)?);
        }
        interrupt::check()?;
    }
    let medians: Vec<f64> = took.iter().map(|took| median(took)).collect();
    let plain = medians.last().copied().unwrap_or_default();
    let peers = all.iter().zip(&medians).filter(|((name, ..), _)| !name.is_empty());
    let row = |((name, ..), median): (&(&str, _, _), &f64)| {
        Row::new(format!("beside: {name}: adds to a process"), median - plain, "ms")
    };
    Ok(peers.map(row).collect())
}

/// Its root directory has the host's links and places for the rest.
fn make_bundle() -> Result<TempDir> {
    let bundle = TempDir::new()?;
    let root = bundle.path().join("rootfs");
    for name in ["usr", "etc", "proc", "dev", "tmp", "var/tmp", "run"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(link) = fs::read_link(Path::new("/").join(name)) {
            std::os::unix::fs::symlink(link, root.join(name))?;
        }
    }
    fs::write(bundle.path().join("config.json"), BUNDLE)?;
    Ok(bundle)
}

/// Milliseconds, to its end.
fn run(program: &str, words: &[&str]) -> Result<f64> {
    let begin = Instant::now();
    let ran = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&ran.stderr);
    anyhow::ensure!(ran.status.success(), "{program}: {}: {}", ran.status, said.trim());
    Ok(took)
}

/// 300 mounts, all of which go with the one that they are in.
struct Mounts(TempDir);

impl Mounts {
    fn make() -> Result<Mounts> {
        let dir = tempfile::Builder::new().prefix("job-bench-mounts-").tempdir_in("/var/lib")?;
        tmpfs(dir.path(), "4m")?;
        let mounts = Mounts(dir);
        for n in 0..MANY {
            let place = mounts.0.path().join(n.to_string());
            fs::create_dir(&place)?;
            tmpfs(&place, "4k")?;
        }
        Ok(mounts)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if let Err(e) = umount2(self.0.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {e}", self.0.path().display());
        }
    }
}

fn tmpfs(path: &Path, size: &str) -> Result<()> {
    let options = format!("size={size}");
    let flags = MsFlags::empty();
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .with_context(|| format!("cannot mount {}", path.display()))
}
