//! What people run in jobs, which must go on working.

use std::process::Command;

use job_tests::host;

use crate::{attack, env};

#[test]
fn programs_that_people_use_run_in_a_private_job() {
    let env = env();
    let programs = [
        ("gcc", "printf 'int main(){return 0;}' >a.c && gcc a.c -o a && ./a && echo ok"),
        (
            "git",
            "git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && echo ok",
        ),
        (
            "python3",
            "python3 -c 'import threading, multiprocessing as m, subprocess; t = threading.Thread(target=print); t.start(); t.join(); p = m.Process(target=print); p.start(); p.join(); subprocess.run([\"true\"]); print(\"ok\")'",
        ),
        ("node", "node -e 'console.log(\"ok\")'"),
        ("java", "java -version 2>/dev/null && echo ok"),
        (
            "go",
            "HOME=$JOB_DIR GOCACHE=/tmp/go GOFLAGS=-mod=mod; export HOME GOCACHE; printf 'package main\\nfunc main(){println(1)}' >m.go && go build -o m m.go && ./m 2>/dev/null && echo ok",
        ),
        ("perl", "perl -e 'print \"ok\\n\"'"),
        ("strace", "strace -f -o /dev/null true && echo ok"),
        ("tar", "tar cf a.tar /etc/passwd 2>/dev/null && tar xf a.tar && echo ok"),
    ];
    let (there, absent): (Vec<_>, Vec<_>) = programs.into_iter().partition(|(program, _)| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        found.is_ok_and(|found| found.stdout.starts_with(b"/usr/bin/"))
    });
    for (program, _) in absent {
        host::tell(&format!("{program} is not in /usr/bin here, and was not tried"));
    }
    for (program, script) in there {
        let said = attack(&env, "private", script);
        assert!(said.ends_with("ok\n"), "{program}: {said}");
    }
    env.assert_clean();
}
