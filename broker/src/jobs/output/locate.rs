//! Locates a reader's position in the output and the next piece, by binary search of the index. Never
//! scans: each search takes few reads, however long the index is.

use std::io;

use job_shim::index::{Entry, Stream};

use crate::jobs::output::range::Range;
use crate::store::log::Index;

/// The streams of a reader, and the form of its pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// One stream, or both in the order in which they were read.
    pub(crate) stream: Option<Stream>,
    /// One piece for each of the shim's reads, without merging adjacent reads.
    pub(crate) by_entry: bool,
}

/// A reader's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The first entry that is still unread.
    pub(crate) entry: u64,
    /// The bytes read of each stream, by [`Stream::index`].
    pub(crate) offsets: [u64; 2],
}

/// A piece that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) stream: Stream,
    /// The offset of its first byte, in its stream.
    pub(crate) start: u64,
    /// Its length in bytes; not 0.
    pub(crate) length: usize,
    pub(crate) time_ns: u64,
    /// The reader's position after it.
    pub(crate) after: Position,
}

impl Wanted {
    pub(crate) fn wants(self, stream: Stream) -> bool {
        self.stream.is_none_or(|wanted| wanted == stream)
    }

    /// Whether an entry has wanted bytes that are still unread.
    fn is_news(self, entry: &Entry, offsets: [u64; 2]) -> bool {
        Stream::BOTH
            .into_iter()
            .any(|s| self.wants(s) && entry.ends[s.index()] > offsets[s.index()])
    }
}

impl Position {
    /// The beginning of the range, without its tail: [`crate::jobs::output::tail`] finds that.
    pub(crate) fn of(range: &Range, index: &mut Index<'_>, entries: u64) -> io::Result<Position> {
        let mut position = Position { entry: 0, offsets: range.offsets };
        let [out, err] = range.offsets;
        if out > 0 || err > 0 {
            let is_past = |entry: &Entry| entry.ends[0] > out || entry.ends[1] > err;
            position.entry = index.first(0, entries, is_past)?;
        }
        if let Some(since) = range.since_ns {
            // Times in an index never decrease: the shim ensures that, whatever the host's clock does.
            let entry = index.first(0, entries, |entry| entry.time_ns >= since)?;
            position = position.advanced(index, entry, None)?;
        }
        Ok(position)
    }

    /// Moves forward to an entry, or to a byte inside an entry.
    pub(crate) fn advanced(
        mut self,
        index: &mut Index<'_>,
        entry: u64,
        place: Option<(Stream, u64)>,
    ) -> io::Result<Position> {
        let [out, err] = index.ends_before(entry)?;
        self.entry = self.entry.max(entry);
        self.offsets = [self.offsets[0].max(out), self.offsets[1].max(err)];
        if let Some((stream, offset)) = place {
            let at = stream.index();
            self.offsets[at] = self.offsets[at].max(offset);
        }
        Ok(self)
    }

    /// The piece at this position, of at most `most` bytes, in an index of `entries`; `None` at its end.
    pub(crate) fn piece(
        self,
        wanted: Wanted,
        most: u64,
        index: &mut Index<'_>,
        entries: u64,
    ) -> io::Result<Option<Span>> {
        let first = index.first(self.entry, entries, |e| wanted.is_news(e, self.offsets))?;
        if first >= entries {
            return Ok(None);
        }
        let entry = index.entry(first)?;
        // The search skips entries that only extend an unwanted stream.
        let stream = wanted.stream.unwrap_or(entry.stream);
        let at = stream.index();
        let start = index.ends_before(first)?[at].max(self.offsets[at]);
        let (end, next) = run(wanted, index, first..entries, (start, most), at)?;
        let length = end.checked_sub(start).filter(|length| (1..=most).contains(length));
        let length = length.ok_or_else(|| disordered(first))? as usize;
        let mut after = Position { entry: next, ..self };
        after.offsets[at] = end;
        Ok(Some(Span { stream, start, length, time_ns: entry.time_ns, after }))
    }
}

/// The end of the run of one stream that begins with the first of `entries`, in bytes of that stream and in entries;
/// at most `most` bytes from `start`. A reader of one stream ignores the other's entries.
fn run(
    wanted: Wanted,
    index: &mut Index<'_>,
    entries: std::ops::Range<u64>,
    (start, most): (u64, u64),
    at: usize,
) -> io::Result<(u64, u64)> {
    let (first, cut) = (entries.start, start.saturating_add(most));
    let other = index.entry(first)?.ends[1 - at];
    let is_border = |e: &Entry| wanted.stream.is_none() && e.ends[1 - at] > other;
    let to = if wanted.by_entry { first + 1 } else { entries.end };
    let stop = index.first(first, to, |e| e.ends[at] >= cut || is_border(e))?;
    if stop < to {
        let entry = index.entry(stop)?;
        if entry.ends[at] >= cut {
            // Inside an entry: the position stays at the entry that contains the cut.
            return Ok((cut, stop + u64::from(entry.ends[at] == cut)));
        }
    }
    Ok((index.ends_before(stop)?[at], stop))
}

/// An index that no correct shim writes.
fn disordered(at: u64) -> io::Error {
    let text = format!("{}: entry {at} is not in order", crate::store::log::INDEX_NAME);
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::output::samples::Sample;
    use crate::store::log::{Reading, Window, reads};

    /// All pieces from a position on.
    fn pieces(sample: &Sample, wanted: Wanted, mut position: Position, most: u64) -> Vec<Span> {
        let (mut window, mut spans) = (Window::default(), Vec::new());
        let mut index = sample.files.index(&mut window, Reading::Blocking);
        while let Some(span) = position.piece(wanted, most, &mut index, sample.entries).unwrap() {
            position = span.after;
            spans.push(span);
        }
        spans
    }

    const STREAMS: [Option<Stream>; 3] = [None, Some(Stream::Stdout), Some(Stream::Stderr)];

    #[test]
    fn every_byte_comes_once_in_order_from_any_offsets_in_pieces_of_any_size() {
        for seed in 1..60 {
            let sample = Sample::random(seed, 700);
            let [out, err] = sample.lengths();
            let seen = [[0, 0], [out / 3, err / 2], [out, 0], [0, err], [out, err]];
            for (stream, offsets) in STREAMS.into_iter().flat_map(|s| seen.map(|seen| (s, seen))) {
                for (most, by_entry) in [(1, false), (7, false), (7, true), (1 << 20, false)] {
                    let mut window = Window::default();
                    let mut index = sample.files.index(&mut window, Reading::Blocking);
                    let range = Range { stream, offsets, ..Range::default() };
                    let position = Position::of(&range, &mut index, sample.entries).unwrap();
                    let wanted = Wanted { stream, by_entry };
                    let spans = pieces(&sample, wanted, position, most);
                    assert_eq!(sample.bytes_of(&spans), sample.expected(stream, offsets), "{seed}");
                    assert!(spans.iter().all(|span| (1..=most).contains(&(span.length as u64))));
                }
            }
        }
    }

    #[test]
    fn since_gives_what_was_read_then_or_later() {
        let sample = Sample::random(3, 500);
        for since in [0, 1, 250, 499, 500, 9999] {
            let range = Range { since_ns: Some(since), ..Range::default() };
            let mut window = Window::default();
            let mut index = sample.files.index(&mut window, Reading::Blocking);
            let position = Position::of(&range, &mut index, sample.entries).unwrap();
            let wanted = Wanted { stream: None, by_entry: true };
            let first = pieces(&sample, wanted, position, 99).first().map(|span| span.time_ns);
            assert_eq!(first, (since < 500).then_some(since));
        }
    }

    /// Each index read of a search delays the other readers of its thread.
    #[test]
    fn the_next_bytes_of_one_stream_are_found_with_few_reads_in_an_index_of_the_other() {
        let sample = Sample::of((0..200_000).map(|n| match n {
            0 | 150_000 | 199_999 => (Stream::Stderr, 1),
            _ => (Stream::Stdout, 1),
        }));
        let wanted = Wanted { stream: Some(Stream::Stderr), by_entry: false };
        let start = Position { entry: 0, offsets: [0, 0] };
        let before = reads();
        let spans = pieces(&sample, wanted, start, 1);
        assert_eq!(spans.len(), 3);
        // Then the entries of the other stream, in pieces of a hundred thousand entries.
        let wanted = Wanted { stream: Some(Stream::Stdout), by_entry: false };
        assert!(pieces(&sample, wanted, start, 1 << 20).len() < 4);
        let both = Wanted { stream: None, by_entry: false };
        assert_eq!(pieces(&sample, both, start, 1 << 20).len(), 5);
        assert!(reads() - before < 500, "{} reads", reads() - before);
    }

    /// A compromised shim's index causes an error, and neither a panic nor a loop.
    #[test]
    fn an_index_that_is_not_in_order_is_an_error() {
        let entry = |stream, ends| Entry { time_ns: 0, ends, stream };
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        for entries in [
            vec![entry(out, [9, 0]), entry(out, [4, 0]), entry(out, [2, 3])],
            vec![entry(err, [9, 0])],
            vec![entry(out, [u64::MAX, 0]), entry(out, [1, u64::MAX]), entry(err, [0, 1])],
            vec![entry(err, [0, 5]), entry(out, [0, 5]), entry(out, [0, 2]), entry(err, [1, 9])],
        ] {
            let sample = Sample::raw(&entries);
            for stream in STREAMS {
                let (mut window, mut steps) = (Window::default(), 0);
                let mut index = sample.files.index(&mut window, Reading::Blocking);
                let mut position = Position { entry: 0, offsets: [0, 3] };
                let wanted = Wanted { stream, by_entry: false };
                while let Ok(Some(span)) = position.piece(wanted, 1 << 62, &mut index, 3) {
                    (position, steps) = (span.after, steps + 1);
                    assert!(steps < 20, "{entries:?}");
                }
            }
        }
    }
}
