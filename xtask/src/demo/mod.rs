//! `cargo xtask demo`: the main job on a real workload, narrated, checked, and cleaned up after.
//!
//! `stage` shows and judges, `counting` is the scene with the killed broker, `limits` are those about
//! limits, which `in_vm` has played in the testbed VM where this host lacks what they need.

mod counting;
pub(crate) mod in_vm;
mod limits;
mod stage;
mod user;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::interrupt;
use crate::programs::{self, Profile, Programs};
use crate::site::{Site, Throwaway};
use stage::{Shown, Stage};
use user::{USER, json};

/// The arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A command of your own, in place of the first one
    #[arg(last = true)]
    command: Vec<String>,
}

/// Two lines to stdout, a second apart, one to stderr, and an exit status of its own.
const FIRST: &str = "id -un; echo working; sleep 1; echo done; echo complaint >&2; exit 7";

/// Succeeds if everything that was shown held.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let programs = programs::build(Profile::Dev)?;
    interrupt::watch()?;
    let mut stage = Stage::new();
    stage.heading("A broker of its own, with throw-away certificates");
    let throwaway = Throwaway::open(Profile::Dev, &programs)?;
    let site = &throwaway.site;
    stage.say(&format!("job-broker runs as root (pid {}),", site.broker_pid().unwrap_or_default()));
    stage.say(&format!(
        "listens on {} and keeps everything in {}.",
        site.addr(),
        site.dir().display()
    ));
    stage.say(&format!("The commands below are typed as {USER}, over mutual TLS."));
    let played = play(&mut stage, args, &programs, site);
    if interrupt::status().is_none() && (played.is_err() || stage.failed() > 0) {
        stage.log(&site.file("broker.log"));
    }
    stage.heading("The end");
    let left = throwaway.close();
    played?;
    left?;
    stage.say("Jobs, broker, cgroups and directory are gone.");
    Ok(stage.verdict())
}

fn play(stage: &mut Stage, args: &Args, programs: &Programs, site: &Site) -> Result<()> {
    if args.command.is_empty() {
        first_command(stage, site)?;
    } else {
        own_command(stage, site, &args.command)?;
    }
    stop_one(stage, site)?;
    counting::play(stage, site, programs)?;
    in_vm::play(stage, site, programs)
}

fn first_command(stage: &mut Stage, site: &Site) -> Result<()> {
    stage.heading("A command, streamed live, and its exit status");
    let shown = stage.live(site, &["run", "--", "sh", "-c", FIRST])?;
    stage.holds("the exit status is the command's own, 7", shown.status.code() == Some(7));
    stage.holds(
        "stdout and stderr arrived each on its own stream",
        shown.out() == ["nobody", "working", "done"] && shown.err() == ["complaint"],
    );
    let early = shown.before_end("working");
    let early_enough = early.is_some_and(|time| time > Duration::from_millis(700));
    stage.holds("lines arrived when they were written, not at the end", early_enough);
    Ok(())
}

fn own_command(stage: &mut Stage, site: &Site, command: &[String]) -> Result<()> {
    stage.heading("Your command, streamed live, and its exit status");
    let words: Vec<&str> =
        ["run", "--"].into_iter().chain(command.iter().map(String::as_str)).collect();
    let shown = stage.live(site, &words)?;
    let job = newest(site)?;
    let ended = job["state"] == "finished" || job["cause"] == "start_failed";
    stage.holds("the broker says that it has ended", ended);
    if let Some(code) = job["exit_code"].as_i64() {
        let same = shown.status.code().map(i64::from) == Some(code);
        stage.holds(&format!("jobctl exited as the command did, {code}"), same);
    }
    Ok(())
}

/// The job that was started last, as `jobctl ps -o json` has it.
fn newest(site: &Site) -> Result<Value> {
    let jobs = json(site, &["ps", "-a", "--limit", "1", "-o", "json"])?;
    Ok(jobs["jobs"][0].clone())
}

fn stop_one(stage: &mut Stage, site: &Site) -> Result<()> {
    stage.heading("Two jobs in the background; one is stopped");
    stage.live(site, &["start", "--name", "nap", "--", "sleep", "600"])?;
    stage.live(site, &["start", "--name", "tree", "--", "sh", "-c", "sleep 601 & sleep 602"])?;
    let list = stage.live(site, &["ps"])?;
    let listed = |list: &Shown, name| list.out().iter().any(|line| line.contains(name));
    stage.holds("both are listed", listed(&list, "nap") && listed(&list, "tree"));
    let tree = json(site, &["inspect", "tree", "-o", "json"])?;
    stage.live(site, &["stop", "-t", "2s", "tree"])?;
    let id = tree["id"].as_str().context("jobctl inspect: no id")?.to_owned();
    stage.live(site, &["status", &id])?;
    let now = json(site, &["inspect", &id, "-o", "json"])?;
    let stopped = now["state"] == "finished" && now["cause"] == "stopped";
    stage.holds("it was stopped, and by whom is on record", stopped && now["ended_by"] == USER);
    let cgroup = site.cgroup()?.join(&id);
    stage.holds("its whole process tree is gone, and its cgroup", !cgroup.exists());
    let list = stage.live(site, &["ps"])?;
    stage.holds("the other one goes on", listed(&list, "nap") && !listed(&list, "tree"));
    Ok(())
}
