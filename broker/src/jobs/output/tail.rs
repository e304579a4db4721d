//! Finds where the last lines of an output begin, by counting newlines backwards. It must work in slices: a line of a
//! gibibyte may not occupy a thread.

use std::io;

use job_shim::index::Stream;

use crate::jobs::output::locate::Wanted;
use crate::store::log::{LogFiles, Reading, Window};

/// Maximum bytes of a slice: about a millisecond.
const SLICE: u64 = 1 << 20;
/// Maximum entries of a slice; an entry may have a single byte.
const ENTRIES: u64 = 8 << 10;
/// Bytes of one read.
const BLOCK: u64 = 64 << 10;

/// The state of a count, between two slices.
#[derive(Debug)]
pub(crate) struct Tail {
    wanted: Wanted,
    /// Lines still to find.
    missing: u64,
    /// Whether the next byte is the last: a newline there ends the last line and begins none.
    is_last_byte: bool,
    /// The number of uncounted entries, and the end of the uncounted bytes of the last one.
    entry: u64,
    end: Option<u64>,
}

/// An entry, and a byte inside it.
pub(crate) type Place = (u64, Option<(Stream, u64)>);

/// The last block that was read of one log.
#[derive(Default)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Tail {
    /// The tail of `lines` lines of an output with this number of `entries`.
    pub(crate) fn new(wanted: Wanted, lines: u64, entries: u64) -> Tail {
        Tail { wanted, missing: lines, is_last_byte: true, entry: entries, end: None }
    }

    /// Counts one more slice. Returns the place once it is found.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn step(&mut self, files: &LogFiles) -> io::Result<Option<Place>> {
        if self.missing == 0 {
            return Ok(Some((self.entry, None)));
        }
        match self.wanted.stream {
            Some(stream) => self.step_in(stream, files),
            None => self.step_in_order(files),
        }
    }

    /// Counts one stream: directly in its log; the index is only needed for the place.
    fn step_in(&mut self, stream: Stream, files: &LogFiles) -> io::Result<Option<Place>> {
        let (mut window, at) = (Window::default(), stream.index());
        let mut index = files.index(&mut window, Reading::Blocking);
        let end = match self.end {
            Some(end) => end,
            None => index.ends_before(self.entry)?[at],
        };
        let start = end.saturating_sub(SLICE);
        let found = self.count(files, &mut Block::default(), stream, start..end)?;
        self.end = Some(start);
        let offset = match found {
            Some(offset) => offset,
            None if start == 0 => return Ok(Some((0, None))),
            None => return Ok(None),
        };
        let entry = index.first(0, self.entry, |e| e.ends[at] > offset)?;
        Ok(Some((entry, Some((stream, offset)))))
    }

    /// Counts both streams, entry by entry.
    fn step_in_order(&mut self, files: &LogFiles) -> io::Result<Option<Place>> {
        let (mut window, mut blocks) = (Window::default(), [Block::default(), Block::default()]);
        let mut index = files.index(&mut window, Reading::Blocking);
        let (mut bytes, mut entries) = (SLICE, ENTRIES);
        while self.entry > 0 {
            if bytes == 0 || entries == 0 {
                return Ok(None);
            }
            let last = self.entry - 1;
            let entry = index.entry(last)?;
            let (stream, at) = (entry.stream, entry.stream.index());
            let start = index.ends_before(last)?[at];
            let end = self.end.unwrap_or(entry.ends[at]);
            let from = start.max(end.saturating_sub(bytes));
            if let Some(offset) = self.count(files, &mut blocks[at], stream, from..end)? {
                return Ok(Some((last, Some((stream, offset)))));
            }
            bytes -= end.saturating_sub(from);
            entries -= 1;
            if from > start {
                self.end = Some(from);
            } else {
                (self.entry, self.end) = (last, None);
            }
        }
        Ok(Some((0, None)))
    }

    /// Counts lines backwards in a range. Returns where the last missing line begins.
    fn count(
        &mut self,
        files: &LogFiles,
        block: &mut Block,
        stream: Stream,
        range: std::ops::Range<u64>,
    ) -> io::Result<Option<u64>> {
        let mut end = range.end;
        while end > range.start {
            let bytes = block.up_to(files, stream, end)?;
            let length = (bytes.len() as u64).min(end - range.start);
            let bytes = &bytes[bytes.len() - length as usize..];
            end -= length;
            for (n, byte) in bytes.iter().enumerate().rev() {
                if *byte == b'\n' && !self.is_last_byte {
                    self.missing -= 1;
                }
                self.is_last_byte = false;
                if self.missing == 0 {
                    return Ok(Some(end + n as u64 + 1));
                }
            }
        }
        Ok(None)
    }
}

impl Block {
    /// The bytes before `end`, which is not 0; at least one.
    fn up_to(&mut self, files: &LogFiles, stream: Stream, end: u64) -> io::Result<&[u8]> {
        let has = self.start + self.bytes.len() as u64;
        if end <= self.start || end > has {
            self.start = end.saturating_sub(BLOCK);
            self.bytes.resize((end - self.start) as usize, 0);
            files.read_into(stream, self.start, &mut self.bytes)?;
        }
        Ok(&self.bytes[..(end - self.start) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::output::samples::Sample;

    /// Where the last lines begin, found by a scan of all bytes: an index into their order.
    fn expected(sample: &Sample, stream: Option<Stream>, lines: u64) -> usize {
        let (mut missing, mut last) = (lines, true);
        let wanted = |s: Stream| stream.is_none_or(|wanted| wanted == s);
        for (n, (stream, _, byte)) in sample.bytes.iter().enumerate().rev() {
            if missing == 0 {
                return n + 1;
            }
            if wanted(*stream) {
                missing -= u64::from(*byte == b'\n' && !last);
                last = false;
                if missing == 0 {
                    return n + 1;
                }
            }
        }
        if missing == 0 { sample.bytes.len() } else { 0 }
    }

    fn found(sample: &Sample, stream: Option<Stream>, lines: u64) -> (Place, u32) {
        let wanted = Wanted { stream, by_entry: false };
        let (mut tail, mut steps) = (Tail::new(wanted, lines, sample.entries), 1);
        loop {
            match tail.step(&sample.files).unwrap() {
                Some(place) => return (place, steps),
                None => steps += 1,
            }
        }
    }

    #[test]
    fn the_last_lines_begin_where_a_look_at_every_byte_says() {
        for seed in 1..40 {
            let sample = Sample::random(seed, 300);
            for stream in [None, Some(Stream::Stdout), Some(Stream::Stderr)] {
                for lines in [0, 1, 2, 3, 10, 50, 1_000_000] {
                    let ((entry, place), _) = found(&sample, stream, lines);
                    let mut window = Window::default();
                    let mut index = sample.files.index(&mut window, Reading::Blocking);
                    let start = crate::jobs::output::locate::Position { entry: 0, offsets: [0, 0] };
                    let start = start.advanced(&mut index, entry, place).unwrap();
                    let rest = &sample.bytes[expected(&sample, stream, lines)..];
                    let wanted = |s: &Stream| stream.is_none_or(|wanted| wanted == *s);
                    let rest: Vec<_> = rest
                        .iter()
                        .filter(|(s, ..)| wanted(s))
                        .map(|(s, at, _)| (*s, *at))
                        .collect();
                    assert_eq!(
                        sample.expected(stream, start.offsets),
                        rest,
                        "{seed} {stream:?} {lines}"
                    );
                }
            }
        }
    }

    /// The work of one step bounds how long its thread is occupied.
    #[test]
    fn a_line_without_an_end_is_looked_at_in_slices() {
        let whole = Sample::of([(Stream::Stdout, 3 * SLICE)].into_iter());
        for stream in [None, Some(Stream::Stdout)] {
            assert_eq!(found(&whole, stream, u64::MAX), ((0, None), 3));
        }
        let single = Sample::of((0..2 * ENTRIES).map(|n| (Stream::BOTH[n as usize % 2], 1)));
        assert_eq!(found(&single, None, u64::MAX), ((0, None), 2));
        assert_eq!(found(&single, Some(Stream::Stderr), u64::MAX), ((0, None), 1));
    }
}
