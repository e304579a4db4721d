//! Lines for systemd's journal, which has time and program by itself: `<4>words field=value`, where
//! the number is the priority of syslog(3), see sd-daemon(3). So `journalctl -p warning` finds what
//! matters.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

const ERROR: &str = "<3>";
const WARNING: &str = "<4>";

/// Whether standard error is the journal. That the variable is there does not say so: it is inherited
/// by whatever a service starts, and means the file that it names, systemd.exec(5).
pub(super) fn is_reader() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| is_named(io::stderr(), &named))
}

/// Whether this is the file that has that `DEVICE:INODE`, both in decimal.
fn is_named(file: impl AsFd, named: &str) -> bool {
    fstat(file).is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

/// What is not logged but said: by a command, which may run under systemd, too.
pub(super) fn error(what: impl Display) {
    say(if is_reader() { ERROR } else { "job-broker: " }, what);
}

/// The same for what is no error.
pub(super) fn warning(what: impl Display) {
    say(if is_reader() { WARNING } else { "job-broker: warning: " }, what);
}

/// Where standard error takes nothing (a journal that has gone, a full disk), nobody hears it.
/// `eprintln!` would panic, and the exit status, which is the answer, be another.
fn say(beginning: &str, what: impl Display) {
    let _ = writeln!(io::stderr(), "{beginning}{what}");
}

/// The form of a line.
pub(super) struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(priority(*event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_its_priority_its_words_and_its_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).event_format(Journal);
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(job = 7, "its shim does not answer");
            tracing::info!("ready");
        });
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(said, "<4>its shim does not answer job=7\n<6>ready\n");
    }

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        let [journal, other] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let found = journal.metadata().unwrap();
        let named = format!("{}:{}", found.dev(), found.ino());
        assert!(is_named(&journal, &named));
        assert!(!is_named(&other, &named));
        assert!(!is_named(&journal, ""));
    }
}
