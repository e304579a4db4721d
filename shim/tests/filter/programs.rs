//! Real programs under the filters: those that are installed here; the others are printed.
#![allow(unsafe_code, reason = "a filter is installed between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use job_shim::filter::{Filter, install, is_available};
use tempfile::TempDir;

const BOTH: &[Filter] = &[Filter::Default, Filter::Strict];
/// What traces, needs ptrace(2).
const TRACERS: &[Filter] = &[Filter::Default];

/// Runs a shell script under a filter, in a directory of its own and without new privileges.
fn run(filter: Filter, script: &str, cache: &TempDir) -> Output {
    let directory = TempDir::new().unwrap();
    let mut shell = Command::new("/bin/bash");
    shell.args(["-euc", script]).current_dir(directory.path()).env("HOME", directory.path());
    shell.env("CACHE", cache.path());
    let confine = move || {
        nix::sys::prctl::set_no_new_privs()?;
        install(filter, false)?;
        Ok(())
    };
    // SAFETY: two system calls, and nothing that allocates.
    unsafe { shell.pre_exec(confine) }.output().unwrap()
}

/// The script prints this, under each of the filters as without one.
fn prints(program: &str, filters: &[Filter], script: &str, wanted: &str) {
    if !is_available() {
        eprintln!("skipped: this kernel has no system-call filters");
        return;
    }
    let cache = TempDir::new().unwrap();
    let usual = run(Filter::None, script, &cache);
    if !usual.status.success() {
        eprintln!(
            "skipped: {program} does not run here: {}",
            String::from_utf8_lossy(&usual.stderr)
        );
        return;
    }
    for filter in filters {
        let output = run(*filter, script, &cache);
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(wanted), "{program} under {filter:?}: {text:?}, {errors}");
        assert!(
            output.status.success(),
            "{program} under {filter:?}: {:?}, {errors}",
            output.status
        );
    }
}

fn is_user_mode_linux() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"))
}

#[test]
fn bash_and_its_pipes() {
    let script = "shopt -s lastpipe; seq 1000 | sort -rn | head -1 | tr 1 2; \
                  cat <(echo a) <(echo b) | wc -l; mkfifo f; echo c >f & cat f; wait; ulimit -n; \
                  kill -0 $$; sleep 0; type -p ls; date +%s >/dev/null; echo all done";
    prints("bash", BOTH, script, "all done");
}

#[test]
fn gcc_compiles_and_what_it_made_has_threads() {
    let script = r#"cat >a.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <spawn.h>
#include <sys/wait.h>
extern char **environ;
static void *half(void *x) { return (char *)x + 21; }
int main(void) {
    pthread_t t; void *r; pid_t p; int s;
    char *argv[] = {"true", 0};
    pthread_create(&t, 0, half, (void *)21); pthread_join(t, &r);
    if (posix_spawnp(&p, "true", 0, 0, argv, environ)) return 1;
    waitpid(p, &s, 0);
    printf("%ld %d\n", (long)r, s);
}
END
gcc -O2 -pipe -pthread -o a a.c && ./a"#;
    prints("gcc", BOTH, script, "42 0");
}

#[test]
fn git_commits_and_clones() {
    let script = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; \
                  git init -q one; cd one; seq 1000 >f; git add f; git commit -qm first; \
                  git gc -q; cd ..; git clone -q one two; git -C two log --format=%s";
    prints("git", BOTH, script, "first");
}

#[test]
fn python_has_threads_processes_and_sockets() {
    let script = r#"cat >a.py <<'END'
import concurrent.futures, multiprocessing, os, platform, socket, subprocess, sqlite3, tempfile, threading
def square(n): return n * n
if __name__ == '__main__':
    with concurrent.futures.ThreadPoolExecutor(4) as pool: a = sum(pool.map(square, range(10)))
    for how in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(how).Pool(2) as pool: a += sum(pool.map(square, range(10)))
    q = multiprocessing.Queue(); p = multiprocessing.Process(target=q.put, args=(1,)); p.start(); q.get(); p.join()
    s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); c.close()
    x, y = socket.socketpair(); socket.getaddrinfo('localhost', 80)
    subprocess.run(['true'], check=True); platform.platform(); os.sched_getaffinity(0)
    sqlite3.connect('d').execute('create table t (a)')
    print('sum', a)
END
python3 a.py"#;
    prints("python3", BOTH, script, "sum 1140");
}

#[test]
fn node_has_workers_and_children() {
    let script = r#"cat >a.js <<'END'
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage(41); return; }
const { execFileSync } = require('child_process');
const fs = require('fs'), net = require('net');
fs.promises.writeFile('f', execFileSync('echo', ['1'])).then(() => {
  new Worker(__filename).on('message', m => {
    const s = net.createServer(c => { c.end(); s.close(); console.log('node', m + +fs.readFileSync('f')); });
    s.listen(0, '127.0.0.1', () => net.connect(s.address().port, '127.0.0.1'));
  });
});
END
node a.js"#;
    prints("node", BOTH, script, "node 42");
}

#[test]
fn java_compiles_and_runs_with_threads() {
    let script = r#"cat >A.java <<'END'
import java.util.stream.*;
public class A { public static void main(String[] a) throws Exception {
    Process p = new ProcessBuilder("true").start();
    System.out.println("java " + (IntStream.range(0, 1000).parallel().sum() + p.waitFor())); } }
END
java -Xmx256m A.java"#;
    prints("java", BOTH, script, "java 499500");
}

#[test]
fn go_builds_and_runs_goroutines() {
    if is_user_mode_linux() {
        eprintln!("skipped: go takes minutes to compile its library in user-mode Linux");
        return;
    }
    // Of the library as little as possible: the first run compiles it.
    let script = r#"export GOCACHE=$CACHE GOPATH=$PWD/go GOTOOLCHAIN=local; cat >a.go <<'END'
package main

import "syscall"

func main() {
	c := make(chan int)
	for i := 0; i < 10; i++ {
		go func(i int) { c <- i }(i)
	}
	s := 0
	for i := 0; i < 10; i++ {
		s += <-c
	}
	if s == 45 {
		syscall.Write(1, []byte("go 45\n"))
	}
}
END
export PATH=$PATH:/usr/local/go/bin; go run a.go"#;
    prints("go", BOTH, script, "go 45");
}

#[test]
fn perl_and_tar() {
    let script = "perl -MIO::Socket::UNIX -e 'pipe R, W; if (!fork) { print W 6 * 7; exit } close W; wait; \
                  print \"perl \", <R>, \"\\n\"'; mkdir d; seq 100 >d/f; ln -s f d/l; mkfifo d/p; \
                  tar czf d.tgz d; rm -r d; tar xzf d.tgz; test -p d/p; wc -l <d/f";
    prints("perl and tar", BOTH, script, "perl 42\n100");
}

#[test]
fn strace_and_gdb_trace_under_the_default_filter() {
    let strace = "strace -f -o log sh -c 'echo a | cat'; grep -c exited log";
    prints("strace", TRACERS, strace, "a\n");
    let gdb = "gdb -batch -nx -ex run -ex bt --args sh -c 'kill -SEGV $$' 2>&1";
    prints("gdb", TRACERS, gdb, "SIGSEGV");
}

#[test]
fn strace_does_not_trace_under_the_strict_one() {
    if !is_available() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let script = "command -v strace >/dev/null || exit 77; strace -o log true";
    let output = run(Filter::Strict, script, &cache);
    if output.status.code() == Some(77) {
        eprintln!("skipped: no strace here");
        return;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("Operation not permitted"), "{errors}");
}
