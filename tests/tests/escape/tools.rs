//! What people run in jobs, which must go on working.

use std::process::Command;

use job_tests::host;

use crate::{attack, env};

/// The program that has to be there, what it does, and whether it is tried in `strict`.
const PROGRAMS: [(&str, &str, bool); 10] = [
    ("gcc", "printf 'int main(){return 0;}' >a.c && gcc a.c -o a && ./a && echo ok", true),
    (
        "git",
        "git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x \
         && git -c core.pager=cat log -1 --format=ok",
        true,
    ),
    (
        "python3",
        "/usr/bin/python3 -c 'import threading, multiprocessing as m, subprocess, tempfile, socket\n\
         t = threading.Thread(target=int); t.start(); t.join()\n\
         p = m.Process(target=int); p.start(); p.join()\n\
         assert m.Pool(2).map(abs, [-1, -2]) == [1, 2]\n\
         q = m.Queue(); q.put(1); assert q.get() == 1\n\
         subprocess.run([\"true\"], check=True); tempfile.TemporaryFile(); socket.socketpair()\n\
         print(\"ok\")'",
        true,
    ),
    (
        "node",
        "node -e 'const w = require(\"worker_threads\"), c = require(\"child_process\");\
         new w.Worker(\"\", {eval: true}).on(\"exit\", () => c.exec(\"echo ok\", (e, o) => console.log(o.trim())))'",
        true,
    ),
    (
        "java",
        "printf 'class A { public static void main(String[] a) throws Exception { \
         Thread t = new Thread(() -> System.out.println(\"ok\")); t.start(); t.join(); } }' >A.java; \
         if command -v javac >/dev/null; then java A.java; else java -version 2>/dev/null && echo ok; fi",
        false, // Debian's has a part in /etc
    ),
    (
        "go",
        "HOME=$JOB_DIR GOCACHE=/tmp/go GOFLAGS=-mod=mod GO111MODULE=off; \
         export HOME GOCACHE GOFLAGS GO111MODULE; \
         printf 'package main\\nfunc main(){println(1)}' >m.go && go build -o m m.go && ./m 2>/dev/null && echo ok",
        false, // it makes its runtime anew each time
    ),
    ("perl", "perl -e 'fork // die; wait; print \"ok\\n\"' | tail -n 1", true),
    ("strace", "strace -f -o trace sh -c 'true & wait' && grep -q exited trace && echo ok", false),
    ("tar", "tar czf a.tgz /etc/passwd 2>/dev/null && tar xzf a.tgz && echo ok", true),
    ("bash", "bash -c 'cat <(echo ok) <<<x; ulimit -n >/dev/null'", true),
];

#[test]
fn programs_that_people_use_run_in_private_and_strict_jobs() {
    let env = env();
    for (program, script, in_strict) in PROGRAMS {
        // Where a job finds it.
        let path = "PATH=/usr/bin:/usr/local/bin:/usr/local/go/bin; export PATH; ";
        let find = format!("{path} command -v {program}");
        let found = Command::new("sh").args(["-c", &find]).output();
        if !found.is_ok_and(|found| found.status.success()) {
            host::tell(&format!("{program} is not below /usr here, and was not tried"));
            continue;
        }
        for profile in ["private", "strict"] {
            if profile == "private" || in_strict {
                let said = attack(&env, profile, &format!("{path}{script}"));
                assert!(said.ends_with("ok\n"), "{profile}: {program}: {said}");
            }
        }
    }
    env.assert_clean();
}
