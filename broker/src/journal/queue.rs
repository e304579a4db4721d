//! The queue of log lines, written to standard error by one thread. It must never block a caller: a line that does not
//! fit is dropped, and a later line reports how many were.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Level;

use crate::journal::format::{CurrentFormat, Format};
use crate::journal::line::Record;
use crate::journal::rate_limit::RateLimiter;
use crate::metrics::METRICS;
use crate::metrics::labels::LogPurpose;
use crate::sync::lock;

/// journald's socket for messages with fields, systemd.journal-fields(7).
const JOURNALD: &str = "/run/systemd/journal/socket";

/// The purpose of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The broker's events. The queue holds 256 KiB of them, about 1,500 lines.
    Report,
    /// The actions of identities: not rate limited. The queue holds 4 MiB of them, about 20,000, and drops further
    /// ones: a log without a reader must neither block jobs nor exhaust memory.
    Audit,
}

impl Purpose {
    fn label(self) -> LogPurpose {
        match self {
            Purpose::Report => LogPurpose::Report,
            Purpose::Audit => LogPurpose::Audit,
        }
    }
}

/// The queued lines of one purpose.
#[derive(Debug)]
struct Backlog {
    capacity: usize,
    queued: usize,
    dropped: u64,
}

impl Backlog {
    fn new(capacity: usize) -> Backlog {
        Backlog { capacity, queued: 0, dropped: 0 }
    }

    /// After an overflow, half of the queue must be written first: otherwise lines and notices of dropped lines
    /// alternate.
    fn has_room(&self, length: usize) -> bool {
        match self.dropped {
            0 => self.queued + length <= self.capacity,
            _ => self.queued <= self.capacity / 2,
        }
    }
}

enum Entry {
    Line(String),
    /// Replaces this number of lines.
    Dropped(u64),
}

struct State {
    entries: VecDeque<(Purpose, Entry)>,
    reports: Backlog,
    audit: Backlog,
    rate_limit: RateLimiter,
    /// The thread is writing an entry.
    is_writing: bool,
    /// The last write failed.
    write_failed: bool,
    /// The program ends: summaries are due at once.
    is_closing: bool,
}

impl State {
    fn backlog(&mut self, purpose: Purpose) -> &mut Backlog {
        match purpose {
            Purpose::Report => &mut self.reports,
            Purpose::Audit => &mut self.audit,
        }
    }

    fn push(&mut self, purpose: Purpose, line: String) {
        let backlog = self.backlog(purpose);
        if !backlog.has_room(line.len()) {
            backlog.dropped += 1;
            METRICS.log_dropped.add(purpose.label(), 1);
            return;
        }
        backlog.queued += line.len();
        self.push_dropped(purpose);
        self.entries.push_back((purpose, Entry::Line(line)));
    }

    fn push_dropped(&mut self, purpose: Purpose) {
        let count = std::mem::take(&mut self.backlog(purpose).dropped);
        if count > 0 {
            self.entries.push_back((purpose, Entry::Dropped(count)));
        }
    }

    /// Logs the summaries of suppressed lines, and the counts of dropped lines that no later line reports.
    fn take_summaries(&mut self, format: Format) {
        let now = (!self.is_closing).then(Instant::now);
        for (level, text) in self.rate_limit.take_summaries(now) {
            let line = format.line(level, module_path!(), &Record::of(&text));
            self.push(Purpose::Report, line);
        }
        // After a failed write, the next line reports the count.
        if self.entries.is_empty() && !self.write_failed {
            self.push_dropped(Purpose::Report);
            self.push_dropped(Purpose::Audit);
        }
    }
}

/// Shared by all callers and the thread that writes.
pub(super) struct Queue {
    format: CurrentFormat,
    /// Where lines go in the format [`Format::Journald`].
    journald: OnceLock<UnixDatagram>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Starts the thread that writes to `file` until the program ends.
    ///
    /// # Errors
    ///
    /// As pthread_create(3).
    pub(super) fn start(
        format: Format,
        file: impl AsFd + Send + 'static,
    ) -> io::Result<Arc<Queue>> {
        let state = State {
            entries: VecDeque::new(),
            reports: Backlog::new(256 * 1024),
            audit: Backlog::new(4 * 1024 * 1024),
            rate_limit: RateLimiter::default(),
            is_writing: false,
            write_failed: false,
            is_closing: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let (format, journald) = (CurrentFormat::new(format), OnceLock::new());
        let queue = Arc::new(Queue { format, journald, state, changed });
        let shared = Arc::clone(&queue);
        let write = move || {
            loop {
                shared.write_one(&file);
            }
        };
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(queue)
    }

    /// Queues a line, or drops it if the queue is full. Never blocks.
    pub(super) fn push(&self, purpose: Purpose, line: String) {
        self.state().push(purpose, line);
        self.changed.notify_all();
    }

    /// The format of lines from now on.
    pub(super) fn format(&self) -> Format {
        self.format.get()
    }

    /// Changes the format.
    ///
    /// # Errors
    ///
    /// journald does not listen; the format stays as it was.
    pub(super) fn set_format(&self, format: Format) -> io::Result<()> {
        if format == Format::Journald && self.journald.get().is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.connect(JOURNALD)?;
            let _ = self.journald.set(socket); // nobody else sets it
        }
        self.format.set(format);
        Ok(())
    }

    /// Queues a report of a callsite, within the rate limit.
    pub(super) fn report(
        &self,
        callsite: &'static str,
        level: Level,
        target: &str,
        record: &Record,
    ) {
        // DEBUG and TRACE are enabled only on request, and then have no limit.
        let is_bounded = level <= Level::INFO;
        let mut state = self.state();
        if !is_bounded || state.rate_limit.allows(callsite, level, &record.text(), Instant::now()) {
            state.push(Purpose::Report, self.format().line(level, target, record));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until every line is written, `timeout` at most.
    pub(super) fn flush(&self, timeout: Duration) {
        let mut state = self.state();
        state.is_closing = true;
        self.changed.notify_all();
        let is_busy = |state: &mut State| {
            state.is_writing
                || !state.entries.is_empty()
                || state.rate_limit.next_summary().is_some()
        };
        let waited = self.changed.wait_timeout_while(state, timeout, is_busy);
        drop(waited); // lines that are not written yet are lost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn write_one(&self, file: &impl AsFd) {
        let (purpose, entry) = self.next();
        let text = match &entry {
            Entry::Line(line) => line.as_str(),
            Entry::Dropped(count) => &self.dropped_line(purpose, *count),
        };
        let written = match self.journald.get().filter(|_| self.format() == Format::Journald) {
            Some(journald) => journald.send(text.as_bytes()).map(|_| ()),
            None => write_whole(file, text.as_bytes()),
        };
        let mut state = self.state();
        let backlog = state.backlog(purpose);
        let count = match &entry {
            Entry::Line(line) => {
                backlog.queued -= line.len();
                1
            }
            Entry::Dropped(count) => *count,
        };
        if written.is_err() {
            backlog.dropped += count;
            if let Entry::Line(_) = &entry {
                METRICS.log_dropped.add(purpose.label(), 1);
            }
        }
        state.write_failed = written.is_err();
        state.is_writing = false;
        if state.entries.is_empty() {
            state.take_summaries(self.format());
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for an entry, or for the time of the next summary.
    fn next(&self) -> (Purpose, Entry) {
        let mut state = self.state();
        loop {
            if let Some(entry) = state.entries.pop_front() {
                state.is_writing = true;
                return entry;
            }
            let due = state.rate_limit.next_summary();
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero() || state.is_closing) {
                state.take_summaries(self.format());
                continue;
            }
            let waited = match left {
                None => self.changed.wait(state).map_err(PoisonError::into_inner),
                Some(left) => match self.changed.wait_timeout(state, left) {
                    Ok((state, _)) => Ok(state),
                    Err(poisoned) => Err(poisoned.into_inner().0),
                },
            };
            state = waited.unwrap_or_else(|state| state);
        }
    }

    fn dropped_line(&self, purpose: Purpose, count: u64) -> String {
        let (level, of) = match purpose {
            Purpose::Report => (Level::WARN, ""),
            Purpose::Audit => (Level::ERROR, " of who has done what"),
        };
        let text = format!("{count} lines{of} left out here: nobody took them in time");
        self.format().line(level, module_path!(), &Record::of(&text))
    }
}

/// Waits as long as it takes: standard error may be non-blocking, as a terminal that another program has set so.
fn write_whole(file: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(file, bytes).map_err(io::Error::from) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::NONE); // the next write returns the error
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, PipeReader, Write};

    use super::*;

    const LATER: Duration = Duration::from_secs(60);

    fn queue() -> (Arc<Queue>, BufReader<PipeReader>) {
        let (reader, writer) = io::pipe().unwrap();
        (Queue::start(Format::Journal, writer).unwrap(), BufReader::new(reader))
    }

    fn line(reader: &mut impl BufRead) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn nobody_waits_for_a_log_that_nobody_reads_and_it_says_what_is_missing() {
        let (queue, mut reader) = queue();
        let text = |i: u32| format!("{i:0>1000}");
        for i in 0..1000 {
            queue.push(Purpose::Report, text(i) + "\n"); // four times the capacity of pipe and queue
        }
        for i in 1000..1010 {
            queue.push(Purpose::Audit, text(i) + "\n");
        }
        let mut reports = 0;
        let first_audit = loop {
            match line(&mut reader) {
                said if said == text(reports) + "\n" => reports += 1,
                said => break said,
            }
        };
        assert!((256..400).contains(&reports), "{reports}");
        assert_eq!(first_audit, text(1000) + "\n", "it had room");
        (1001..1010).for_each(|i| assert_eq!(line(&mut reader), text(i) + "\n"));
        let missing = 1000 - reports;
        let notice = format!("<4>{missing} lines left out here: nobody took them in time\n");
        assert_eq!(line(&mut reader), notice);
        queue.push(Purpose::Report, "again\n".into());
        assert_eq!(line(&mut reader), "again\n");
    }

    #[test]
    fn who_has_done_what_is_left_out_only_when_there_is_very_much_of_it() {
        let (queue, mut reader) = queue();
        for _ in 0..6000 {
            queue.push(Purpose::Audit, "x".repeat(999) + "\n");
        }
        let mut kept = 0;
        let notice = loop {
            match line(&mut reader) {
                said if said.starts_with('x') => kept += 1,
                said => break said,
            }
        };
        assert!((4194..4400).contains(&kept), "{kept}");
        let expected = format!("<3>{} lines of who has done what left out here", 6000 - kept);
        assert!(notice.starts_with(&expected), "{notice}");
    }

    #[test]
    fn the_end_of_the_program_waits_for_its_last_words_and_not_for_ever() {
        let (queue, mut reader) = queue();
        for _ in 0..3 {
            queue.report("here", Level::INFO, "", &Record::of("the same"));
        }
        queue.push(Purpose::Audit, "the end\n".into());
        queue.flush(LATER);
        let said = [(); 3].map(|()| line(&mut reader));
        let count = "<6>2 more of this kind left out, the last: the same\n";
        assert_eq!(said, ["<6>the same\n", "the end\n", count]);
        (0..200).for_each(|_| queue.push(Purpose::Report, "x".repeat(999) + "\n"));
        queue.flush(Duration::from_millis(1)); // the pipe holds 64 KiB and has no reader
    }

    #[test]
    fn a_file_that_takes_nothing_is_tried_with_each_line_and_told_what_it_missed() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let queue = Queue::start(Format::Journal, full).unwrap();
        for _ in 0..10 {
            queue.push(Purpose::Report, "lost\n".into());
            queue.flush(LATER);
        }
        assert_eq!(queue.state().reports.dropped, 10);
        assert_eq!(queue.state().reports.queued, 0);
    }

    #[test]
    fn a_line_comes_whole_through_a_pipe_that_does_not_block() {
        let (reader, mut writer) = io::pipe().unwrap();
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        let queue = Queue::start(Format::Journal, writer).unwrap();
        queue.push(Purpose::Report, "whole\n".into());
        assert!(line(&mut BufReader::new(reader)).ends_with("xwhole\n"));
    }
}
