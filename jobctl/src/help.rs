//! The text below each command's options: what it does beyond its one line, and examples.

pub(crate) const RUN: &str = "\
The job's standard output and error go to jobctl's, byte for byte; on a terminal control characters
are escaped unless --raw is given. The exit status is the job's (see jobctl --help).

Ctrl-C, SIGTERM and SIGHUP are passed on to the job; at the third Ctrl-C jobctl gives up waiting and
leaves the job running. Whoever reads jobctl's output and goes away ends the job as in a local
pipeline: it is sent SIGPIPE, and jobctl exits with 141.

When the connection or the broker goes away, jobctl says so, reconnects and goes on at the exact
byte. The job itself does not notice, and is never started a second time.

Examples:
  jobctl run -- make -j8
  jobctl run --time 10m --name nightly -l team=db -- /opt/backup --full
  jobctl run -- sh -c 'echo out; echo err >&2; exit 7'; echo $?
  tar cz src | jobctl run -i -w /tmp -- tar xz";

pub(crate) const START: &str = "\
The job runs on without jobctl: follow it with \"logs -f\", wait for it with \"wait\".

Examples:
  id=$(jobctl start --name web -e PORT=8080 -- /srv/web --verbose)
  jobctl start --request-id deploy-42 -- /opt/deploy   # repeat it as you like: one job
  jobctl start -o json -- sleep 60";

pub(crate) const PS: &str = "\
Without -a or --state: the jobs that have not ended. The newest come first.

Examples:
  jobctl ps -a --limit 20
  jobctl ps -a --state lost -o wide
  jobctl ps -l team=db -o json
  jobctl stop $(jobctl ps -q)";

pub(crate) const STATUS: &str = "\
Examples:
  jobctl status nightly
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

pub(crate) const WHOAMI: &str = "\
Examples:
  jobctl auth whoami
  jobctl auth whoami -o name";

pub(crate) const CONFIG: &str = "\
Each setting is looked for in this order: the flag (--addr, --ca, --cert, --key); the context of
--context; the variable (JOBCTL_ADDR, JOBCTL_CA, JOBCTL_CERT, JOBCTL_KEY); the context of
JOBCTL_CONTEXT; the current context. Contexts are kept in $XDG_CONFIG_HOME/jobctl/config.toml, or
~/.config/jobctl/config.toml.";

pub(crate) const SET_CONTEXT: &str = "\
What is not given stays as it was. The first context made becomes the current one.

Examples:
  jobctl config set-context lab --addr build7:7443 --ca ca.pem --cert me.pem --key me.key
  jobctl config use-context lab
  jobctl config get-contexts";

pub(crate) const COMPLETION: &str = "\
Examples:
  source <(jobctl completion bash)
  jobctl completion zsh > ~/.zfunc/_jobctl
  jobctl completion fish > ~/.config/fish/completions/jobctl.fish";
