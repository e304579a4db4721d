//! Reading what a shim has kept: the index, by entries, and the logs, by offset.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use job_shim::index::{ENTRY, Entry, Stream};
use job_shim::wire::Progress;

/// The index's name in the job's directory.
pub const INDEX_NAME: &str = "output.idx";

/// Entries read at once: 8 KiB.
const WINDOW: u64 = 256;

/// A job's files, open for reading. `None` for a job that never came as far as having them.
#[derive(Debug)]
pub struct LogFiles {
    logs: [Option<Arc<File>>; 2],
    index: Option<File>,
    window: Vec<Entry>,
    window_start: u64,
}

impl LogFiles {
    /// Opens the three files.
    ///
    /// # Errors
    /// As open(2); a missing file is none.
    pub fn open(dir: &Path) -> io::Result<LogFiles> {
        let open = |name| match File::open(dir.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let [out, err] = Stream::BOTH.map(|s| open(s.file_name()));
        Ok(LogFiles {
            logs: [out?.map(Arc::new), err?.map(Arc::new)],
            index: open(INDEX_NAME)?,
            window: Vec::new(),
            window_start: 0,
        })
    }

    /// Whether there is none of them.
    pub fn are_missing(&self) -> bool {
        self.index.is_none() && self.logs.iter().all(Option::is_none)
    }

    /// Entry number `at`; the caller knows that it exists.
    ///
    /// # Errors
    /// As read(2); `InvalidData` where the entry is torn.
    pub fn entry(&mut self, at: u64) -> io::Result<Entry> {
        let inside = at.checked_sub(self.window_start).and_then(|n| self.window.get(n as usize));
        if let Some(entry) = inside {
            return Ok(*entry);
        }
        // Readers go forward and look one back, or go backward.
        let back = if at < self.window_start { WINDOW - 1 } else { 1 };
        let start = at.saturating_sub(back);
        self.read_window(start)?;
        self.window.get((at - start) as usize).copied().ok_or_else(|| torn(at))
    }

    /// The lengths of both streams before entry number `at`.
    ///
    /// # Errors
    /// As [`LogFiles::entry`].
    pub fn ends_before(&mut self, at: u64) -> io::Result<[u64; 2]> {
        match at.checked_sub(1) {
            Some(before) => Ok(self.entry(before)?.ends),
            None => Ok([0, 0]),
        }
    }

    /// The first of `entries` that `wanted` holds for; it must hold for all after it, too.
    ///
    /// # Errors
    /// As [`LogFiles::entry`].
    pub fn first_entry(
        &mut self,
        entries: u64,
        wanted: impl Fn(&Entry) -> bool,
    ) -> io::Result<u64> {
        let (mut low, mut high) = (0, entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if wanted(&self.entry(middle)?) { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    fn read_window(&mut self, at: u64) -> io::Result<()> {
        let Some(index) = &self.index else { return Err(torn(at)) };
        let mut bytes = [0; WINDOW as usize * ENTRY];
        let read = index.read_at(&mut bytes, at * ENTRY as u64)?;
        self.window.clear();
        self.window_start = at;
        let (entries, _) = bytes[..read].as_chunks::<ENTRY>();
        self.window.extend(entries.iter().map_while(Entry::from_bytes));
        Ok(())
    }

    /// `length` bytes of a log from `offset`; what is in the page cache is read on the spot, the
    /// rest on a thread that may block.
    ///
    /// # Errors
    /// As read(2); `UnexpectedEof` where the log is shorter than that.
    pub async fn read(&self, stream: Stream, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let Some(log) = &self.logs[stream.index()] else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut bytes = Vec::with_capacity(length);
        let cached = crate::sys::read_cached(log.as_raw_fd(), &mut bytes, offset)?;
        if cached == length {
            return Ok(bytes);
        }
        let log = Arc::clone(log);
        let rest = move || {
            bytes.resize(length, 0);
            log.read_exact_at(&mut bytes[cached..], offset + cached as u64).map(|()| bytes)
        };
        tokio::task::spawn_blocking(rest).await.map_err(io::Error::other)?
    }

    /// As [`LogFiles::read`], on this thread.
    ///
    /// # Errors
    /// As read(2).
    pub fn read_now(&self, stream: Stream, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match &self.logs[stream.index()] {
            Some(log) => log.read_exact_at(bytes, offset),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// What the index of a job says of its output, up to the last whole entry.
///
/// # Errors
/// As open(2) and read(2).
pub fn measure(dir: &Path) -> io::Result<Progress> {
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

/// How much the index holds by its length alone: whether it is worth a look. 0 without one.
pub fn entries(dir: &Path) -> u64 {
    std::fs::metadata(dir.join(INDEX_NAME)).map_or(0, |index| index.len() / ENTRY as u64)
}

/// Bytes of output that a job keeps now, with its index, which a job of small writes makes larger than
/// its output; files that are not there keep nothing.
pub fn kept(dir: &Path) -> u64 {
    let [out, err] = Stream::BOTH.map(Stream::file_name);
    let length = |name| dir.join(name).metadata().map_or(0, |file| file.len());
    [out, err, INDEX_NAME].map(length).iter().sum()
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
        let (_dir, mut files) = index_of(&ends);
        assert_eq!(files.first_entry(2000, |e| e.ends[0] > 1500).unwrap(), 1500);
        assert_eq!(files.first_entry(2000, |e| e.ends[1] > 10).unwrap(), 21);
        assert_eq!(files.first_entry(2000, |e| e.ends[0] > 9999).unwrap(), 2000);
        assert_eq!(files.ends_before(0).unwrap(), [0, 0]);
        assert_eq!(files.ends_before(1500).unwrap(), [1500, 750]);
    }

    #[test]
    fn an_entry_past_the_end_is_an_error() {
        let (_dir, mut files) = index_of(&[[1, 0]]);
        assert!(files.entry(1).is_err());
    }
}
