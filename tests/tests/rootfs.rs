//! Jobs whose root is a directory of an operator's list: what they see, what they may write, and what is left of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use job_tests::{Env, Finished, host, small_root, until};

/// An operator who lists the directories in `roots`, and sets more of that section.
fn env(more: &str) -> (Env, PathBuf) {
    let sections = "[isolation]\nrootfs = [\"{dir}/roots/*\"]\nshared = [\"{dir}/shared\"]\n";
    let env = Env::builder().sections(&format!("{sections}{more}")).start();
    let root = env.path("roots").join("small");
    small_root::make(&root);
    fs::set_permissions(env.path("roots"), fs::Permissions::from_mode(0o755)).unwrap();
    (env, root)
}

fn run(env: &Env, root: &Path, options: &[&str], script: &str) -> Finished {
    let rootfs = format!("--rootfs={}", root.display());
    env.jobctl("user-a", &[&["run", &rootfs], options, &["--", "sh", "-c", script]].concat())
}

fn sh(env: &Env, root: &Path, options: &[&str], script: &str) -> String {
    run(env, root, options, script).expect(0).out()
}

/// All below a directory, with what `ls` says of it.
fn listing(root: &Path) -> String {
    let mut ls = std::process::Command::new("ls");
    let said = ls.args(["-lARi", "--time-style=full-iso"]).arg(root).output().unwrap();
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn a_job_sees_the_directory_in_place_of_the_host_and_cannot_write_there() {
    let (env, root) = env("");
    for profile in ["private", "strict"] {
        let options = [&*format!("--isolation={profile}")];
        let script = "cat /etc/name; pwd; echo kept >file && cat file; echo x >/tmp/x && cat /tmp/x; \
                      ls -d /home /var /opt /etc/passwd 2>&1 | grep -c 'No such'; \
                      ls /run; ls /dev/null /dev/shm -d; set -- /proc/[0-9]*; echo $#";
        let text = sh(&env, &root, &options, script);
        assert_eq!(text, "small\n/run/job\nkept\nx\n4\njob\n/dev/null\n/dev/shm\n1\n", "{profile}");
        let before = listing(&root);
        let script = "for f in /made /usr/made /etc/name /run/made /dev/made; do \
                      echo x 2>/dev/null >$f && echo wrote $f; done; echo done";
        assert_eq!(sh(&env, &root, &options, script), "done\n", "{profile}");
        assert_eq!(listing(&root), before);
    }
    env.assert_clean();
}

#[test]
fn programs_and_directories_are_looked_up_in_the_root() {
    let (env, root) = env("");
    fs::write(root.join("usr/bin/script"), "#!/bin/sh\ncat /etc/name\n").unwrap();
    fs::set_permissions(root.join("usr/bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    let rootfs = format!("--rootfs={}", root.display());
    let run = |argv: &[&str]| env.jobctl("user-a", &[&["run", &rootfs], argv].concat());
    assert_eq!(run(&["--", "script"]).expect(0).out(), "small\n");
    assert_eq!(run(&["--workdir=/srv", "--", "pwd"]).expect(0).out(), "/srv\n");
    let absent = run(&["--", "/usr/bin/env"]);
    assert_ne!(absent.code(), 0, "the host has it, the root does not");
    assert!(absent.err().contains("No such file"), "{}", absent.err());
    assert_ne!(run(&["--workdir=/var", "--", "pwd"]).code(), 0);
}

#[test]
fn what_a_job_writes_into_its_root_is_in_memory_bounded_and_gone_with_it() {
    let (env, root) = env("");
    fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(root.join("srv/old"), "old\n").unwrap();
    fs::set_permissions(root.join("srv/old"), fs::Permissions::from_mode(0o666)).unwrap();
    let before = listing(&root);
    let script = "echo new >/srv/old; echo made >/srv/made; cat /srv/old /srv/made; \
                  dd if=/dev/zero of=/srv/fill bs=64k count=100 2>&1 | grep -c 'No space'; \
                  rm /srv/fill; stat -c %n /srv/*";
    let text = sh(&env, &root, &["--tmpfs-size=1M"], script);
    assert_eq!(text, "new\nmade\n1\n/srv/made\n/srv/old\n");
    assert_eq!(listing(&root), before, "the directory itself is as it was");
    assert_eq!(sh(&env, &root, &["--tmpfs-size=1M"], "cat /srv/old"), "old\n", "nothing is left");
    let files = "i=0; while true >/srv/$i; do i=$((i+1)); done 2>/dev/null; ls /srv | grep -c .";
    let count: u32 = sh(&env, &root, &["--tmpfs-size=1M"], files).trim().parse().unwrap();
    assert!((900..=1024).contains(&count), "{count} inodes");
    let error = run(&env, &root, &["--tmpfs-size=100G"], "true").err();
    assert!(error.contains("isolation.root_bytes"), "{error}");
    env.assert_clean();
}

#[test]
fn roots_files_are_the_jobs_own_where_it_may_write_and_other_owners_are_not() {
    let (env, root) = env("rootfs_owned = true\n");
    let file = |name: &str, owner: u32| {
        let path = root.join("etc").join(name);
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
    };
    file("roots", 0);
    file("others", 64_321);
    file("nobodys", 65_534); // as the job is, by its number in the directory alone
    if !host::has_kernel(5, 19) {
        return;
    }
    let info = env.jobctl("user-a", &["info", "-o", "json"]).json();
    let features = info["features"].as_array().unwrap();
    let idmapped = features.iter().find(|feature| feature["name"] == "idmapped roots");
    assert_eq!(idmapped.unwrap()["available"], true, "{features:?}");
    let before = listing(&root);
    let script = "echo made >/etc/made; echo more >>/etc/name; mkdir /usr/x /y; rm /usr/bin/ln; \
                  cat /etc/made /etc/name /etc/roots; ls -d /usr/x /y; cat /etc/others 2>/dev/null; \
                  cat /etc/nobodys 2>/dev/null; chmod 777 /etc/others 2>/dev/null || echo others; \
                  rm -r /srv; ls -d /srv /usr/bin/ln 2>/dev/null; touch /run/x 2>/dev/null || echo run";
    let text = sh(&env, &root, &["--tmpfs-size=1M"], script);
    assert_eq!(text, "made\nsmall\nmore\nold\n/usr/x\n/y\nothers\nrun\n");
    assert_eq!(listing(&root), before, "the directory itself is as it was");
    let text =
        sh(&env, &root, &["--tmpfs-size=1M"], "cat /etc/made /etc/name 2>/dev/null; ls -d /srv");
    assert_eq!(text, "small\n/srv\n", "another job sees nothing of it");
    // Without an overlay it is as it was: nothing is the job's.
    assert_ne!(run(&env, &root, &[], "cat /etc/roots").code(), 0);
    env.assert_clean();
}

#[test]
fn a_root_that_the_operator_has_not_given_away_keeps_its_owner() {
    let (env, root) = env("");
    fs::set_permissions(root.join("etc/name"), fs::Permissions::from_mode(0o600)).unwrap();
    let script =
        "cat /etc/name 2>/dev/null || echo unread; touch /etc/made 2>/dev/null || echo unmade";
    assert_eq!(sh(&env, &root, &["--tmpfs-size=1M"], script), "unread\nunmade\n");
}

#[test]
fn mounts_have_their_places_in_the_root_and_never_on_the_host() {
    let (env, root) = env("");
    let data = env.shared().canonicalize().unwrap();
    fs::write(data.join("data"), "data\n").unwrap();
    // A link of the root that leads to a place on the host, seen from there.
    symlink(&data, root.join("srv/link")).unwrap();
    let volume = |target: &str| format!("--volume={}:{target}:ro", data.display());
    assert_eq!(sh(&env, &root, &[&volume("/data")], "cat /data/data"), "data\n");
    assert_eq!(sh(&env, &root, &[&volume("/srv")], "cat /srv/data"), "data\n");
    let missing = run(&env, &root, &[&volume("/usr/missing")], "true");
    assert!(missing.err().contains("bind"), "nothing is made in it: {}", missing.err());
    let writable = ["--tmpfs-size=1M", &volume("/usr/missing/deep")];
    assert_eq!(sh(&env, &root, &writable, "cat /usr/missing/deep/data"), "data\n");
    let through = run(&env, &root, &["--tmpfs-size=1M", "--tmpfs=/srv/link/made"], "true");
    assert_ne!(through.code(), 0, "the link leads to a place in the root, which is not there");
    assert!(!data.join("made").exists());
    assert!(!root.join("usr/missing").exists());
    env.assert_clean();
}

#[test]
fn nothing_leads_out_of_a_root() {
    let (env, root) = env("");
    fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o777)).unwrap();
    for (name, to) in [("up", "../../../../../../etc/passwd"), ("root", "/proc/1/root/etc/passwd")]
    {
        symlink(to, root.join("srv").join(name)).unwrap();
    }
    let script = "cat /srv/up /srv/root /proc/1/root/etc/passwd /proc/self/root/etc/passwd \
                  /../../etc/passwd 2>/dev/null; for fd in /proc/self/fd/*; do \
                  ls $fd/etc/passwd $fd/../etc/passwd; done 2>/dev/null; \
                  while read -r a b c d place rest; do [ $place = / ] && echo root; done \
                  </proc/self/mountinfo; ls /proc/1 2>/dev/null; echo end";
    for options in [&[][..], &["--tmpfs-size=1M"]] {
        assert_eq!(sh(&env, &root, options, script), "root\nend\n", "{options:?}");
    }
}

#[test]
fn a_root_is_one_of_the_list_by_what_it_leads_to_and_readable_for_the_account() {
    let (env, root) = env("");
    let roots = root.parent().unwrap();
    let secret = roots.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/usr", roots.join("usr")).unwrap();
    for (path, words) in [
        (secret.as_path(), "Permission denied"),
        (&roots.join("usr"), "\"/usr\" may not be a root here"),
        (&roots.join("absent"), "No such file"),
        (&root.join("etc"), "isolation.rootfs"),
        (Path::new("/"), "isolation.rootfs"),
        (Path::new("/proc"), "isolation.rootfs"),
    ] {
        let error = run(&env, path, &[], "true").err();
        assert!(error.contains(words), "{}: {error}", path.display());
    }
    let nothing = env.jobctl("user-a", &["run", "--tmpfs-size=1M", "--", "true"]);
    assert_ne!(nothing.code(), 0, "a size of nothing");
    env.assert_clean();
}

#[test]
fn a_role_says_which_roots_and_one_that_lists_programs_has_none() {
    let role = |name: &str, isolation: &str, program: &str| {
        format!(
            "[[role]]\nname = \"{name}\"\nidentities = [\"{name}\"]\n\
             allow = [\"start\", \"view\", \"logs\"]\n[role.isolation]\n{isolation}\n\
             [[role.program]]\npath = \"{program}\"\nargs = [\"...\"]\n"
        )
    };
    let sh = fs::canonicalize("/bin/sh").unwrap().display().to_string();
    let policy = role("all", "", "/**")
        + &role("some", "rootfs = [\"/**/other\"]", "/**")
        + &role("listed", "rootfs = [\"/**\"]", &sh);
    let sections = "[isolation]\nrootfs = [\"{dir}/roots/*\"]\n";
    let env = Env::builder().sections(sections).policy(&policy).start();
    let root = env.path("roots").join("small");
    small_root::make(&root);
    let rootfs = format!("--rootfs={}", root.display());
    let run = |user| env.jobctl(user, &["run", &rootfs, "--", "sh", "-c", "cat /etc/name"]);
    assert_eq!(run("all").expect(0).out(), "small\n");
    let error = run("some").err();
    assert!(error.contains("role some does not allow the root"), "{error}");
    let error = run("listed").err();
    assert!(error.contains("role listed lists programs of the host"), "{error}");
    let configured = format!("{}/*", env.path("roots").display());
    for (user, listed) in [("all", &[&*configured][..]), ("some", &["/**/other"]), ("listed", &[])]
    {
        let info = env.jobctl(user, &["info", "-o", "json"]).json();
        let shown = info["rootfs"].as_array().cloned().unwrap_or_default();
        assert!(shown.iter().eq(listed), "{user}: {shown:?}");
    }
}

#[test]
fn a_job_with_a_root_of_its_own_is_taken_over_and_says_what_it_sees() {
    let (mut env, root) = env("");
    let rootfs = format!("--rootfs={}", root.display());
    let script =
        "echo before >/tmp/x; while ! [ -e $JOB_DIR/go ]; do :; done; cat /tmp/x /etc/name";
    let options = ["start", &rootfs, "--tmpfs-size=1M", "--", "sh", "-c", script];
    let id = env.jobctl("user-a", &options).id();
    let text = env.jobctl("user-a", &["status", &id]).expect(0).out();
    assert!(
        text.contains(&root.display().to_string()) && text.contains("1 MiB in memory"),
        "{text}"
    );
    env.kill_broker();
    env.start_broker();
    let dir = env.path("state-work").join(&id);
    until("its directory is there", || fs::write(dir.join("go"), "").ok());
    assert_eq!(env.jobctl("user-a", &["wait", &id]).code(), 0);
    assert_eq!(env.jobctl("user-a", &["logs", &id]).expect(0).out(), "before\nsmall\n");
    env.assert_clean();
}
