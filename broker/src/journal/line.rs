//! Escapes and truncates the text of a log line. No text from a client may contain a character that the journal or a
//! terminal interprets.

use std::fmt::{self, Debug, Display, Write};

use aws_lc_rs::digest::{Context, SHA256};
use tracing::field::{Field, Visit};

/// Maximum bytes of a line, with its newline. Far below 48 KiB: journald splits a longer line, and parses `<N>` at
/// the beginning of the rest as a priority.
pub(super) const MAX_LINE: usize = 1024;
/// Maximum bytes of a message and of a field's value, so that each leaves space for the others.
const MAX_VALUE: usize = 512;
/// Maximum bytes of the arguments of a start; with length and digest they are one value.
const MAX_ARGV: usize = 384;
/// Replaces the truncated rest.
const CUT: &str = "…";

/// Control characters (C0, DEL, C1), other line separators, and characters that change the direction of the text.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A writer that escapes text and accepts `room` bytes. It fails for more, which stops the formatting of text that is
/// not logged.
pub(super) struct Escaped<'a> {
    text: &'a mut String,
    room: usize,
}

impl<'a> Escaped<'a> {
    /// Appends to `text`, `room` bytes at most.
    pub(super) fn new(text: &'a mut String, room: usize) -> Escaped<'a> {
        Escaped { text, room: room.saturating_sub(CUT.len()) }
    }

    fn push(&mut self, piece: &str) -> fmt::Result {
        if piece.len() > self.room {
            self.room = 0;
            self.text.push_str(CUT);
            return Err(fmt::Error);
        }
        self.room -= piece.len();
        self.text.push_str(piece);
        Ok(())
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        s.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        if is_dangerous(c) {
            return self.push(&c.escape_default().to_string());
        }
        self.push(c.encode_utf8(&mut [0; 4]))
    }
}

/// The message and the fields of an event. Each value is escaped and bounded.
#[derive(Debug, Default)]
pub(super) struct Record {
    message: String,
    /// As ` field=value`.
    text: String,
    /// One by one, for the formats that have fields.
    fields: Option<Vec<(&'static str, String)>>,
}

impl Record {
    /// Of an event; with its fields one by one, if the format has any.
    pub(super) fn new(has_fields: bool) -> Record {
        Record { fields: has_fields.then(Vec::new), ..Record::default() }
    }

    /// Of a text of the broker's own.
    pub(super) fn of(message: &str) -> Record {
        let mut record = Record::default();
        let _ = Escaped::new(&mut record.message, MAX_LINE).write_str(message); // an error means truncated
        record
    }

    /// `message field=value`, truncated.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        let left = MAX_LINE.saturating_sub(text.len());
        let _ = Escaped::new(&mut text, left).write_str(&self.text); // an error means truncated
        text
    }

    /// The message without its fields.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The fields, in the order of the event.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.fields.iter().flatten().map(|(name, value)| (*name, value.as_str()))
    }

    /// Adds the id of the call in which this is logged, unless the event has it.
    pub(super) fn add_request(&mut self, request: &uuid::Uuid) {
        if !self.text.contains(" request=") {
            let _ = write!(self.text, " request={request}"); // writing to a string never fails
            if let Some(fields) = &mut self.fields {
                fields.push(("request", request.to_string()));
            }
        }
    }

    fn push(&mut self, field: &Field, value: impl Display) {
        if let Some(fields) = &mut self.fields
            && field.name() != "message"
        {
            let mut text = String::new();
            let _ = write!(Escaped::new(&mut text, MAX_VALUE), "{value}"); // an error means truncated
            fields.push((field.name(), text));
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value); // without the quotes of the text
        self.record_text(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field, format_args!("{value:?}"));
        self.record_text(field, value);
    }
}

impl Record {
    fn record_text(&mut self, field: &Field, value: &dyn Debug) {
        let text = if field.name() == "message" {
            &mut self.message
        } else {
            let _ = write!(self.text, " {}=", field.name());
            &mut self.text
        };
        let _ = write!(Escaped::new(text, MAX_VALUE), "{value:?}"); // an error means truncated
    }
}

/// The arguments of a job for the log: complete if short, else their beginning, their length with the NUL that ends
/// each, and the SHA-256 of these bytes, as of `/proc/PID/cmdline`.
pub(crate) struct Argv<'a>(pub(crate) &'a [String]);

impl Display for Argv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        let is_cut = write!(Escaped::new(&mut shown, MAX_ARGV), "{:?}", self.0).is_err();
        f.write_str(&shown)?;
        if !is_cut {
            return Ok(());
        }
        let mut digest = Context::new(&SHA256);
        for argument in self.0 {
            digest.update(argument.as_bytes());
            digest.update(&[0]);
        }
        let length: usize = self.0.iter().map(|argument| argument.len() + 1).sum();
        write!(f, " ({length} bytes, sha256 ")?;
        digest.finish().as_ref().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_char(')')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str, room: usize) -> String {
        let mut out = String::new();
        let _ = Escaped::new(&mut out, room).write_str(text);
        out
    }

    #[test]
    fn what_would_end_a_line_or_turn_it_is_escaped_and_the_rest_is_not() {
        assert_eq!(escaped("a\n<0>b\r\u{1b}[2J\u{9b}\u{2028}\u{202e}", 100), {
            r"a\n<0>b\r\u{1b}[2J\u{9b}\u{2028}\u{202e}"
        });
        assert_eq!(escaped("grün \"x\" \\n", 100), "grün \"x\" \\n");
    }

    #[test]
    fn what_is_longer_is_cut_between_characters_and_marked() {
        assert_eq!(escaped("ääää", 8), "ää…");
        assert_eq!(escaped("a\n\n\n", 8), r"a\n\n…");
        assert!(escaped(&"\u{1b}".repeat(2 << 20), 512).len() <= 512);
    }

    #[test]
    fn short_arguments_are_shown_whole_and_long_ones_with_length_and_digest() {
        let argv = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        assert_eq!(Argv(&argv(&["echo", "a\n<0>b"])).to_string(), r#"["echo", "a\n<0>b"]"#);
        let long = Argv(&argv(&["echo", &"\n".repeat(500_000)])).to_string();
        // The digest by sha256sum of "echo", NUL, 500,000 newlines, NUL.
        let digest = "7bd640e2b881728e0dce9691e0feca28b97d03722dd6b58618927a3f6c38d767";
        assert!(long.starts_with(r#"["echo", "\n\n"#), "{long}");
        assert!(long.ends_with(&format!("… (500006 bytes, sha256 {digest})")), "{long}");
        assert!(long.len() <= MAX_VALUE, "{}", long.len());
    }
}
