//! The format of a log line: the journal's `<priority>` prefix, or time, level and module. It must not produce a line
//! longer than [`MAX_LINE`].

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::journal::line::{Escaped, MAX_LINE};

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `<4>message field=value` with the priority of syslog(3), see sd-daemon(3): `journalctl -p warning` filters by
    /// it. The journal adds time and program.
    Journal,
    /// Time, level and module before the message.
    Plain,
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

    /// The whole line, with its newline. `text` is already escaped; a text that is too long is truncated again.
    pub(super) fn line(self, level: Level, target: &str, text: &str) -> String {
        let mut line = String::with_capacity(text.len().min(MAX_LINE) + 64);
        // Writing to a string never fails.
        let _ = match self {
            Format::Journal => line.write_str(priority(level)),
            Format::Plain => SystemTime
                .format_time(&mut Writer::new(&mut line))
                .and_then(|()| write!(line, " {level:>5} {target}: ")),
        };
        let room = MAX_LINE - 1 - line.len().min(MAX_LINE - 1);
        let _ = Escaped::new(&mut line, room).write_str(text); // an error means truncated
        line.push('\n');
        line
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
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
