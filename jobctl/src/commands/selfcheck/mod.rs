//! `admin selfcheck`: canaries go past their limits on the real host, and what the kernel counted is
//! compared with what was asked.
//!
//! [`canaries`] is the list, [`runner`] runs one over the API, [`checks`] are pure functions over
//! what was seen, [`report`] prints.

mod canaries;
mod canary;
mod checks;
mod report;
mod runner;

use std::rc::Rc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::cli::{Global, Selfcheck};
use crate::client::calls;
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::commands::selfcheck::canaries::CANARIES;
use crate::commands::selfcheck::canary::{Canary, Row, Unmeasured};
use crate::commands::selfcheck::runner::Runner;
use crate::failure::{Failure, Result, notice};
use crate::format::escape::escape;
use crate::print::sink;

/// How often a canary is run until its checks pass.
const ATTEMPTS: usize = 3;

/// `jobctl admin selfcheck`: the exit status.
pub(crate) async fn selfcheck(global: &Global, command: Selfcheck) -> Result<i32> {
    if !command.directory.starts_with('/') {
        let directory = escape(&command.directory);
        return Err(Failure::usage(format!("--directory {directory} is not absolute"))
            .hint("it is a directory of the broker's host, e.g. /var/tmp"));
    }
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    admins_only(&broker).await?;
    let mut signals = Signals::new()?;
    if !global.quiet {
        notice(&format!(
            "checking {}; this takes 15 s, longer on a busy host",
            escape(&broker.addr)
        ));
    }
    let (interrupt, interrupted) = watch::channel(false);
    let runner = Rc::new(Runner::new(broker, command.directory.clone(), interrupted));
    let left = runner.how_to_remove();
    let local = LocalSet::new();
    let rows = local.run_until(all(runner));
    tokio::pin!(rows);
    let mut ended_by = None;
    let rows = loop {
        tokio::select! {
            rows = &mut rows => break rows,
            signal = signals.next() => {
                if ended_by.replace(signal).is_some() {
                    notice(&left);
                    break Ok(Vec::new());
                }
                notice("interrupted: stopping and removing the canaries");
                interrupt.send_replace(true);
            }
        }
    };
    if let Some(signal) = ended_by {
        return Ok(128 + signal);
    }
    let rows = rows?;
    sink::print(&report::shown(&rows, &command.directory, global.output)?)?;
    if !global.quiet {
        notice(&report::summary(&rows));
    }
    Ok(report::status(&rows))
}

async fn admins_only(broker: &Broker) -> Result<()> {
    let me = calls::identity(broker).await?;
    if me.admin {
        return Ok(());
    }
    let who = escape(&me.identity);
    Err(Failure::usage(format!("only an admin of the broker may check it, and {who} is none"))
        .hint("\"admins\" in the broker's configuration names them"))
}

/// Those that disturb nobody's measurement at once, the others one after the other.
async fn all(runner: Rc<Runner>) -> Result<Vec<Row>> {
    let (alone, together): (Vec<_>, Vec<_>) =
        CANARIES.iter().enumerate().partition(|(_, canary)| canary.is_alone);
    let mut tasks = JoinSet::new();
    for (place, canary) in together {
        let runner = Rc::clone(&runner);
        tasks.spawn_local(async move { look(&runner, canary, 1).await.map(|rows| (place, rows)) });
    }
    let mut found = tasks.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    for (place, canary) in alone {
        found.push((place, look(&runner, canary, 1).await?));
    }
    found.sort_by_key(|(place, _)| *place);
    let mut all = Vec::new();
    for (place, rows) in found {
        all.extend(retried(&runner, &CANARIES[place], rows).await?);
    }
    Ok(all)
}

/// Until its checks are settled: what a busy host has held up passes, what is not enforced stays.
async fn retried(runner: &Runner, canary: &'static Canary, mut rows: Vec<Row>) -> Result<Vec<Row>> {
    for number in 2..=ATTEMPTS {
        if runner.is_interrupted() || rows.iter().all(|row| row.finding.is_settled()) {
            break;
        }
        rows = look(runner, canary, number).await?;
    }
    Ok(rows)
}

async fn look(runner: &Runner, canary: &'static Canary, number: usize) -> Result<Vec<Row>> {
    match runner::measure(runner, canary).await {
        Err(Unmeasured::Lost(failure)) => Err(*failure),
        outcome => Ok(canary.judged(&outcome, number)),
    }
}

/// What ends the check early: SIGINT, SIGTERM, SIGHUP.
struct Signals([(i32, Signal); 3]);

impl Signals {
    fn new() -> Result<Self> {
        let caught = |number: i32| match signal(SignalKind::from_raw(number)) {
            Ok(stream) => Ok((number, stream)),
            Err(e) => Err(Failure::usage(format!("cannot catch signals: {e}"))),
        };
        Ok(Signals([caught(libc::SIGINT)?, caught(libc::SIGTERM)?, caught(libc::SIGHUP)?]))
    }

    async fn next(&mut self) -> i32 {
        let [int, term, hup] = &mut self.0;
        tokio::select! {
            Some(()) = int.1.recv() => int.0,
            Some(()) = term.1.recv() => term.0,
            Some(()) = hup.1.recv() => hup.0,
            else => std::future::pending().await,
        }
    }
}
