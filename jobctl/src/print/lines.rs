//! `--timestamps`: lines put together from chunks, each with the time of its first byte.

use std::time::SystemTime;

use prost_types::Timestamp;

use crate::format::time::rfc3339_nanos;

/// A line longer than this is shown in pieces, the time before the first only.
const MAX_LINE: usize = 64 << 10;

/// Of one stream.
#[derive(Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The time of what is in `partial` has been written with an earlier piece.
    continued: bool,
    time: String,
}

impl Lines {
    /// Appends the lines that `data` completes to `out`, each as `TIME LINE`.
    pub(crate) fn push(&mut self, time: Option<&Timestamp>, data: &[u8], out: &mut Vec<u8>) {
        let time = shown(time);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if self.partial.is_empty() && !self.continued {
                self.time.clone_from(&time);
            }
            self.partial.extend_from_slice(piece);
            let ends = piece.last() == Some(&b'\n');
            if ends || self.partial.len() >= MAX_LINE {
                self.flush(out);
                self.continued = !ends;
            }
        }
    }

    /// Appends a last line that has no end.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.continued {
            out.extend_from_slice(self.time.as_bytes());
            out.push(b' ');
        }
        out.append(&mut self.partial);
    }
}

fn shown(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|time| SystemTime::try_from(*time).ok());
    let time = time.unwrap_or(SystemTime::UNIX_EPOCH);
    rfc3339_nanos(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 5 })
    }

    #[test]
    fn a_line_carries_the_time_of_its_first_byte() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        lines.push(at(1).as_ref(), b"a\nb", &mut out);
        lines.push(at(2).as_ref(), b"c\nd\n", &mut out);
        lines.push(at(3).as_ref(), b"e", &mut out);
        lines.finish(&mut out);
        let expected = "1970-01-01T00:00:01.000000005Z a\n\
                        1970-01-01T00:00:01.000000005Z bc\n\
                        1970-01-01T00:00:02.000000005Z d\n\
                        1970-01-01T00:00:03.000000005Z e";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn an_endless_line_does_not_grow_without_bound() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for _ in 0..3 {
            lines.push(at(1).as_ref(), &[b'x'; MAX_LINE], &mut out);
        }
        lines.push(at(1).as_ref(), b"\ny\n", &mut out);
        assert!(lines.partial.is_empty());
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.matches("1970").count(), 2);
        assert_eq!(text.matches('x').count(), 3 * MAX_LINE);
    }
}
