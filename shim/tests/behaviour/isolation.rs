//! What the workload has, and what it cannot reach.

use job_shim::wire::Progress;

use crate::broker::{SHIM, Shim, script};
use crate::host::Host;

fn output_of(text: &str) -> Option<String> {
    let mut shim = Shim::start(Host::new()?, &script(text));
    shim.ended();
    Some(shim.stdout())
}

#[test]
fn the_workload_is_nobody_without_capabilities_and_with_three_descriptors() {
    let Some(text) = output_of(
        "id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs|SigBlk|SigIgn)' /proc/self/status; \
         n=0; while [ $n -lt 300 ]; do [ -e /proc/$$/fd/$n ] && printf \"$n \"; n=$((n+1)); done",
    ) else {
        return;
    };
    let none = "0000000000000000";
    let expected = format!(
        "65534\n65534\n65534\nSigBlk:\t{none}\nSigIgn:\t{none}\nCapInh:\t{none}\nCapPrm:\t{none}\n\
         CapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\n0 1 2 "
    );
    assert_eq!(text, expected);
}

#[test]
fn the_workload_has_a_session_a_umask_and_limits_of_its_own() {
    let Some(text) = output_of(
        "umask; ulimit -c; ulimit -n; cat /proc/$$/oom_score_adj; pwd; \
         set -- $(cat /proc/$$/stat); [ $6 = $$ ] && echo leads",
    ) else {
        return;
    };
    assert_eq!(text, "0022\n0\n1024\n0\n/\nleads\n");
}

#[test]
fn the_workload_can_open_its_own_streams_by_path() {
    let Some(text) = output_of("echo a > /dev/stdout; echo b > /proc/self/fd/1; cat /dev/stdin")
    else {
        return;
    };
    assert_eq!(text, "a\nb\n");
}

#[test]
fn the_workload_cannot_signal_or_trace_the_shim() {
    let Some(host) = Host::new() else { return };
    let text = "for s in 0 1 9 15 19; do kill -$s $PPID 2>/dev/null && echo killed; done; \
                for f in mem environ maps auxv; do \
                  dd if=/proc/$PPID/$f bs=1 count=1 2>/dev/null | grep -q . && echo $f; done; \
                ls /proc/$PPID/fd 2>/dev/null; readlink /proc/$PPID/exe; echo done; exec sleep 60";
    let mut shim = Shim::start(host, &script(text));
    shim.watch(|p: &Progress| p.stdout >= 5);
    assert_eq!(shim.stdout(), "done\n");
    shim.stop(0);
    shim.ended();
}

#[test]
fn the_shim_keeps_nothing_of_root() {
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("exec sleep 60"));
    let path = format!("/proc/{}", shim.process.id());
    let status = std::fs::read_to_string(format!("{path}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(":\t").unwrap().1.to_owned()
    };
    assert_eq!(field("Uid"), format!("{SHIM}\t65534\t{SHIM}\t65534"));
    assert_eq!(field("Gid"), format!("{SHIM}\t{SHIM}\t{SHIM}\t{SHIM}"));
    assert_eq!(field("Groups").trim(), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Threads"), "1");
    if job_shim::filter::is_available() {
        assert_eq!(field("Seccomp"), "2", "a filter");
    } else {
        eprintln!("not looked at: this kernel has no system-call filters");
    }
    shim.stop(0);
    shim.ended();
}

#[test]
fn the_shim_is_not_killed_for_memory_where_root_may_say_so() {
    let held = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE);
    if !held.unwrap() {
        eprintln!("skipped: CAP_SYS_RESOURCE is not held here");
        return;
    }
    let Some(host) = Host::new() else { return };
    let mut shim = Shim::start(host, &script("exec sleep 60"));
    let path = format!("/proc/{}/oom_score_adj", shim.process.id());
    assert_eq!(std::fs::read_to_string(path).unwrap(), "-1000\n");
    shim.stop(0);
    shim.ended();
}

#[test]
fn the_shim_does_not_end_with_the_service() {
    let Some(host) = Host::new() else { return };
    let mut launch = script("echo a; read x; echo b");
    launch.stdin = true;
    let mut shim = Shim::start(host, &launch);
    shim.watch(|p: &Progress| p.stdout == 2);
    let pid = i32::try_from(shim.process.id()).unwrap();
    for signal in ["HUP", "INT", "TERM", "PIPE"] {
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-s", signal, &pid.to_string()]).status().unwrap().success());
    }
    shim.input(0, b"\n", false);
    shim.ended();
    assert_eq!(shim.stdout(), "a\nb\n");
}
