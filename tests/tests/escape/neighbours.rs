//! Other jobs, and the shim of one's own.

use std::fs;

use job_tests::until;

use crate::{PROFILES, SECRET, Victim, attack, env, nice};

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
            "for p in {pid} {shim} -{pid} -1; do kill -9 $p 2>/dev/null; done; \
             renice -n 19 -p {pid} {shim} 2>/dev/null; chrt -i -p 0 {shim} 2>/dev/null; echo survived"
        );
        let nices = [nice(pid), nice(shim)];
        attack(&env, profile, &script);
        assert!(victim.lives(), "{profile}: the victim is dead");
        assert_eq!([nice(pid), nice(shim)], nices, "{profile}");
        let queues = attack(&env, profile, "ipcs -q -m | grep -c 0x");
        assert!(queues.starts_with('0'), "{profile}: {queues}");
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
