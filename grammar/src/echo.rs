//! What a message repeats of its input: in quotes, escaped, and never more than a line of it.
//! A refusal that repeats all of 2 MB is a reply of 18 MB, and so a way to make a server work.

use std::fmt::{self, Write as _};

/// Bytes that are shown, after escaping.
pub const MOST: usize = 200;

/// Shows a text that came from outside, as `{:?}` does; of a long one the beginning and its length.
/// Costs the same whatever the length.
pub fn echo(text: &str) -> Echo<'_> {
    Echo(text)
}

/// See [`echo`].
#[derive(Debug, Clone, Copy)]
pub struct Echo<'a>(&'a str);

impl fmt::Display for Echo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut left = MOST;
        for c in self.0.chars() {
            let escaped = c.escape_debug();
            let length = escaped.clone().map(char::len_utf8).sum();
            let Some(rest) = left.checked_sub(length) else {
                return write!(f, "…\" ({} bytes)", self.0.len());
            };
            left = rest;
            escaped.fmt(f)?;
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_shown_whole_and_escaped() {
        assert_eq!(echo("a\x1bb").to_string(), r#""a\u{1b}b""#);
        assert_eq!(echo("").to_string(), r#""""#);
    }

    #[test]
    fn of_a_long_text_the_beginning_is_shown_and_its_length() {
        assert_eq!(echo(&"x".repeat(MOST)).to_string().len(), MOST + 2);
        for long in ["x".repeat(2 << 20), "ä".repeat(1 << 20), "\x1b".repeat(2 << 20)] {
            let shown = echo(&long).to_string();
            assert!(shown.len() <= MOST + 30, "{shown}");
            assert!(shown.ends_with("…\" (2097152 bytes)"), "{shown}");
        }
    }
}
