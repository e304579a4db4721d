//! Reads the output files of a job: the index by entry, the logs by offset. Never writes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use job_shim::index::{ENTRY, Entry, Stream};
use job_shim::wire::Progress;

/// The index's file name in the job's directory.
pub(crate) const INDEX_NAME: &str = "output.idx";

/// Entries of one read: 8 KiB.
const WINDOW: u64 = 256;

/// A job's open files, shared by all its readers: each read gives an offset. `None` for a file that the job has not
/// created.
#[derive(Debug)]
pub(crate) struct LogFiles {
    logs: [Option<File>; 2],
    index: Option<File>,
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It may not: a read beyond the page cache fails with `WouldBlock`.
    Cached,
    /// It may. Forbidden on a thread that serves.
    Blocking,
}

/// Adjacent entries: the part of an index that one reader keeps.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: Vec<Entry>,
    start: u64,
}

/// An index, as one reader reads it.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    files: &'a LogFiles,
    window: &'a mut Window,
    reading: Reading,
}

impl LogFiles {
    /// Opens the three files.
    ///
    /// # Errors
    /// As open(2), except for a missing file.
    pub(crate) fn open(dir: &Path) -> io::Result<LogFiles> {
        let open = |name| match File::open(dir.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let [out, err] = Stream::BOTH.map(|s| open(s.file_name()));
        Ok(LogFiles { logs: [out?, err?], index: open(INDEX_NAME)? })
    }

    /// Whether all files are missing.
    pub(crate) fn are_missing(&self) -> bool {
        self.index.is_none() && self.logs.iter().all(Option::is_none)
    }

    /// The index, read through the reader's window.
    pub(crate) fn index<'a>(&'a self, window: &'a mut Window, reading: Reading) -> Index<'a> {
        Index { files: self, window, reading }
    }

    /// Reads `length` bytes of a log from `offset`; [`Reading::Cached`] reads only as many as are in the page cache.
    ///
    /// # Errors
    /// As read(2); `UnexpectedEof` if the log is shorter.
    pub(crate) fn read(
        &self,
        stream: Stream,
        offset: u64,
        length: usize,
        reading: Reading,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        match reading {
            Reading::Cached => {
                crate::sys::read_cached(self.log(stream)?.as_raw_fd(), &mut bytes, offset)?;
            }
            Reading::Blocking => {
                bytes.resize(length, 0);
                self.read_into(stream, offset, &mut bytes)?;
            }
        }
        Ok(bytes)
    }

    /// Fills `bytes` from a log; may wait for the disk.
    ///
    /// # Errors
    /// As read(2); `UnexpectedEof` if the log is shorter.
    pub(crate) fn read_into(
        &self,
        stream: Stream,
        offset: u64,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        self.log(stream)?.read_exact_at(bytes, offset)
    }

    fn log(&self, stream: Stream) -> io::Result<&File> {
        self.logs[stream.index()].as_ref().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Index<'_> {
    /// Entry number `at`, which must exist.
    ///
    /// # Errors
    /// As read(2); `InvalidData` for a torn entry; `WouldBlock`, see [`Reading`].
    pub(crate) fn entry(&mut self, at: u64) -> io::Result<Entry> {
        if let Some(entry) = self.window.entry(at) {
            return Ok(entry);
        }
        // A reader moves forward and looks back by one entry, or moves backward.
        let back = if at < self.window.start { WINDOW - 1 } else { 1 };
        let start = at.saturating_sub(back);
        self.window.entries.clear();
        self.window.start = start;
        let mut bytes = [0; WINDOW as usize * ENTRY];
        let read = self.read(&mut bytes, start)?;
        let (whole, _) = bytes[..read].as_chunks::<ENTRY>();
        self.window.entries.extend(whole.iter().map_while(Entry::from_bytes));
        self.window.entry(at).ok_or_else(|| self.lacks(at, whole.len() as u64 + start))
    }

    /// The lengths of both streams before entry number `at`.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub(crate) fn ends_before(&mut self, at: u64) -> io::Result<[u64; 2]> {
        match at.checked_sub(1) {
            Some(before) => Ok(self.entry(before)?.ends),
            None => Ok([0, 0]),
        }
    }

    /// The first entry from `from` on for which `wanted` is true, or `to` if there is none below `to`. `wanted` must
    /// stay true for all later entries. In an index where it does not, the result is any entry for which it is true,
    /// or `to`.
    ///
    /// Takes a logarithmic number of reads: with 20 million entries, 50 reads of 32 bytes at most.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub(crate) fn first(
        &mut self,
        from: u64,
        to: u64,
        wanted: impl Fn(&Entry) -> bool,
    ) -> io::Result<u64> {
        let (mut low, mut high, mut step) = (from, to, 1);
        // The entry is usually near: the search doubles its steps, then bisects.
        while low < high {
            let at = low.saturating_add(step - 1).min(high - 1);
            if wanted(&self.probe(at)?) {
                high = at;
                break;
            }
            low = at + 1;
            step *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if wanted(&self.probe(middle)?) { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    /// As [`Index::entry`], but reads a single entry if the window does not contain it.
    fn probe(&self, at: u64) -> io::Result<Entry> {
        if let Some(entry) = self.window.entry(at) {
            return Ok(entry);
        }
        let mut bytes = [0; ENTRY];
        let read = self.read(&mut bytes, at)?;
        let entry = (read == ENTRY).then(|| Entry::from_bytes(&bytes)).flatten();
        entry.ok_or_else(|| self.lacks(at, at + u64::from(read == ENTRY)))
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let Some(index) = &self.files.index else { return Err(torn(at)) };
        let offset = at.checked_mul(ENTRY as u64).ok_or_else(|| torn(at))?;
        #[cfg(test)]
        READS.set(READS.get() + 1);
        match self.reading {
            Reading::Cached => crate::sys::read_cached_into(index.as_raw_fd(), bytes, offset),
            Reading::Blocking => index.read_at(bytes, offset),
        }
    }

    /// Why entry `at` cannot be read, of an index that was read up to entry `end`.
    fn lacks(&self, at: u64, end: u64) -> io::Error {
        match self.reading {
            Reading::Cached if at >= end => io::ErrorKind::WouldBlock.into(),
            _ => torn(at),
        }
    }
}

impl Window {
    fn entry(&self, at: u64) -> Option<Entry> {
        self.entries.get(usize::try_from(at.checked_sub(self.start)?).ok()?).copied()
    }
}

/// The progress that the index records, up to its last whole entry.
///
/// # Errors
/// As open(2) and read(2).
pub(crate) fn measure(dir: &Path) -> io::Result<Progress> {
    let index = match File::open(dir.join(INDEX_NAME)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Progress::default()),
        opened => opened?,
    };
    let entries = index.metadata()?.len() / ENTRY as u64;
    let Some(last) = entries.checked_sub(1) else { return Ok(Progress::default()) };
    let mut bytes = [0; ENTRY];
    index.read_exact_at(&mut bytes, last * ENTRY as u64)?;
    let [stdout, stderr] = Entry::from_bytes(&bytes).ok_or_else(|| torn(last))?.ends;
    Ok(Progress { stdout, stderr, entries, ..Progress::default() })
}

/// The number of entries by the index's length; 0 without an index. Tells whether to read it.
pub(crate) fn entries(dir: &Path) -> u64 {
    std::fs::metadata(dir.join(INDEX_NAME)).map_or(0, |index| index.len() / ENTRY as u64)
}

/// Bytes of a job's output and its index; small writes make the index larger than the output. A missing file counts
/// 0.
///
/// # Errors
/// As stat(2).
pub(crate) fn kept(dir: &Path) -> io::Result<u64> {
    let [out, err] = Stream::BOTH.map(Stream::file_name);
    let mut sum = 0_u64;
    for name in [out, err, INDEX_NAME] {
        match dir.join(name).metadata() {
            Ok(file) => sum = sum.saturating_add(file.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sum)
}

#[cfg(test)]
thread_local! { static READS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) } }

/// The number of index reads on this thread.
#[cfg(test)]
pub(crate) fn reads() -> u64 {
    READS.get()
}

fn torn(at: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{INDEX_NAME}: entry {at} cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_of(ends: &[[u64; 2]]) -> (tempfile::TempDir, LogFiles) {
        let dir = tempfile::tempdir().unwrap();
        let entry = |ends: &[u64; 2]| {
            Entry { time_ns: ends[0] + ends[1], ends: *ends, stream: Stream::Stdout }.to_bytes()
        };
        let bytes: Vec<u8> = ends.iter().flat_map(entry).collect();
        std::fs::write(dir.path().join(INDEX_NAME), bytes).unwrap();
        let files = LogFiles::open(dir.path()).unwrap();
        (dir, files)
    }

    #[test]
    fn an_offset_is_found_in_an_index_of_many_windows() {
        let ends: Vec<_> = (1..=2000).map(|n| [n, n / 2]).collect();
        let (_dir, files) = index_of(&ends);
        let mut window = Window::default();
        let mut index = files.index(&mut window, Reading::Blocking);
        for from in [0, 1, 700, 1500] {
            assert_eq!(index.first(from, 2000, |e| e.ends[0] > 1500).unwrap(), 1500, "{from}");
            assert_eq!(index.first(from, 2000, |e| e.ends[0] > 9999).unwrap(), 2000, "{from}");
        }
        assert_eq!(index.first(1600, 2000, |e| e.ends[0] > 1500).unwrap(), 1600);
        assert_eq!(index.first(0, 2000, |e| e.ends[1] > 10).unwrap(), 21);
        assert_eq!(index.ends_before(0).unwrap(), [0, 0]);
        assert_eq!(index.ends_before(1500).unwrap(), [1500, 750]);
        // The same with a filled window.
        assert_eq!(index.first(1490, 2000, |e| e.ends[0] > 1700).unwrap(), 1700);
        assert_eq!(index.first(2000, 2000, |_| true).unwrap(), 2000);
    }

    #[test]
    fn an_entry_past_the_end_is_an_error() {
        let (_dir, files) = index_of(&[[1, 0]]);
        let mut window = Window::default();
        let past = files.index(&mut window, Reading::Blocking).entry(1).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::InvalidData);
        let unknown = files.index(&mut window, Reading::Cached).entry(1).unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::WouldBlock, "the cache does not say");
    }

    #[test]
    fn a_torn_entry_is_damage_and_not_a_reason_to_wait() {
        let (dir, files) = index_of(&[[1, 0], [2, 0]]);
        let path = dir.path().join(INDEX_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ENTRY] ^= 1;
        std::fs::write(path, bytes).unwrap();
        let mut window = Window::default();
        for at in [0, 1] {
            let read = files.index(&mut window, Reading::Cached).entry(at);
            assert_eq!(
                read.err().map(|e| e.kind()),
                (at == 1).then_some(io::ErrorKind::InvalidData)
            );
        }
    }
}
