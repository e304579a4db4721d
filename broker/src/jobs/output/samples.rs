//! Sample outputs for tests: files as a shim writes them, and the expected pieces. No other code may use them.

use job_shim::index::{Entry, Stream};

use crate::jobs::output::locate::Span;
use crate::store::log::{INDEX_NAME, LogFiles};

/// An output on disk.
pub(crate) struct Sample {
    pub(crate) files: LogFiles,
    pub(crate) entries: u64,
    /// The bytes in the order of the shim's reads: the stream, the offset in it, the byte.
    pub(crate) bytes: Vec<(Stream, u64, u8)>,
    _dir: tempfile::TempDir,
}

impl Sample {
    /// Reads of these sizes; the time of each read is its number.
    pub(crate) fn of(reads: impl Iterator<Item = (Stream, u64)>) -> Sample {
        let (mut ends, mut entries, mut bytes) = ([0, 0], Vec::new(), Vec::new());
        let mut random = 88_172_645_463_325_252_u64;
        for (n, (stream, length)) in reads.enumerate() {
            for _ in 0..length {
                random = next(random);
                let byte =
                    if random.is_multiple_of(5) { b'\n' } else { b'a' + (random % 26) as u8 };
                bytes.push((stream, ends[stream.index()], byte));
                ends[stream.index()] += 1;
            }
            entries.push(Entry { time_ns: n as u64, ends, stream });
        }
        Sample { bytes: bytes.clone(), ..Sample::with(&entries, &bytes) }
    }

    /// An output of `reads` reads, the same for the same seed.
    pub(crate) fn random(seed: u64, reads: usize) -> Sample {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut stream = Stream::Stdout;
        let read = move || {
            random = next(random);
            if random.is_multiple_of(1 + seed % 7) {
                stream = Stream::BOTH[usize::from(stream == Stream::Stdout)];
            }
            (stream, 1 + (random >> 20) % (1 + seed % 40))
        };
        Sample::of(std::iter::repeat_with(read).take(reads))
    }

    /// An index with these entries, without logs.
    pub(crate) fn raw(entries: &[Entry]) -> Sample {
        Sample::with(entries, &[])
    }

    fn with(entries: &[Entry], bytes: &[(Stream, u64, u8)]) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let index: Vec<u8> = entries.iter().flat_map(Entry::to_bytes).collect();
        std::fs::write(dir.path().join(INDEX_NAME), index).unwrap();
        for stream in Stream::BOTH {
            let of_it = bytes.iter().filter(|(s, ..)| *s == stream).map(|(.., byte)| *byte);
            std::fs::write(dir.path().join(stream.file_name()), of_it.collect::<Vec<_>>()).unwrap();
        }
        let files = LogFiles::open(dir.path()).unwrap();
        Sample { files, entries: entries.len() as u64, bytes: Vec::new(), _dir: dir }
    }

    pub(crate) fn lengths(&self) -> [u64; 2] {
        Stream::BOTH.map(|stream| self.bytes.iter().filter(|(s, ..)| *s == stream).count() as u64)
    }

    /// The streams and offsets, byte by byte, that a reader must return.
    pub(crate) fn expected(&self, stream: Option<Stream>, from: [u64; 2]) -> Vec<(Stream, u64)> {
        let is_wanted = |s: Stream, at: u64| stream.is_none_or(|w| w == s) && at >= from[s.index()];
        let bytes = self.bytes.iter().map(|(stream, at, _)| (*stream, *at));
        bytes.filter(|(stream, at)| is_wanted(*stream, *at)).collect()
    }

    /// The streams and offsets that a reader returned.
    pub(crate) fn bytes_of(&self, spans: &[Span]) -> Vec<(Stream, u64)> {
        let bytes = |span: &Span| {
            let (stream, start) = (span.stream, span.start);
            (start..start + span.length as u64).map(move |at| (stream, at))
        };
        spans.iter().flat_map(bytes).collect()
    }
}

/// xorshift64.
fn next(mut random: u64) -> u64 {
    random ^= random << 13;
    random ^= random >> 7;
    random ^ (random << 17)
}
