//! The format of a log line: the journal's `<priority>` prefix, or time, level and module. It must not produce a line
//! longer than [`MAX_LINE`], or [`MAX_STRUCTURED`] with fields.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::stat::fstat;
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::journal::line::{Escaped, MAX_LINE, Record};

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `<4>message field=value` with the priority of syslog(3), see sd-daemon(3): `journalctl -p warning` filters by
    /// it. The journal adds time and program.
    Journal,
    /// Time, level and module before the message.
    Plain,
    /// One JSON object a line.
    Json,
    /// The fields of journald's own protocol, one message a datagram: `journalctl BROKER_JOB=...`.
    Journald,
}

/// The format of a queue, which changes when the configuration is known.
#[derive(Debug)]
pub(super) struct CurrentFormat(AtomicU8);

impl CurrentFormat {
    pub(super) fn new(format: Format) -> CurrentFormat {
        CurrentFormat(AtomicU8::new(format as u8))
    }

    pub(super) fn get(&self) -> Format {
        let of = |format: &Format| *format as u8 == self.0.load(Ordering::Relaxed);
        [Format::Journal, Format::Json, Format::Journald]
            .into_iter()
            .find(of)
            .unwrap_or(Format::Plain)
    }

    pub(super) fn set(&self, format: Format) {
        self.0.store(format as u8, Ordering::Relaxed);
    }
}

impl Format {
    /// The format for this process's standard error. `$JOURNAL_STREAM` alone proves nothing: child processes of a
    /// service inherit it. Its device and inode must be those of the file, see systemd.exec(5).
    pub(super) fn of_stderr() -> Format {
        let named = std::env::var("JOURNAL_STREAM");
        match named.is_ok_and(|named| is_named(io::stderr(), &named)) {
            true => Format::Journal,
            false => Format::Plain,
        }
    }

    /// Whether records need their fields one by one.
    pub(super) fn has_fields(self) -> bool {
        matches!(self, Format::Json | Format::Journald)
    }

    /// The whole line, with its newline; of [`Format::Journald`] the whole datagram.
    pub(super) fn line(self, level: Level, target: &str, record: &Record) -> String {
        match self {
            Format::Journal | Format::Plain => self.text_line(level, target, &record.text()),
            Format::Json => json_line(level, target, record),
            Format::Journald => journald_message(level, target, record),
        }
    }

    fn text_line(self, level: Level, target: &str, text: &str) -> String {
        let mut line = String::with_capacity(text.len().min(MAX_LINE) + 64);
        // Writing to a string never fails.
        let _ = match self {
            Format::Journal => write!(line, "<{}>", priority(level)),
            _ => write_time(&mut line).and_then(|()| write!(line, " {level:>5} {target}: ")),
        };
        let room = MAX_LINE - 1 - line.len().min(MAX_LINE - 1);
        let _ = Escaped::new(&mut line, room).write_str(text); // an error means truncated
        line.push('\n');
        line
    }
}

/// Maximum bytes of a line with fields, whose values have their own maximum: a field that no longer fits is left out.
const MAX_STRUCTURED: usize = 4096;

/// `{"time":...,"level":...,"target":...,"message":...,"job":...}`. Every value but `truncated` is a text.
fn json_line(level: Level, target: &str, record: &Record) -> String {
    let mut time = String::new();
    let _ = write_time(&mut time); // writing to a string never fails
    let mut line = String::with_capacity(256);
    let own = [("time", time.as_str()), ("level", level.as_str()), ("target", target)];
    let message = [("message", record.message())];
    for (name, value) in own.into_iter().chain(message).chain(record.fields()) {
        let before = if line.is_empty() { '{' } else { ',' };
        let value = serde_json::Value::from(value);
        let field = format!("{before}\"{name}\":{value}");
        if line.len() + field.len() + 24 > MAX_STRUCTURED {
            line.push_str(",\"truncated\":true");
            break;
        }
        line.push_str(&field);
    }
    line.push_str("}\n");
    line
}

/// Native protocol of systemd-journald: `NAME=value` a line. No value has a newline: they are escaped. The prefix
/// keeps clear of systemd's own names, such as `JOB_ID`.
fn journald_message(level: Level, target: &str, record: &Record) -> String {
    let mut message = format!(
        "MESSAGE={}\nPRIORITY={}\nSYSLOG_IDENTIFIER=job-broker\nBROKER_TARGET={target}\n",
        record.text(),
        priority(level)
    );
    for (name, value) in record.fields() {
        let field = format!("BROKER_{}={value}\n", name.to_uppercase());
        if message.len() + field.len() > MAX_STRUCTURED {
            message.push_str("BROKER_TRUNCATED=1\n");
            break;
        }
        message.push_str(&field);
    }
    message
}

fn write_time(line: &mut String) -> std::fmt::Result {
    SystemTime.format_time(&mut Writer::new(line))
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Whether `file` has this `DEVICE:INODE`, both in decimal.
fn is_named(file: impl AsFd, named: &str) -> bool {
    fstat(file).is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

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
