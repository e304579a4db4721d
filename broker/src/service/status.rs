//! Reports to systemd while the broker serves: the status line and the watchdog. It must run on the jobs' thread, so that
//! the watchdog detects a blocked one.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::jobs::supervisor::Supervisor;
use crate::sync::lock;
use crate::systemd::notify::{Notifier, one_line, watchdog_interval};

/// The minimum interval of status lines: a client that starts a thousand jobs must not keep systemd busy.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum interval, even without an event.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Reports the broker's status to systemd.
#[derive(Debug)]
pub(super) struct Status {
    notifier: Notifier,
    supervisor: Supervisor,
    addr: SocketAddr,
    /// Jobs that ran when this broker took over.
    adopted: usize,
    /// The fault of the last reload.
    fault: Mutex<Option<String>>,
}

impl Status {
    /// The status of a broker that has just taken over its jobs.
    pub(super) fn new(notifier: Notifier, supervisor: Supervisor, addr: SocketAddr) -> Status {
        let (adopted, _) = supervisor.count();
        Status { notifier, supervisor, addr, adopted, fault: Mutex::default() }
    }

    /// Reports READY=1: the API answers.
    pub(super) fn ready(&self) {
        self.notifier.ready(&self.status_line());
    }

    /// Sends the watchdog's pings and the status line. It must run on the jobs' thread.
    pub(super) async fn run(&self) {
        tokio::join!(ping_watchdog(&self.notifier), self.update_status());
    }

    /// Sends the line of `systemctl status` whenever the number of jobs changes.
    async fn update_status(&self) {
        let mut events = self.supervisor.events();
        let mut sent = String::new();
        loop {
            events.skip(); // the line below counts every event up to here
            let status_line = self.status_line();
            let is_sent = status_line == sent || self.notifier.status(&status_line);
            tokio::time::sleep(MIN_INTERVAL).await; // the minimum interval; the next line includes later changes
            if is_sent {
                sent = status_line;
                let _ = tokio::time::timeout(MAX_INTERVAL, events.next()).await;
            }
        }
    }

    pub(super) fn reloading(&self) {
        self.notifier.reloading();
    }

    /// Reports the end of a reload. After a fault the old configuration stays active.
    pub(super) fn reloaded(&self, fault: Option<&dyn std::error::Error>) {
        *lock(&self.fault) = fault.map(one_line);
        self.notifier.ready(&self.status_line());
    }

    /// Reports that certificates on disk were read. After a fault the old ones stay active.
    pub(super) fn certificates_read(&self, fault: Option<String>) {
        *lock(&self.fault) = fault;
        self.notifier.status(&self.status_line());
    }

    pub(super) fn stopping(&self) {
        let (live, _) = self.supervisor.count();
        self.notifier.stopping(&format!("stopping; {} without it", jobs_that_go_on(live)));
    }

    fn status_line(&self) -> String {
        let fault = lock(&self.fault);
        status_line(self.supervisor.count(), self.adopted, self.addr, fault.as_deref())
    }
}

/// Pings the watchdog at half of its interval, if it is enabled.
async fn ping_watchdog(notifier: &Notifier) {
    let Some(interval) = watchdog_interval() else { return };
    let mut tick = tokio::time::interval(interval);
    loop {
        tick.tick().await;
        while !notifier.watchdog() {
            tokio::time::sleep(MIN_INTERVAL).await; // systemd's queue is full; no event tells when it is not
        }
    }
}

fn jobs_that_go_on(live: usize) -> String {
    match live {
        0 => "no job goes on".into(),
        1 => "1 job goes on".into(),
        many => format!("{many} jobs go on"),
    }
}

fn status_line(
    (live, all): (usize, usize),
    adopted: usize,
    addr: SocketAddr,
    fault: Option<&str>,
) -> String {
    let running = match live {
        0 => "no job running".to_owned(),
        1 => "1 job running".into(),
        many => format!("{many} jobs running"),
    };
    let over = match all.saturating_sub(live) {
        0 => String::new(),
        1 => ", 1 finished job kept".into(),
        many => format!(", {many} finished jobs kept"),
    };
    let taken = match adopted {
        0 => String::new(),
        many => format!("; {many} running when this broker started were taken over"),
    };
    let status_line = format!("{running}{over}; listening on {addr}{taken}");
    match fault {
        None => status_line,
        // First, because systemctl truncates a long line.
        Some(fault) => {
            format!(
                "RELOAD FAILED, the former configuration stays in force: {fault}; {status_line}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_reads_what_matters_in_one_line() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7443));
        assert_eq!(
            status_line((20, 23), 18, addr, None),
            "20 jobs running, 3 finished jobs kept; listening on 127.0.0.1:7443; \
             18 running when this broker started were taken over"
        );
        assert_eq!(
            status_line((0, 0), 0, addr, None),
            "no job running; listening on 127.0.0.1:7443"
        );
        let faulty = status_line((1, 1), 0, addr, Some("config.toml: line 3"));
        assert_eq!(
            faulty,
            "RELOAD FAILED, the former configuration stays in force: config.toml: line 3; \
             1 job running; listening on 127.0.0.1:7443"
        );
    }
}
