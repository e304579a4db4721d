//! What systemd is told while the broker serves: the line of `systemctl status`, and that the jobs'
//! thread is alive.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::jobs::Supervisor;
use crate::systemd::notify::{Notifier, one_line, watchdog_interval};

/// How old the line may be where no watchdog asks more often.
const FRESH: Duration = Duration::from_secs(10);

/// The broker as systemd sees it.
#[derive(Debug)]
pub(super) struct Status {
    notifier: Notifier,
    supervisor: Supervisor,
    addr: SocketAddr,
    /// Jobs that lived when this broker took over.
    adopted: usize,
    /// Of the last reload.
    fault: Mutex<Option<String>>,
}

impl Status {
    /// Of a broker that has just taken over its jobs.
    pub(super) fn new(notifier: Notifier, supervisor: Supervisor, addr: SocketAddr) -> Status {
        let (adopted, _) = supervisor.count();
        Status { notifier, supervisor, addr, adopted, fault: Mutex::default() }
    }

    /// The API answers.
    pub(super) fn ready(&self) {
        self.notifier.ready(&self.words());
    }

    /// Says that the jobs' thread turns, as long as it does; to be run there.
    pub(super) async fn keep_telling(&self) {
        let interval = watchdog_interval();
        let mut tick = tokio::time::interval(interval.unwrap_or(FRESH).min(FRESH));
        let mut told = String::new();
        loop {
            tick.tick().await;
            if interval.is_some() {
                self.notifier.watchdog();
            }
            let words = self.words();
            if words != told {
                self.notifier.status(&words);
                told = words;
            }
        }
    }

    pub(super) fn reloading(&self) {
        self.notifier.reloading();
    }

    /// The reload is over; with a fault, everything is as before.
    pub(super) fn reloaded(&self, fault: Option<&dyn std::error::Error>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault.map(one_line);
        self.notifier.ready(&self.words());
    }

    pub(super) fn stopping(&self) {
        let (live, _) = self.supervisor.count();
        self.notifier.stopping(&format!("ending; {} without it", goes_on(live)));
    }

    fn words(&self) -> String {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        words(self.supervisor.count(), self.adopted, self.addr, fault.as_deref())
    }
}

fn goes_on(live: usize) -> String {
    match live {
        0 => "no job goes on".into(),
        1 => "1 job goes on".into(),
        many => format!("{many} jobs go on"),
    }
}

fn words(
    (live, all): (usize, usize),
    adopted: usize,
    addr: SocketAddr,
    fault: Option<&str>,
) -> String {
    let mut words = match live {
        1 => "1 job running".to_owned(),
        many => format!("{many} jobs running"),
    };
    if adopted > 0 {
        words += &format!(", {adopted} adopted at start");
    }
    words += &format!(", {} ended; listening on {addr}", all - live);
    if let Some(fault) = fault {
        words += &format!("; RELOAD FAILED, still with the former configuration: {fault}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_reads_what_matters_in_one_line() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7443));
        assert_eq!(
            words((20, 23), 3, addr, None),
            "20 jobs running, 3 adopted at start, 3 ended; listening on 127.0.0.1:7443"
        );
        let faulty = words((1, 1), 0, addr, Some("config.toml: line 3"));
        assert!(faulty.starts_with("1 job running, 0 ended"), "{faulty}");
        assert!(faulty.ends_with("former configuration: config.toml: line 3"), "{faulty}");
    }
}
