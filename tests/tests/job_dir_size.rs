//! Limits of a job's own directory and of what it writes into its root, and what a job can fill.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use job_tests::host::{self, Need};
use job_tests::{Env, small_root, until};
use tempfile::TempDir;

/// All bytes, then all files that fit, of each directory that a job may write to.
const FILL: &str = "for d in /tmp /var/tmp /dev/shm $JOB_DIR; do \
    dd if=/dev/zero of=$d/fill bs=64k 2>/dev/null; rm $d/fill; \
    i=0; while true >$d/$i; do i=$((i+1)); done 2>/dev/null; echo $i; done";

/// A broker whose jobs' directories are on the disk with project quotas.
fn env(projects: (u32, u32), sections: &str) -> Option<(Env, TempDir)> {
    if !host::has(&[Need::Disk, Need::ProjectQuotas]) {
        return None;
    }
    let disk = host::disk();
    let work_dir = format!("work_dir = \"{}/work\"", disk.path().display());
    let range = format!("job_dir_projects = [{}, {}]", projects.0, projects.1);
    let env = Env::builder().config(&work_dir).config(&range).sections(sections).start();
    Some((env, disk))
}

/// The row of a job's limit, and what the job's directory holds.
fn shown(env: &Env, id: &str) -> (serde_json::Value, serde_json::Value) {
    let job = env.jobctl("user-a", &["inspect", id]).json();
    let limits = job["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["name"] == "job_dir").cloned();
    (limit.unwrap_or_default(), job["usage"]["job_dir_bytes"].clone())
}

#[test]
fn a_directory_holds_what_it_may_in_bytes_and_files_and_the_kernel_says_so() {
    let Some((env, _disk)) = env((1000, 1999), "") else { return };
    let size = ["--job-dir-size=8M"];
    let script = "dd if=/dev/zero of=f bs=64k count=200 2>/dev/null; stat -c %s f";
    let written: u64 = env.sh(&size, script).trim().parse().unwrap();
    assert!((7 << 20..=8 << 20).contains(&written), "{written}");
    let files = "i=0; while true >$i; do i=$((i+1)); done 2>/dev/null; ls | wc -l";
    let count: u32 = env.sh(&size, files).trim().parse().unwrap();
    assert!((1000..=1024).contains(&count), "one for each 16 KiB, 1,024 at least: {count}");
    // Whoever does not ask has no limit, as ever.
    assert_eq!(env.sh(&[], script), "13107200\n");

    let script = "dd if=/dev/zero of=f bs=1M count=3 2>/dev/null; sync; sleep 600";
    let argv = ["start", "--job-dir-size=8M", "--", "sh", "-c", script];
    let id = env.jobctl("user-a", &argv).id();
    let used = || {
        let (_, used) = shown(&env, &id);
        let used = used.as_u64().or_else(|| used.as_str()?.parse().ok())?;
        (used >= 3 << 20).then_some(())
    };
    until("three megabytes are used", used);
    let (limit, _) = shown(&env, &id);
    assert_eq!((&limit["requested"], &limit["applied"]), (&"8388608".into(), &"8388608".into()));
    let text = env.jobctl("user-a", &["status", &id]).expect(0).out();
    assert!(text.contains("files and directories"), "{text}");
    env.jobctl("user-a", &["stop", "-t", "0", &id]).expect(0);
    env.assert_clean();
}

#[test]
fn a_job_cannot_take_its_files_out_of_its_project() {
    let Some((env, _disk)) = env((2000, 2999), "") else { return };
    if !host::has_program("chattr", "-V") {
        return;
    }
    let script = "true >f; chattr -p 0 f && echo out; chattr -P . && echo not inherited; \
                  chattr -p 2001 . && echo another; lsattr -pd . | awk '{print $1}'";
    assert_eq!(env.sh(&["--job-dir-size=8M"], script), "2000\n");
    env.assert_clean();
}

#[test]
fn ids_of_projects_are_lent_to_one_job_at_a_time_and_never_those_of_others() {
    let Some((mut env, disk)) = env((3000, 3001), "") else { return };
    if !host::has_program("chattr", "-V") {
        return;
    }
    // Somebody else's directory has the first.
    let foreign = disk.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    let taken = Command::new("chattr").args(["-p", "3000"]).arg(&foreign).status().unwrap();
    assert!(taken.success());
    let size = "--job-dir-size=8M";
    let id = env.jobctl("user-a", &["start", size, "--", "sleep", "600"]).id();
    assert!(env.refused(&[size]).contains("jobs.job_dir_projects"));
    // The next broker knows it, by the directory.
    env.kill_broker();
    env.start_broker();
    assert!(env.refused(&[size]).contains("jobs.job_dir_projects"));
    assert_eq!(shown(&env, &id).0["applied"], "8388608");
    env.jobctl("user-a", &["stop", "-t", "0", &id]).expect(0);
    let again = || {
        let ran = env.jobctl("user-a", &["run", size, "--", "true"]);
        (ran.code() == 0).then_some(())
    };
    until("its id is free again", again);
    assert!(foreign.exists());
    env.assert_clean();
}

#[test]
fn a_size_is_refused_by_name_where_nothing_would_hold_it() {
    let env = Env::start();
    let error = env.refused(&["--job-dir-size=1G"]);
    assert!(error.contains("job_dir") && error.contains("project quotas"), "{error}");
    let error = env.refused(&["--job-dir-size=1K"]);
    assert!(error.contains("limits.job_dir_bytes"), "{error}");
    let by_default = Env::builder().sections("[limits.default]\njob_dir = \"1G\"\n").start();
    let error = by_default.refused(&[]);
    assert!(error.contains("[limits.default]") && error.contains("project quotas"), "{error}");
    let check = Command::new(by_default.programs().broker.clone())
        .arg("--config")
        .arg(by_default.path("broker.toml"))
        .arg("check-config")
        .output()
        .unwrap();
    let said = String::from_utf8(check.stderr).unwrap();
    assert!(said.contains("[limits.default] sets job_dir, so jobs are refused"), "{said}");
}

#[test]
fn a_size_needs_a_filter_of_system_calls_and_has_a_ceiling() {
    let sections = "[limits.max]\njob_dir = \"16M\"\n";
    let Some((env, _disk)) = env((4000, 4999), sections) else { return };
    let error = env.refused(&["--isolation=host", "--workdir=/"]);
    assert!(error.contains("seccomp"), "{error}");
    let error = env.refused(&["--job-dir-size=17M"]);
    assert!(error.contains("limits.job_dir_bytes") && error.contains("16777216"), "{error}");
    // The ceiling is the default of those who do not ask.
    let script = "dd if=/dev/zero of=f bs=64k count=500 2>/dev/null; stat -c %s f";
    let written: u64 = env.sh(&[], script).trim().parse().unwrap();
    assert!(written <= 16 << 20, "{written}");
    env.assert_clean();
}

#[test]
fn a_job_that_fills_all_it_may_write_to_harms_no_other_and_no_record() {
    let sections = "[limits.default]\njob_dir = \"8M\"\n[isolation]\ntmp_size = \"8M\"\n";
    let Some((env, disk)) = env((5000, 5999), sections) else { return };
    let free = || free(disk.path());
    let before = free();
    let fill = ["start", "--memory=64M", "--", "sh", "-c", &format!("{FILL}; sleep 600")];
    let id = env.jobctl("user-a", &fill).id();
    let filled = || (env.jobctl("user-a", &["logs", &id]).out().lines().count() == 4).then_some(());
    until("all is full", filled);
    let counts = env.jobctl("user-a", &["logs", &id]).out();
    // The three in memory share their limit, so that the first takes all.
    let counts: Vec<u32> = counts.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!((900..=1024).contains(&counts[0]) && counts[1] + counts[2] <= 4, "{counts:?}");
    assert!((900..=1024).contains(&counts[3]), "{counts:?}");
    let after = free();
    assert!(before.0 - after.0 <= 9 << 20, "bytes: {before:?} {after:?}");
    assert!(before.1 - after.1 <= 1100, "inodes: {before:?} {after:?}");
    let script = "for d in /tmp /var/tmp /dev/shm $JOB_DIR; do echo x >$d/x && cat $d/x; done";
    assert_eq!(env.sh(&[], script), "x\nx\nx\nx\n");
    env.jobctl("user-a", &["stop", "-t", "0", &id]).expect(0);
    let ended =
        || (env.jobctl("user-a", &["inspect", &id]).json()["state"] == "finished").then_some(());
    until("its end is on record", ended);
    until("all is free again", || (free().1 + 8 >= before.1).then_some(()));
    env.assert_clean();
}

/// A broker whose jobs have a root of their own, `/srv` of which every account may write to.
fn env_with_root(projects: (u32, u32), more: &str) -> Option<(Env, TempDir, PathBuf)> {
    let sections = format!("[isolation]\nrootfs = [\"{{dir}}/root\"]\n{more}");
    let (env, disk) = env(projects, &sections)?;
    let root = env.path("root");
    small_root::make(&root);
    fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o777)).unwrap();
    Some((env, disk, root))
}

fn layers(disk: &TempDir) -> usize {
    fs::read_dir(disk.path().join("work/layers")).unwrap().count()
}

#[test]
fn what_a_job_writes_into_its_root_on_disk_is_bounded_and_gone_with_it() {
    let Some((env, disk, root)) = env_with_root((6000, 6999), "rootfs_owned = true\n") else {
        return;
    };
    fs::write(root.join("srv/old"), "old\n").unwrap();
    let before = free(disk.path());
    let options = [&*format!("--rootfs={}", root.display()), "--root-size=8M"];
    let script = "echo new >/srv/old; cat /srv/old; dd if=/dev/zero of=/srv/f bs=64k count=200 \
                  2>/dev/null; stat -c %s /srv/f; rm /srv/f; \
                  i=0; while true >/srv/$i; do i=$((i+1)); done 2>/dev/null; ls /srv | grep -c .";
    let said = env.sh(&options, script);
    let said: Vec<&str> = said.lines().collect();
    let numbers: Vec<u64> = said[1..].iter().map(|number| number.parse().unwrap()).collect();
    assert_eq!(said[0], "new");
    assert!((7 << 20..=8 << 20).contains(&numbers[0]), "bytes: {said:?}");
    assert!((1000..=1024).contains(&numbers[1]), "files: {said:?}");
    assert_eq!(fs::read_to_string(root.join("srv/old")).unwrap(), "old\n");
    assert_eq!(env.sh(&options, "cat /srv/old; ls /srv | grep -c ."), "old\n1\n");
    if host::has_kernel(5, 19) {
        let script = "echo made >/etc/made && cat /etc/made; rm -r /srv; ls -d /srv 2>/dev/null";
        let ran =
            env.jobctl("user-a", &[&["run"], &options[..], &["--", "sh", "-c", script]].concat());
        assert_eq!(ran.out(), "made\n", "what is root's there is the job's: {}", ran.err());
    }
    until("nothing is left", || {
        (layers(&disk) == 0 && free(disk.path()).1 + 8 >= before.1).then_some(())
    });
    env.assert_clean();
}

#[test]
fn a_job_that_writes_into_its_root_on_disk_is_taken_over_and_its_layer_goes_with_it() {
    let Some((mut env, disk, root)) = env_with_root((7000, 7999), "") else { return };
    let rootfs = format!("--rootfs={}", root.display());
    let script = "echo kept >/srv/x; while ! [ -e $JOB_DIR/go ]; do :; done; cat /srv/x";
    let start = ["start", &rootfs, "--root-size=8M", "--", "sh", "-c", script];
    let id = env.jobctl("user-a", &start).id();
    let text = env.jobctl("user-a", &["status", &id]).expect(0).out();
    assert!(text.contains("8 MiB on disk"), "{text}");
    env.kill_broker();
    let stray = disk.path().join("work/layers/01900000-0000-7000-8000-000000000000");
    fs::create_dir(&stray).unwrap(); // as of a job that a broker of an earlier release has taken away
    env.start_broker();
    assert!(!stray.exists());
    assert_eq!(layers(&disk), 1);
    fs::write(disk.path().join("work").join(&id).join("go"), "").unwrap();
    assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 0);
    assert_eq!(env.jobctl("user-a", &["logs", &id]).expect(0).out(), "kept\n");
    until("its layer is gone", || (layers(&disk) == 0).then_some(()));
    env.assert_clean();
}

#[test]
fn a_job_cannot_take_files_of_its_root_out_of_their_project() {
    let Some((env, _disk, root)) = env_with_root((8000, 8999), "") else { return };
    if !host::has_program("chattr", "-V") {
        return;
    }
    // Over the host's files, which have the program.
    let options =
        [&*format!("--rootfs={}", root.display()), "--root-size=8M", "--volume=/usr:/host:ro"];
    let script = "true >/srv/f; /host/bin/chattr -p 0 /srv/f 2>&1 | grep -c 'not permitted'";
    let script = format!(
        "LD_LIBRARY_PATH=/host/lib/x86_64-linux-gnu:/host/lib64:/host/lib; export LD_LIBRARY_PATH; {script}"
    );
    assert_eq!(env.sh(&options, &script), "1\n");
    env.assert_clean();
}

#[test]
fn a_root_on_disk_is_refused_by_name_where_nothing_would_hold_it() {
    let sections =
        "[isolation]\nminimum = \"host\"\nrootfs = [\"{dir}/root\"]\nroot_size = \"16M\"\n";
    let env = Env::builder().sections(sections).start();
    small_root::make(&env.path("root"));
    let rootfs = format!("--rootfs={}", env.path("root").display());
    let info = env.jobctl("user-a", &["info"]).expect(0).out();
    assert!(info.contains("project quotas: --job-dir-size and --root-size"), "{info}");
    let is_root = |line: &str| line.starts_with("root:") && line.ends_with("/root");
    assert!(info.lines().any(is_root), "{info}");
    for (options, words) in [
        (&[&*rootfs, "--root-size=8M"][..], "isolation.root_disk_bytes"),
        (&[&rootfs, "--root-size=8M"], "project quotas"),
        (&[&rootfs, "--root-size=17M"], "at most 16777216"),
        (&[&rootfs, "--root-size=1K"], "at least 1048576"),
        (&["--root-size=8M"], "--rootfs"),
        (&[&rootfs, "--root-size=8M", "--tmpfs-size=8M"], "cannot be used with"),
    ] {
        let error = env.refused(options);
        assert!(error.contains(words), "{options:?}: {error}");
    }
    env.assert_clean();
    let Some((env, _disk, root)) = env_with_root((9000, 9999), "minimum = \"host\"\n") else {
        return;
    };
    let rootfs = format!("--rootfs={}", root.display());
    let error = env.refused(&[&rootfs, "--root-size=8M", "--seccomp=none"]);
    assert!(error.contains("seccomp"), "{error}");
}

/// Bytes and inodes that anybody may still take.
fn free(disk: &Path) -> (u64, u64) {
    let space = nix::sys::statvfs::statvfs(disk).unwrap();
    (space.blocks_available() * space.fragment_size(), space.files_available())
}

/// A path of a limit is the job's, not the host's.
#[test]
fn a_disk_is_named_by_a_path_that_only_the_job_has() {
    if !host::has(&[Need::Io, Need::Disk]) {
        return;
    }
    let disk = host::disk();
    let list =
        format!("[isolation]\nread_write = [\"{}/**\"]\n", disk.path().parent().unwrap().display());
    let env = Env::builder().sections(&list).start();
    let volume = format!("--volume={}:/only/here", disk.path().display());
    let device = |rate: &str| {
        let argv = ["start", &volume, rate, "--", "sleep", "600"];
        let id = env.jobctl("user-a", &argv).id();
        let job = env.jobctl("user-a", &["inspect", &id]).json();
        let limits = job["limits"].as_array().unwrap().clone();
        let names =
            limits.iter().filter_map(|limit| limit["name"].as_str()?.strip_prefix("io.max "));
        let name = names.map(str::to_owned).next().unwrap();
        env.jobctl("user-a", &["stop", "-t", "0", &id]).expect(0);
        name
    };
    let by_host = device(&format!("--device-write-bps={}:1M", disk.path().display()));
    assert_eq!(device("--device-write-bps=/only/here:1M"), by_host);
    for (path, why) in [("/tmp/x", "in memory"), ("/only/here/absent", "on the host")] {
        let error = env.refused(&[&volume, &format!("--device-write-bps={path}:1M")]);
        assert!(error.contains(path) && error.contains(why), "{error}");
    }
    env.assert_clean();
}
