//! The canaries. Their scripts need what every Debian has: dash, coreutils, util-linux.

use job_api::v1::isolation::Profile;
use job_api::v1::{IoMax, Isolation, JobSpec, Limits, Mount, OutputPolicy, Rlimit};

use super::canary::{Canary, Check, Step};
use super::checks;
use super::checks::{CPUS, MEMORY, NOFILE, OUTPUT, PIDS, WRITE_BPS};

/// `$JOB_DIR` of a job with files of its own, and how a limit names its disk in every profile.
pub(crate) const JOB_DIR: &str = "/run/job";

const SECOND: prost_types::Duration = prost_types::Duration { seconds: 1, nanos: 0 };

/// Until a canary has come to its point, in milliseconds: for a host that has little time to give.
const TIMEOUT_MS: u64 = 20_000;

const PLAIN: Canary = Canary {
    name: "",
    script: "",
    limits: |_, _| {},
    beside: None,
    steps: &[],
    checks: &[],
    is_alone: false,
};

fn limited(spec: &mut JobSpec, limits: Limits) {
    spec.limits = Some(limits);
}

/// In the order of the report.
pub(crate) const CANARIES: &[Canary] = &[
    Canary {
        name: "memory",
        // Up to 128 MiB, where nothing stops it.
        script: "echo begun; s=xxxxxxxxxxxxxxxx; i=0\n\
            while [ $i -lt 23 ]; do s=$s$s; i=$((i + 1)); done",
        limits: |spec, _| {
            limited(spec, Limits { memory_max_bytes: Some(MEMORY), ..Limits::default() });
        },
        beside: Some("exec sleep 90"),
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[
            Check { name: "memory", asked: "64 MiB, then killed", judge: checks::memory },
            Check { name: "neighbour", asked: "runs on beside it", judge: checks::neighbour },
            Check { name: "record", asked: "its exit and all output", judge: checks::record },
        ],
        ..PLAIN
    },
    Canary {
        name: "pids",
        // Whoever cannot fork stays, as a sleep. At most 127 processes, where nothing stops it.
        script: "bomb() {\n\
            trap 'exec sleep 90' EXIT\n\
            [ $1 -gt 0 ] || exit\n\
            bomb $(($1 - 1)) & bomb $(($1 - 1)) & wait\n\
            }\n\
            bomb 6 2>/dev/null",
        limits: |spec, _| limited(spec, Limits { pids_max: Some(PIDS), ..Limits::default() }),
        steps: &[
            Step::Until(checks::has_met_pids_max, TIMEOUT_MS),
            Step::Sleep(300),
            Step::Read,
            Step::Stop(500),
            Step::End(5_000),
        ],
        checks: &[
            Check { name: "pids", asked: "16 processes", judge: checks::pids },
            Check { name: "fork bomb", asked: "gone 5 s after a stop", judge: checks::bomb_gone },
        ],
        ..PLAIN
    },
    Canary {
        name: "cpu",
        script: "while :; do :; done",
        limits: |spec, _| {
            let quota = (CPUS * 100_000.0) as u64;
            limited(
                spec,
                Limits {
                    cpu_max_quota_usec: Some(quota),
                    cpu_max_period_usec: Some(100_000),
                    ..Limits::default()
                },
            );
        },
        steps: &[Step::Sleep(300), Step::Read, Step::Sleep(5_000), Step::Read],
        checks: &[Check { name: "cpu", asked: "0.2 CPUs", judge: checks::cpu }],
        is_alone: true,
        ..PLAIN
    },
    Canary {
        name: "cpu-time",
        script: "while :; do :; done",
        limits: |spec, _| spec.cpu_time_limit = Some(SECOND),
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[Check { name: "cpu time", asked: "1 s of CPU time", judge: checks::cpu_time }],
        ..PLAIN
    },
    Canary {
        name: "time",
        script: "exec sleep 90",
        limits: |spec, _| spec.time_limit = Some(SECOND),
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[Check { name: "deadline", asked: "1 s", judge: checks::deadline }],
        ..PLAIN
    },
    Canary {
        name: "io",
        // A file without a name, at most 48 MiB of it.
        script: "d=$1; [ \"$d\" != /run/job ] || d=$JOB_DIR\n\
            f=$(mktemp \"$d/selfcheck.XXXXXX\") && exec 3>\"$f\" && rm \"$f\" || exit\n\
            exec dd if=/dev/zero bs=1M count=48 oflag=direct status=none >&3",
        limits: |spec, directory| {
            let disk =
                IoMax { path: directory.to_owned(), wbps: Some(WRITE_BPS), ..IoMax::default() };
            limited(spec, Limits { io_max: vec![disk], ..Limits::default() });
            if directory != JOB_DIR {
                let mount = Mount { source: directory.to_owned(), ..Mount::default() };
                spec.isolation = Some(Isolation { mounts: vec![mount], ..Isolation::default() });
            }
        },
        steps: &[Step::Sleep(300), Step::Read, Step::Sleep(3_000), Step::Read],
        checks: &[Check { name: "io", asked: "5 MB/s written to DIR", judge: checks::io }],
        is_alone: true,
        ..PLAIN
    },
    Canary {
        name: "output",
        script: "yes | head -c 67108864",
        limits: |spec, _| {
            spec.output_limit_bytes = OUTPUT;
            spec.set_output_policy(OutputPolicy::Kill);
        },
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[Check { name: "output", asked: "1 MiB, then ended", judge: checks::output }],
        ..PLAIN
    },
    Canary {
        name: "nofile",
        script: "n=$(ulimit -n); echo \"it says $n\" >&2; [ \"$n\" = 16 ]",
        limits: |spec, _| {
            let nofile = Rlimit { name: "nofile".into(), soft: NOFILE, hard: NOFILE };
            limited(spec, Limits { rlimits: vec![nofile], ..Limits::default() });
        },
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[Check { name: "ulimit", asked: "16 open files", judge: checks::nofile }],
        ..PLAIN
    },
    Canary {
        name: "pause",
        script: "exec nice -n 19 sh -c 'while :; do :; done'",
        steps: &[
            Step::Sleep(300),
            Step::Pause,
            Step::Read,
            Step::Sleep(1_000),
            Step::Read,
            Step::Resume,
            Step::Sleep(500),
            Step::Read,
        ],
        checks: &[Check { name: "pause", asked: "no CPU time meanwhile", judge: checks::pause }],
        ..PLAIN
    },
    Canary {
        name: "escape",
        // In sessions of their own, without a parent, deaf to the stop signal.
        script: "trap '' TERM\n\
            setsid -f sh -c 'setsid -f sleep 90; exec sleep 90'\n\
            setsid -f sleep 90\n\
            echo ready; exec sleep 90",
        steps: &[
            Step::Until(checks::has_said_something, TIMEOUT_MS),
            Step::Sleep(300),
            Step::Read,
            Step::Stop(500),
            Step::End(5_000),
        ],
        checks: &[Check {
            name: "stop",
            asked: "deaf setsid processes gone",
            judge: checks::escape,
        }],
        ..PLAIN
    },
    Canary {
        name: "isolation",
        script: "fail() { echo \"$*\" >&2; exit 1; }\n\
            n=$(ls -d /proc/[0-9]* | wc -l); [ $n -le 5 ] || fail \"it sees $n processes\"\n\
            grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* / ro' /proc/self/mountinfo || fail \"/ can be written\"\n\
            [ -z \"$(ls -A /tmp /var/tmp | grep -v :)\" ] || fail \"it shares /tmp\"\n\
            [ \"$(ls /run)\" = job ] || fail \"it sees the sockets in /run\"\n\
            ! unshare -U true 2>/dev/null || fail \"it makes namespaces\"\n\
            [ ! -e /proc/1 ] || fail \"it sees its shim\"\n\
            grep -q '^CapBnd:.0*$' /proc/self/status || fail \"it may get capabilities\"\n\
            grep -q '^NoNewPrivs:.1' /proc/self/status || fail \"setuid programs have an effect\"\n\
            grep -q '^Seccomp:.2' /proc/self/status || fail \"no system call is refused\"\n\
            n=$(grep -c ' - proc ' /proc/self/mountinfo); [ $n = 1 ] || fail \"it sees another /proc\"\n\
            ! grep -q ' - cgroup2* ' /proc/self/mountinfo || fail \"it sees cgroups\"\n\
            [ -z \"$(ls -A /dev/mqueue)\" ] || fail \"it sees message queues\"\n\
            [ \"$(cat /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm | wc -l)\" -le 3 ] || fail \"it sees System V IPC\"\n\
            ! kill -0 1 2>/dev/null || fail \"it may signal its shim\"\n\
            [ \"$(cut -d ' ' -f 7 /proc/self/stat)\" = 0 ] || fail \"a terminal controls it\"\n\
            for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /etc/passwd /dev/x /sys/x; do\n\
            ! (: >>$f) 2>/dev/null || fail \"it can write to $f\"; done\n\
            for f in /dev/mem /dev/kmsg /dev/console /dev/[sv]d[a-z] /dev/vsock /proc/kcore; do\n\
            ! (: <$f) 2>/dev/null || fail \"it can open $f\"; done\n\
            echo own >\"$JOB_DIR/file\" || fail \"it cannot write to its own directory\"",
        limits: |spec, _| {
            let mut isolation = Isolation::default();
            isolation.set_profile(Profile::Private);
            spec.isolation = Some(isolation);
        },
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[Check {
            name: "isolation",
            asked: "files and processes of its own",
            judge: checks::isolation,
        }],
        ..PLAIN
    },
    Canary {
        name: "strict",
        script: "fail() { echo \"$*\" >&2; exit 1; }\n\
            for d in /home /root /srv /var/lib /var/log /boot /mnt; do\n\
            [ -z \"$(ls -A $d 2>/dev/null)\" ] || fail \"it sees $d\"; done\n\
            [ ! -e /etc/shadow ] || fail \"it sees /etc/shadow\"\n\
            n=$(tail -n +3 /proc/net/dev | grep -vc '^ *lo:'); [ $n = 0 ] || fail \"it has the host's network\"\n\
            [ $(wc -l </proc/net/unix) -le 1 ] || fail \"it sees the host's sockets\"",
        limits: |spec, _| {
            let mut isolation = Isolation::default();
            isolation.set_profile(Profile::Strict);
            spec.isolation = Some(isolation);
        },
        steps: &[Step::End(TIMEOUT_MS)],
        checks: &[Check {
            name: "strict",
            asked: "a base system, no network",
            judge: checks::isolation,
        }],
        ..PLAIN
    },
    Canary {
        name: "holder",
        script: "sleep 90 & exit 0",
        steps: &[Step::Exit(TIMEOUT_MS), Step::End(TIMEOUT_MS)],
        checks: &[Check {
            name: "end",
            asked: "with a process that holds stdout",
            judge: checks::holder,
        }],
        ..PLAIN
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_short_enough_for_a_jobs_name() {
        let names: BTreeSet<_> = CANARIES.iter().map(|canary| canary.name).collect();
        assert_eq!(names.len(), CANARIES.len());
        assert!(names.iter().all(|name| name.len() <= 16));
        let checks = CANARIES.iter().flat_map(|canary| canary.checks);
        let checks: Vec<_> = checks.map(|check| check.name).collect();
        assert_eq!(checks.iter().collect::<BTreeSet<_>>().len(), checks.len());
    }

    #[test]
    fn the_whole_check_takes_less_than_twenty_seconds_where_limits_hold() {
        let slept = |canary: &Canary| {
            let slept = |step: &Step| if let Step::Sleep(ms) = step { *ms } else { 0 };
            canary.steps.iter().map(slept).sum::<u64>()
        };
        let alone: u64 = CANARIES.iter().filter(|canary| canary.is_alone).map(slept).sum();
        let together = CANARIES.iter().filter(|canary| !canary.is_alone).map(slept).max();
        assert!(alone + together.unwrap_or(0) < 12_000);
    }

    #[test]
    fn scripts_are_what_a_shell_takes() {
        for canary in CANARIES {
            let status = std::process::Command::new("/bin/sh")
                .args(["-n", "-c", canary.script])
                .status()
                .expect("sh runs");
            assert!(status.success(), "{}", canary.name);
        }
    }
}
