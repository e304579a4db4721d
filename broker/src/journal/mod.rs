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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) use crate::journal::audit::AUDIT;
use crate::journal::format::Format;
pub(crate) use crate::journal::line::Argv;
use crate::journal::line::Record;
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
        Format::Journal => Format::Journal.line(Level::WARN, "", &Record::of(&what.to_string())),
        _ => format!("job-broker: warning: {what}\n"),
    });
}

fn error_line(format: Format, what: &impl Display) -> String {
    match format {
        Format::Plain => format!("job-broker: {what}\n"),
        _ => format.line(Level::ERROR, "", &Record::of(&what.to_string())),
    }
}

/// Ignores errors of standard error (a closed journal, a full disk). `eprintln!` would panic and so change the exit
/// status, which is the answer.
fn print_to_stderr(line: String) {
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The log of this process. Dropping it flushes the queue, for [`FLUSH_TIMEOUT`] at most.
pub(crate) struct Journal {
    queue: Arc<Queue>,
}

/// The format of the log, as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines on standard error.
    #[default]
    Text,
    /// One JSON object a line on standard error.
    Json,
    /// Messages with fields for systemd's journal.
    Journald,
}

/// Bytes of the end of each stream of output that the log of a job has; 0: none.
static OUTPUT_TAIL: AtomicU64 = AtomicU64::new(0);

/// See [`Journal::configure`].
pub(crate) fn output_tail() -> u64 {
    OUTPUT_TAIL.load(Ordering::Relaxed)
}

tokio::task_local! {
    /// The id of the call that the task answers.
    static REQUEST: uuid::Uuid;
}

/// Runs a part of a call: its lines have the call's id. Tasks and threads that it starts do not.
pub(crate) async fn in_call<T>(request: uuid::Uuid, part: impl Future<Output = T>) -> T {
    REQUEST.scope(request, part).await
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
        let layer = JournalLayer { queue: Arc::clone(&queue) };
        tracing_subscriber::registry().with(filter).with(layer).init();
        let panicked = Arc::clone(&queue);
        std::panic::set_hook(Box::new(move |panic| {
            let record = Record::of(&panic.to_string());
            let line = panicked.format().line(Level::ERROR, module_path!(), &record);
            panicked.push(Purpose::Audit, line);
        }));
        Ok(Journal { queue })
    }

    /// Takes over the configured format, and how much of a job's output its log has. Where journald does not listen,
    /// lines go on as text, and the first says so.
    pub(crate) fn configure(&self, format: LogFormat, output_tail: u64) {
        OUTPUT_TAIL.store(output_tail, Ordering::Relaxed);
        let format = match format {
            LogFormat::Text => Format::of_stderr(),
            LogFormat::Json => Format::Json,
            LogFormat::Journald => Format::Journald,
        };
        if let Err(e) = self.queue.set_format(format) {
            tracing::error!("log.format: journald does not listen, the log stays text: {e}");
        }
    }

    /// Logs why the program ends.
    pub(crate) fn final_error(&self, error: impl Display) {
        self.queue.push(Purpose::Audit, error_line(self.queue.format(), &error));
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// Formats events as lines.
struct JournalLayer {
    queue: Arc<Queue>,
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::new(self.queue.format().has_fields());
        event.record(&mut record);
        let _ = REQUEST.try_with(|request| record.add_request(request)); // outside of calls there is none
        if metadata.target() == AUDIT {
            let line = self.queue.format().line(*metadata.level(), metadata.target(), &record);
            self.queue.push(Purpose::Audit, line);
        } else {
            self.queue.report(metadata.name(), *metadata.level(), metadata.target(), &record);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};

    use super::*;
    use crate::journal::line::MAX_LINE;

    /// The lines that `emit` logs.
    fn written(format: Format, emit: impl FnOnce()) -> String {
        let (mut reader, writer): (PipeReader, _) = io::pipe().unwrap();
        let copy = writer.try_clone().unwrap();
        let queue = Queue::start(format, copy).unwrap();
        let layer = JournalLayer { queue: Arc::clone(&queue) };
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
    fn a_json_line_is_an_object_with_the_fields_and_bounded() {
        let chosen = "\n<0>\"kernel\\ panic\r\u{1b}[2J\u{2028}".repeat(50_000);
        let said = written(Format::Json, || {
            tracing::warn!(job = 7, name = "a b", by = %"x", "it \"fails\"");
            tracing::info!(a = chosen, b = chosen, c = chosen, d = chosen, e = chosen, "{chosen}");
        });
        let lines: Vec<serde_json::Value> =
            said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let fields = ["level", "message", "job", "name", "by"].map(|name| lines[0][name].clone());
        assert_eq!(fields, ["WARN", "it \"fails\"", "7", "a b", "x"]);
        assert_eq!(lines.len(), 2);
        assert!(said.lines().all(|line| line.len() <= 4096), "{said}");
    }

    #[test]
    fn a_message_for_journald_has_a_line_for_each_field_and_no_other() {
        let said = written(Format::Journald, || {
            tracing::error!(job = 7, name = "a\nPRIORITY=0", "it fails");
        });
        let lines: Vec<_> = said.lines().collect();
        let expected = [
            "MESSAGE=it fails job=7 name=\"a\\nPRIORITY=0\"",
            "PRIORITY=3",
            "SYSLOG_IDENTIFIER=job-broker",
            "BROKER_TARGET=job_broker::journal::tests",
            "BROKER_JOB=7",
            "BROKER_NAME=a\\nPRIORITY=0",
        ];
        assert_eq!(lines, expected);
    }

    #[tokio::test]
    async fn what_is_logged_in_a_call_has_its_id_once() {
        let id = uuid::Uuid::nil();
        let (mut reader, writer): (PipeReader, _) = io::pipe().unwrap();
        let queue = Queue::start(Format::Journal, writer).unwrap();
        let layer = JournalLayer { queue: Arc::clone(&queue) };
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        in_call(id, async {
            tracing::info!("in it");
            tracing::info!(request = %id, "with it");
        })
        .await;
        tracing::info!("outside");
        queue.flush(Duration::from_secs(60));
        let mut said = vec![0; 4096];
        let length = reader.read(&mut said).unwrap();
        let expected = format!("<6>in it request={id}\n<6>with it request={id}\n<6>outside\n");
        assert_eq!(String::from_utf8_lossy(&said[..length]), expected);
    }

    /// A job has three such lines: `start`, `started`, `ended`.
    #[test]
    #[ignore = "a measurement, for docs/BENCHMARKS.md"]
    fn what_a_line_of_a_job_takes_of_its_start() {
        const LINES: u32 = 200;
        for format in [Format::Journal, Format::Json, Format::Journald] {
            let (mut reader, writer) = io::pipe().unwrap();
            std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
            let queue = Queue::start(format, writer).unwrap();
            let layer = JournalLayer { queue: Arc::clone(&queue) };
            let (mut took, limits) = (Vec::new(), "cpus=1 memory=512M pids=512 output_limit=1G");
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                for _ in 0..200 {
                    let (id, begun) = (uuid::Uuid::now_v7(), std::time::Instant::now());
                    for pid in 0..LINES {
                        tracing::info!(target: AUDIT, job = %id, owner = %"somebody", pid, shim_pid = pid,
                            account = %"job-1234 (71234:71234)", cgroup = %"/sys/fs/cgroup/jobs.slice", limits, "started");
                    }
                    took.push(begun.elapsed() / LINES);
                    queue.flush(Duration::from_secs(60));
                }
            });
            took.sort_unstable();
            eprintln!("{format:?}: {:?} a line", took[took.len() / 2]);
        }
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
