//! The text below each command's options: what it does beyond its one line, and examples.

pub(crate) const RUN: &str = "\
The job's standard output and error go to jobctl's, byte for byte; on a terminal control characters
are escaped unless --raw is given. The exit status is the job's (see jobctl --help).

Ctrl-C, SIGTERM and SIGHUP are passed on to the job; at the third Ctrl-C jobctl gives up waiting and
leaves the job running. Whoever reads jobctl's output and goes away ends the job as in a local
pipeline: it is sent SIGPIPE, and jobctl exits with 141.

When the connection or the broker goes away, jobctl says so, reconnects and goes on at the exact
byte. The job itself does not notice, and is never started a second time.

A limit that the broker's host cannot keep, or that is above its ceiling, is refused, never left
out. \"max\" in place of a number, a size or a rate takes a limit away, as far as the ceiling
allows. A DISK is an absolute path on it or MAJOR:MINOR; without one, the disk of the working
directory is meant.

Examples:
  jobctl run -- make -j8
  jobctl run --time 10m --name nightly -l team=db -- /opt/backup --full
  jobctl run --cpus 0.5 -m 256M --pids-limit 100 -- ./untrusted
  jobctl run --io low --device-write-bps /data:5M --cpu-time 1h -- /opt/reindex
  jobctl run -- sh -c 'echo out; echo err >&2; exit 7'; echo $?
  tar cz src | jobctl run -i -- sh -c 'tar xz && make -C src'";

pub(crate) const START: &str = "\
The job runs on without jobctl: follow it with \"logs -f\", wait for it with \"wait\". More about limits
is in \"jobctl run --help\".

Examples:
  id=$(jobctl start --name web -e PORT=8080 -- /srv/web --verbose)
  jobctl start --request-id deploy-42 -- /opt/deploy   # repeat it as you like: one job
  jobctl start --cpus 2 -m 1G --ulimit nofile=4096 -- /srv/web
  jobctl start -o json -- sleep 60";

pub(crate) const PS: &str = "\
Without -a or --state: the jobs that have not ended. The newest come first. With -o wide their limits
and what they use are there too: CPU time; memory and processes now, \"/\" their limit.

Examples:
  jobctl ps -a --limit 20
  jobctl ps -a --state lost -o wide
  jobctl ps -l team=db -o json
  jobctl stop $(jobctl ps -q)";

pub(crate) const STATS: &str = "\
On a terminal the table is drawn anew each second until Ctrl-C, which leaves the last one there;
columns that do not fit are left out. Anywhere else, and with -o json, yaml or name, it is printed
once; --stream goes on there too, tables with an empty line between, messages as documents. With
JOBs named it ends when all of them have ended.

CPU % is that of one CPU, from two readings a second apart (a table printed once takes a second for
it); an ended job has none. Everything else is since the job's start, or as it is now. THROTTLED is
the share of periods in which the CPU limit held the job up. LIMIT is the job's own; of JOBs that
are named, the tightest of it and of those above it. \"-\" is what the host's kernel does not tell, or
nobody asked for. Of an ended job the last figures are shown. -o wide adds id, owner, state, swap and
PSI: percent of the last 10 s in which some process waited for CPU, memory or io.

Examples:
  jobctl stats
  jobctl stats nightly web -o wide
  jobctl stats --no-stream | sort -k2 -rn
  jobctl stats -o json | jq '.jobs[].usage.memory_peak_bytes'";

pub(crate) const STATUS: &str = "\
With --limits: ASKED is the job's wish or the broker's default, APPLIED what the kernel took, read
back, in its own terms; IN FORCE is the tightest of it and of all cgroups above, and BOUND BY the
cgroup above that is tighter than the job's own limit.

Examples:
  jobctl status nightly
  jobctl status nightly --limits
  jobctl status 0198c7f2 -o json";

pub(crate) const INSPECT: &str = "\
Prints the message of the .proto, with its field names: JSON, or YAML with -o yaml.

Examples:
  jobctl inspect nightly
  jobctl inspect nightly | jq .exit_code";

pub(crate) const LOGS: &str = "\
What the job wrote to standard output goes to standard output, and so with standard error. On a
terminal control characters are escaped unless --raw is given. Ctrl-C ends jobctl, not the job.

Examples:
  jobctl logs nightly --tail 100
  jobctl logs -f nightly --since 10m --timestamps
  jobctl logs nightly --stream stdout > backup.tar
  jobctl logs nightly --stream stdout --from-offset 1048576 >> backup.tar";

pub(crate) const STREAM: &str = "\
The same as \"logs -f\".

Examples:
  jobctl stream nightly
  jobctl stream nightly --tail 0 --stream stderr";

pub(crate) const WAIT: &str = "\
The exit status is the job's (see jobctl --help); of several jobs, that of the last in the order
given whose status is not 0. With -o json or yaml the jobs are printed as they end.

Examples:
  jobctl wait nightly && echo well done
  jobctl wait --until end build-1 build-2 build-3";

pub(crate) const STOP: &str = "\
Every process of a job gets its stop signal, and after the grace period SIGKILL, however deep it
hides. All are asked first, then waited for. A job that has ended already is fine.

Examples:
  jobctl stop nightly
  jobctl stop -t 0 build-1 build-2
  jobctl stop -t 5m --no-wait database";

pub(crate) const KILL: &str = "\
The signal goes to the process group of the job's main process, as a terminal's Ctrl-C would. To be
sure that nothing of a job is left, use \"stop\".

Examples:
  jobctl kill -s HUP web
  jobctl kill -s SIGINT build-1 build-2
  jobctl kill -s 10 web";

pub(crate) const PAUSE: &str = "\
All processes of a job stand still when this returns. Its deadline (--time) goes on, and ends a
paused job too; \"jobctl update --time\" moves it. A paused job can be stopped.

Examples:
  jobctl pause nightly
  jobctl pause build-1 build-2";

pub(crate) const RESUME: &str = "\
A job that is not paused is fine.

Examples:
  jobctl resume nightly
  jobctl resume $(jobctl ps --state paused -q)";

pub(crate) const UPDATE: &str = "\
What is given changes, the rest stays: all of it or, if any of it is refused, nothing. What has
changed is printed, and kept with the job: see \"jobctl inspect\". The limits of each process, which
--ulimit sets, are fixed at the start.

\"max\" in place of a number, a size or a rate takes a limit away, as far as the broker's ceiling
allows. A DISK is an absolute path on it or MAJOR:MINOR; without one, the disk of the working
directory is meant.

Examples:
  jobctl update nightly --memory 512M --cpus 2 --time +10m
  jobctl update nightly --pids-limit max
  jobctl update nightly --memory 64M --force";

pub(crate) const RM: &str = "\
Examples:
  jobctl rm build-1 build-2
  jobctl rm --force web";

pub(crate) const PRUNE: &str = "\
Prints the ids of what was removed. Jobs of others are never touched.

Examples:
  jobctl prune --older-than 7d
  jobctl prune --older-than 1h --dry-run";

pub(crate) const INFO: &str = "\
Examples:
  jobctl info
  jobctl info -o json | jq .missing_controllers";

pub(crate) const QUOTA: &str = "\
A start beyond one of them is refused, as is a change of limits. \"cpus\", \"memory\" and \"pids\" are
sums of the limits of jobs that have not ended. Beyond \"kept_jobs\" and \"kept_bytes\" nothing is
refused: your jobs that ended first are removed.

Examples:
  jobctl quota
  jobctl quota --owner ci
  jobctl quota -o json | jq '.quotas[] | select(.limit)'";

pub(crate) const AUDIT: &str = "\
With -o json each line is as the broker has it in its files, a JSON object in the names of the
Elastic Common Schema. Lines that nobody waited for appear after a second at most. Whoever reads the
audit is in it, too. \"job-broker audit verify\" on the broker's host proves that no line is missing.

Examples:
  jobctl audit --job 0198c2 --verb stop
  jobctl audit --follow --owner ci
  jobctl audit --since 24h -o json | jq -r 'select(.event.type[0] == \"denied\") | .user.name'";

pub(crate) const CAN_I: &str = "\
Examples:
  jobctl auth can-i start --user pool --workdir /srv/build -- /usr/bin/make
  jobctl auth can-i stop --owner alice --explain
  jobctl auth can-i delete --job build";

pub(crate) const WHOAMI: &str = "\
Examples:
  jobctl auth whoami
  jobctl auth whoami -o name";

pub(crate) const SELFCHECK: &str = "\
Runs canaries, small jobs of /bin/sh that go past their limits, and compares what was asked with
what the kernel counted: memory, processes, CPU, CPU time, deadline, disk writes, output, ulimits,
pausing, isolation, and that a stop leaves nothing of a job. Takes less than 20 s on a host that has time, in
which it gives them two CPUs and 128 MiB of memory at most. What is not seen enforced is looked at
again, alone, up to twice: a busy host can hold up a measurement. The canaries carry the label
\"selfcheck\" and have a deadline of their own; they are stopped and removed at the end, also after
Ctrl-C.

Each check is \"enforced\", \"NOT ENFORCED\", \"refused\" with the broker's reason (this host cannot
enforce it, and the broker takes no job that asks for it), or \"could not be checked\" with the
reason. The exit status is 0 if all are enforced, else 1; 125 if you are not an admin of the broker.
With -o name the checks that are not \"enforced\" are listed.

Examples:
  jobctl admin selfcheck
  jobctl admin selfcheck --directory /srv/data
  jobctl admin selfcheck -o json | jq '.checks[] | select(.verdict != \"enforced\")'";

pub(crate) const CONFIG: &str = "\
Each setting is looked for in this order: the flag (--addr, --ca, --cert, --key); the context of
--context; the variable (JOBCTL_ADDR, JOBCTL_CA, JOBCTL_CERT, JOBCTL_KEY); the context of
JOBCTL_CONTEXT; the current context. Contexts are kept in $XDG_CONFIG_HOME/jobctl/config.toml, or
~/.config/jobctl/config.toml.";

pub(crate) const CONNECT: &str = "\
A new connection takes two round trips before the first call. A context with \"persist\" (or the
variable JOBCTL_PERSIST) keeps one: the first command starts a process in the background, which holds
the connection behind a socket that only you can open, in $XDG_RUNTIME_DIR/jobctl, or else in
/tmp/jobctl-UID. It ends when it was idle for that time, and with the connection. Commands that do not
find it connect by themselves; \"run -i\" always does.

Examples:
  jobctl config set-context lab --persist 10m
  jobctl connect
  jobctl connect --stop";

pub(crate) const SET_CONTEXT: &str = "\
What is not given stays as it was. The first context made becomes the current one.

Examples:
  jobctl config set-context lab --addr build7:7443 --ca ca.pem --cert me.pem --key me.key
  jobctl config set-context lab --persist 10m
  jobctl config use-context lab
  jobctl config get-contexts";

pub(crate) const COMPLETION: &str = "\
Examples:
  source <(jobctl completion bash)
  jobctl completion zsh > ~/.zfunc/_jobctl
  jobctl completion fish > ~/.config/fish/completions/jobctl.fish";
