//! The log: `tracing` events become short, escaped lines on standard error, in the journal's format under systemd. Writing
//! a line must never block the caller, and no client may flood the log: see [`queue`] and [`rate_limit`].

mod audit;
mod format;
mod line;
mod queue;
mod rate_limit;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) use crate::journal::audit::AUDIT;
use crate::journal::format::Format;
pub(crate) use crate::journal::line::Argv;
use crate::journal::line::{EventText, MAX_LINE};
use crate::journal::queue::{Purpose, Queue};

/// How long the program's exit waits for the reader of its log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Prints an error of a command, which may run under systemd too.
pub(crate) fn error(what: impl Display) {
    print_to_stderr(error_line(Format::of_stderr(), &what));
}

/// Prints a warning of a command.
pub(crate) fn warning(what: impl Display) {
    print_to_stderr(match Format::of_stderr() {
        Format::Journal => Format::Journal.line(Level::WARN, "", &what.to_string()),
        Format::Plain => format!("job-broker: warning: {what}\n"),
    });
}

fn error_line(format: Format, what: &impl Display) -> String {
    match format {
        Format::Journal => format.line(Level::ERROR, "", &what.to_string()),
        Format::Plain => format!("job-broker: {what}\n"),
    }
}

/// Ignores errors of standard error (a closed journal, a full disk). `eprintln!` would panic and so change the exit
/// status, which is the answer.
fn print_to_stderr(line: String) {
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The log of this process. Dropping it flushes the queue, for [`FLUSH_TIMEOUT`] at most.
pub(crate) struct Journal {
    format: Format,
    queue: Arc<Queue>,
}

impl Journal {
    /// Installs the `tracing` subscriber, filtered by `$JOB_BROKER_LOG`, and the panic hook; neither blocks its
    /// caller.
    ///
    /// # Errors
    ///
    /// The log's thread cannot be created.
    pub(crate) fn start() -> io::Result<Journal> {
        let format = Format::of_stderr();
        let queue = Queue::start(format, io::stderr())?;
        let filter = EnvFilter::try_from_env("JOB_BROKER_LOG").unwrap_or_else(|_| "info".into());
        let layer = JournalLayer { format, queue: Arc::clone(&queue) };
        tracing_subscriber::registry().with(filter).with(layer).init();
        let panicked = Arc::clone(&queue);
        std::panic::set_hook(Box::new(move |panic| {
            let line = format.line(Level::ERROR, module_path!(), &panic.to_string());
            panicked.push(Purpose::Audit, line);
        }));
        Ok(Journal { format, queue })
    }

    /// Logs why the program ends.
    pub(crate) fn final_error(&self, error: impl Display) {
        self.queue.push(Purpose::Audit, error_line(self.format, &error));
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// Formats events as lines.
struct JournalLayer {
    format: Format,
    queue: Arc<Queue>,
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = EventText::default();
        event.record(&mut text);
        let text = text.into_text(MAX_LINE);
        if metadata.target() == AUDIT {
            let line = self.format.line(*metadata.level(), metadata.target(), &text);
            self.queue.push(Purpose::Audit, line);
        } else {
            self.queue.report(metadata.name(), *metadata.level(), metadata.target(), &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};

    use super::*;

    /// The lines that `emit` logs.
    fn written(format: Format, emit: impl FnOnce()) -> String {
        let (mut reader, writer): (PipeReader, _) = io::pipe().unwrap();
        let copy = writer.try_clone().unwrap();
        let queue = Queue::start(format, copy).unwrap();
        let layer = JournalLayer { format, queue: Arc::clone(&queue) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), emit);
        queue.flush(Duration::from_secs(60));
        let mut said = vec![0; 64 * 1024];
        let length = reader.read(&mut said).unwrap();
        String::from_utf8(said[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_is_its_priority_its_words_and_its_fields() {
        let said = written(Format::Journal, || {
            tracing::warn!(job = 7, name = "a b", "its shim does not answer");
            tracing::info!("ready");
        });
        assert_eq!(said, "<4>its shim does not answer job=7 name=\"a b\"\n<6>ready\n");
    }

    #[test]
    fn elsewhere_it_begins_with_time_level_and_module() {
        let said = written(Format::Plain, || tracing::info!(addr = %"[::1]:1", "ready"));
        let (time, rest) = said.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{said}");
        assert_eq!(rest, " INFO job_broker::journal::tests: ready addr=[::1]:1\n");
    }

    #[test]
    fn whatever_somebody_chose_is_one_short_line_without_a_priority_of_its_own() {
        let chosen = "\n<0>kernel panic\r\u{1b}[2J\u{2028}".repeat(50_000);
        let argv = vec!["echo".to_owned(), chosen.clone()];
        for format in [Format::Journal, Format::Plain] {
            let said = written(format, || {
                tracing::info!(target: AUDIT, owner = %"somebody", argv = %Argv(&argv), "start");
                tracing::error!(%chosen, job = 7, "it fails: {chosen}");
                tracing::error!(chosen, "as a string");
            });
            assert_eq!(said.lines().count(), 3, "{said}");
            for line in said.split_inclusive('\n') {
                assert!(line.len() <= MAX_LINE, "{} {line}", line.len());
                assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line}");
                assert!(!line.starts_with("<0>"), "{line}");
            }
            assert!(said.contains("1200006 bytes, sha256 "), "{said}");
        }
    }
}
