//! Text that somebody else wrote, made harmless for a terminal; and commands as a shell takes them.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Control characters (C0, DEL, C1), and those that turn the direction of what follows.
fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_escaped(out: &mut String, c: char) {
    let _ = match c {
        '\n' => write!(out, "\\n"),
        '\r' => write!(out, "\\r"),
        '\t' => write!(out, "\\t"),
        c if (c as u32) < 0x80 => write!(out, "\\x{:02x}", c as u32),
        c => write!(out, "\\u{{{:x}}}", c as u32),
    };
}

/// One line for a table or a message: every control character as `\n`, `\x1b`, `\u{9b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_dangerous(c) { push_escaped(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Output on its way to a terminal: newlines and tabs stay, other control characters and what is
/// not UTF-8 become `\x1b`. A character that is cut in two by a chunk's end is held back.
#[derive(Default)]
pub(crate) struct Escaper {
    held: Vec<u8>,
}

impl Escaper {
    /// Appends `data`, escaped, to `out`.
    pub(crate) fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(data);
        let bytes = std::mem::take(&mut self.held);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(all) => (all, None),
                Err(e) => {
                    let valid = std::str::from_utf8(&rest[..e.valid_up_to()]).unwrap_or_default();
                    (valid, Some(e.error_len()))
                }
            };
            push_for_terminal(valid, out);
            rest = &rest[valid.len()..];
            match bad {
                Some(Some(length)) => {
                    push_bytes(&rest[..length], out);
                    rest = &rest[length..];
                }
                Some(None) => {
                    self.held = rest.to_vec();
                    return;
                }
                None => {}
            }
        }
    }

    /// Appends what was held back for a continuation that never came.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        push_bytes(&std::mem::take(&mut self.held), out);
    }
}

fn push_for_terminal(text: &str, out: &mut Vec<u8>) {
    let mut escaped = String::new();
    for piece in text.split_inclusive(is_dangerous) {
        let (plain, last) = match piece.chars().next_back() {
            Some(c) if is_dangerous(c) => (&piece[..piece.len() - c.len_utf8()], Some(c)),
            _ => (piece, None),
        };
        out.extend_from_slice(plain.as_bytes());
        match last {
            Some(c @ ('\n' | '\t')) => out.push(c as u8),
            Some(c) => {
                escaped.clear();
                push_escaped(&mut escaped, c);
                out.extend_from_slice(escaped.as_bytes());
            }
            None => {}
        }
    }
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
    }
}

/// The command as one could type it into a shell; not escaped.
pub(crate) fn shell_quoted(argv: &[String]) -> String {
    argv.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")
}

fn quoted(arg: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c) || c as u32 >= 0xa0;
    if !arg.is_empty() && arg.chars().all(plain) {
        Cow::Borrowed(arg)
    } else {
        Cow::Owned(format!("'{}'", arg.replace('\'', "'\\''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(chunks: &[&[u8]]) -> String {
        let (mut escaper, mut out) = (Escaper::default(), Vec::new());
        for chunk in chunks {
            escaper.push(chunk, &mut out);
        }
        escaper.finish(&mut out);
        String::from_utf8(out).expect("escaped output is UTF-8")
    }

    #[test]
    fn a_terminal_sees_text_lines_and_tabs_as_they_are() {
        assert_eq!(through(&["a\tb\n\u{fc}\u{4e2d}\n".as_bytes()]), "a\tb\n\u{fc}\u{4e2d}\n");
    }

    #[test]
    fn a_terminal_never_sees_an_escape_sequence() {
        assert_eq!(through(&[b"\x1b[2J\x07\r\x7f"]), "\\x1b[2J\\x07\\r\\x7f");
        assert_eq!(through(&["\u{9b}2J\u{202e}x".as_bytes()]), "\\u{9b}2J\\u{202e}x");
    }

    #[test]
    fn a_character_cut_in_two_is_put_together_again() {
        assert_eq!(through(&[b"\xc3", b"\xbc\n"]), "\u{fc}\n");
        assert_eq!(through(&[b"\xe4", b"\xb8", b"\xad"]), "\u{4e2d}");
        assert_eq!(through(&[b"\xc2", b"\x9b2J"]), "\\u{9b}2J");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers() {
        assert_eq!(through(&[b"a\xff\xfeb"]), "a\\xff\\xfeb");
        assert_eq!(through(&[b"a\xc3"]), "a\\xc3");
        assert_eq!(through(&[b"a\xc3", b"b"]), "a\\xc3b");
    }

    #[test]
    fn a_table_cell_is_one_line() {
        assert_eq!(escape("plain"), "plain");
        assert_eq!(escape("a\nb\tc\x1b]0;x\x07"), "a\\nb\\tc\\x1b]0;x\\x07");
    }

    #[test]
    fn commands_are_quoted_as_a_shell_takes_them() {
        let argv = ["sh", "-c", "echo it's", "", "a=b"].map(String::from);
        assert_eq!(shell_quoted(&argv), "sh -c 'echo it'\\''s' '' a=b");
    }
}
