//! Other jobs, and the shim of one's own.

use std::fs;

use job_tests::{Env, host, until};

use crate::{PROFILES, SECRET, Victim, attack, env, has_python, settings};

#[test]
fn jobs_of_two_users_that_share_nobody_do_not_reach_each_other() {
    let env = env();
    for profile in PROFILES {
        let victim = Victim::start(&env, profile);
        let Victim { pid, shim } = victim;
        for script in [
            format!("tr '\\0' '\\n' </proc/{pid}/environ"),
            "for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ; done".into(),
            format!(
                "ls -la /proc/{pid}/root/tmp /proc/{pid}/cwd/ /proc/{pid}/fd; cat /proc/{pid}/root/tmp/victim"
            ),
            "cat /tmp/victim /dev/shm/victim /var/tmp/victim $JOB_DIR/victim /run/job/*".into(),
            format!(
                "find {} /tmp /var/tmp /dev/shm /run -name victim -exec cat {{}} + 2>/dev/null",
                env.path("state-work").display()
            ),
        ] {
            let said = attack(&env, profile, &script);
            assert!(!said.contains(SECRET), "{profile}: {script}: {said}");
        }
        let script = format!(
            "for p in {pid} {shim} -{pid} -1; do kill -9 $p 2>/dev/null; done; exec 2>/dev/null; \
             for p in {pid} {shim}; do renice -n 19 -p $p; chrt -i -p 0 $p; ionice -c 3 -p $p; \
             taskset -p 1 $p; prlimit --pid $p --nofile=9:9 --cpu=1:1; done; \
             renice -n 19 -u nobody; renice -n 19 -g {pid}; ionice -c 3 -u 65534; ionice -c 3 -P {pid}"
        );
        let before = [settings(pid), settings(shim)];
        attack(&env, profile, &script);
        assert!(victim.lives(), "{profile}: the victim is dead");
        assert_eq!([settings(pid), settings(shim)], before, "{profile}");
        let queues = attack(&env, profile, "ipcs -q -m -s | grep -c 0x; ls -A /dev/mqueue");
        assert_eq!(queues, "0\n", "{profile}");
    }
}

#[test]
fn the_same_attacks_succeed_where_nothing_keeps_the_jobs_apart() {
    let env = env();
    let victim = Victim::start(&env, "host");
    let said = attack(&env, "host", &format!("tr '\\0' '\\n' </proc/{}/environ", victim.pid));
    assert!(said.contains(SECRET), "{said}");
    attack(&env, "host", &format!("kill -9 {}", victim.pid));
    until("the victim is dead", || (!victim.lives()).then_some(()));
    fs::remove_file("/dev/shm/victim").unwrap();
    fs::remove_file("/tmp/victim").unwrap();
    fs::remove_file("/var/tmp/victim").unwrap();
}

#[test]
fn a_shim_is_out_of_the_reach_of_its_own_job() {
    let env = env();
    for profile in PROFILES {
        let script = "for s in 1 9 15 19; do kill -$s 1 2>/dev/null && echo killed; done; \
                      cat /proc/1/environ /proc/1/maps /proc/1/auxv /proc/1/mountinfo 2>/dev/null; \
                      ls /proc/1/fd /proc/1/root/ /proc/1/cwd/ 2>/dev/null; readlink /proc/1/exe; echo done";
        assert_eq!(attack(&env, profile, script), "done\n", "{profile}");
    }
    env.assert_clean();
}

/// It is not a boundary: their effective uids are one.
#[test]
fn a_job_can_slow_down_its_own_shim() {
    let env = env();
    for profile in PROFILES {
        let isolation = format!("--isolation={profile}");
        let script = "renice -n 7 -p 1 >/dev/null && echo slower; exec sleep 600";
        let argv = ["start", &isolation, "--user=nobody", "--", "sh", "-c", script];
        let id = env.jobctl("user-a", &argv).id();
        until("it is slower", || env.stdout_log(&id).contains("slower").then_some(()));
        let shim = env.cgroup().shim(&env.cgroup().jobs()[0]).unwrap();
        assert_eq!(settings(shim.into())[0].split(' ').nth(1), Some("7"), "{profile}");
        env.jobctl("user-a", &["kill", "-s", "KILL", &id]).expect(0);
        until("it has ended", || env.cgroup().jobs().is_empty().then_some(()));
    }
    env.assert_clean();
}

/// It is not a boundary: docs/ISOLATION.md says so, and what is one.
#[test]
fn jobs_of_one_account_share_what_the_kernel_counts_for_it_and_those_of_a_pool_do_not() {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    if !has_python() || most.trim().parse::<u32>().unwrap() > 500 {
        return host::skip("there are more inotify instances for an account than a job may open");
    }
    let env = Env::builder().config("pool = [70000, 70003]").sections("[isolation]\n").start();
    let take = "import ctypes, time\nlibc = ctypes.CDLL(None)\n\
                while libc.inotify_init1(0) >= 0: pass\nprint('taken', flush=True)\ntime.sleep(600)";
    let argv = ["start", "--user=nobody", "--", "/usr/bin/python3", "-c", take];
    let id = env.jobctl("user-a", &argv).id();
    until("all are taken", || env.stdout_log(&id).contains("taken").then_some(()));
    let ask = "import ctypes\nprint(ctypes.CDLL(None).inotify_init1(0) >= 0)";
    let ask = |account| {
        let argv = ["run", account, "--", "/usr/bin/python3", "-c", ask];
        env.jobctl("user-b", &argv).expect(0).out()
    };
    assert_eq!(ask("--user=nobody"), "False\n");
    assert_eq!(ask("--user=pool"), "True\n");
    env.jobctl("user-a", &["kill", "-s", "KILL", &id]).expect(0);
    env.assert_clean();
}
