//! Following a job's output. A reader holds a position and one piece, nothing else; it waits for
//! the shim's word and never polls; a slow one costs nobody anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use job_shim::index::Stream;
use job_shim::wire::Progress;
use tokio::sync::watch;

use super::job::Job;
use super::state::Snapshot;
use crate::store::log::LogFiles;

/// What of the output is wanted.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// One stream, or both in the order in which they were read.
    pub stream: Option<Stream>,
    /// Go on from here, by [`Stream::index`].
    pub offsets: [u64; 2],
    /// Only so many last lines.
    pub tail_lines: Option<u64>,
    /// Only what was read then or later, nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Until the job has ended, instead of to what is there now.
    pub follow: bool,
    /// A piece for each read of the shim, instead of neighbours put together.
    pub by_entry: bool,
}

impl Range {
    /// Whether its beginning is found without looking for it.
    pub(super) fn is_from_start(&self) -> bool {
        self.offsets == [0, 0] && self.tail_lines.is_none() && self.since_ns.is_none()
    }
}

/// Output of one stream, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose.
    pub stream: Stream,
    /// Of the first byte, in its stream.
    pub offset: u64,
    /// The bytes.
    pub data: Vec<u8>,
    /// When the first of them was read, nanoseconds since 1970.
    pub time_ns: u64,
}

/// Why there is no reader, or no next piece.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Of a job that has ended.
    #[error("{name} offset {offset} is past the end, which is {length}")]
    PastTheEnd {
        /// `stdout` or `stderr`.
        name: &'static str,
        /// As asked.
        offset: u64,
        /// As it is.
        length: u64,
    },
    /// By somebody who was faster.
    #[error("the job has been removed, with its output")]
    Removed,
    /// The disk, or an index that is damaged.
    #[error("cannot read the job's output: {0}")]
    Io(#[from] io::Error),
}

/// Readers at this moment, of all jobs: the more there are, the smaller their pieces.
static READERS: AtomicUsize = AtomicUsize::new(0);
/// Bytes in the pieces of all readers together, about.
const BUDGET: usize = 16 << 20;
/// Bytes of one piece: least and most. Measured: 256 KiB is as fast as it gets.
const PIECE: (usize, usize) = (16 << 10, 256 << 10);
/// Bytes looked at in one go when lines are counted backwards.
const BLOCK: usize = 64 << 10;

/// Reads a job's output from a position on.
#[derive(Debug)]
pub struct OutputReader {
    job: Arc<Job>,
    files: LogFiles,
    stream: Option<Stream>,
    follow: bool,
    by_entry: bool,
    /// The entry that is read next, and how far each stream has been read.
    entry: u64,
    offsets: [u64; 2],
    /// Something, since the shim was last asked for more.
    has_given: bool,
    progress: watch::Receiver<Progress>,
    snapshot: watch::Receiver<Snapshot>,
}

impl OutputReader {
    /// Finds the beginning of the range.
    ///
    /// # Errors
    /// [`OutputError`].
    pub(super) fn open(job: Arc<Job>, files: LogFiles, range: &Range) -> Result<Self, OutputError> {
        READERS.fetch_add(1, Ordering::Relaxed);
        let mut reader = OutputReader {
            progress: job.watch_progress(),
            snapshot: job.watch_snapshot(),
            files,
            stream: range.stream,
            follow: range.follow,
            by_entry: range.by_entry,
            entry: 0,
            offsets: range.offsets,
            has_given: false,
            job,
        };
        let is_over = reader.is_over(); // first: what is over has said its last length before
        let known = *reader.progress.borrow_and_update();
        if is_over {
            check_offsets(range.offsets, known)?;
        }
        reader.seek(range, known)?;
        Ok(reader)
    }

    /// The next piece; `None` at the end of the range: then the job's snapshot is the trailer.
    ///
    /// # Errors
    /// [`OutputError::Io`].
    pub async fn next(&mut self) -> Result<Option<Piece>, OutputError> {
        loop {
            // In this order: what is over has said its last length before.
            let over = self.is_over();
            let known = *self.progress.borrow_and_update();
            if let Some(piece) = self.piece(known).await? {
                self.has_given = true;
                return Ok(Some(piece));
            }
            if over || !self.follow {
                return Ok(None);
            }
            if std::mem::take(&mut self.has_given) {
                // First what was given goes to the client, then the shim is asked for more: asked
                // before, it would wake up and take a processor from whoever waits for the line. A
                // turn of the scheduler, and not yield_now(), which is over when it is polled twice.
                let _ = tokio::spawn(std::future::ready(())).await;
                continue;
            }
            self.job.ask_for_progress();
            tokio::select! {
                _ = self.progress.changed() => {}
                _ = self.snapshot.changed() => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        self.snapshot.borrow().state.is_over()
    }

    fn wants(&self, stream: Stream) -> bool {
        self.stream.is_none_or(|wanted| wanted == stream)
    }

    /// The bytes at the position, if there are any.
    async fn piece(&mut self, known: Progress) -> Result<Option<Piece>, OutputError> {
        let most = (BUDGET / READERS.load(Ordering::Relaxed).max(1)).clamp(PIECE.0, PIECE.1) as u64;
        while self.entry < known.entries {
            let entry = self.files.entry(self.entry)?;
            let (stream, at) = (entry.stream, entry.stream.index());
            let start = self.files.ends_before(self.entry)?[at].max(self.offsets[at]);
            if !self.wants(stream) || start >= entry.ends[at] {
                self.entry += 1;
                continue;
            }
            let (end, next) = self.run(start, most, known)?;
            let data = self.files.read(stream, start, (end - start) as usize).await?;
            self.entry = next;
            self.offsets[at] = end;
            return Ok(Some(Piece { stream, offset: start, data, time_ns: entry.time_ns }));
        }
        Ok(None)
    }

    /// Where the run of entries of one stream that begins at the position ends, in bytes of that
    /// stream and in entries; at most `most` bytes.
    fn run(&mut self, start: u64, most: u64, known: Progress) -> io::Result<(u64, u64)> {
        let first = self.files.entry(self.entry)?;
        let at = first.stream.index();
        let (mut end, mut next) = (first.ends[at], self.entry + 1);
        while !self.by_entry && next < known.entries && end - start < most {
            let entry = self.files.entry(next)?;
            if entry.stream != first.stream {
                // Of one stream alone, the other's entries are no border.
                if self.wants(entry.stream) {
                    break;
                }
            } else {
                end = entry.ends[at];
            }
            next += 1;
        }
        if end - start > most {
            // Cut inside an entry: stay with the one that holds the cut.
            let cut = start + most;
            return Ok((cut, self.holder(next, at, cut)?));
        }
        Ok((end, next))
    }

    /// The entry at or before `before` that holds byte `offset` of a stream.
    fn holder(&mut self, before: u64, at: usize, offset: u64) -> io::Result<u64> {
        let mut entry = before;
        while entry > self.entry && self.files.ends_before(entry)?[at] > offset {
            entry -= 1;
        }
        Ok(entry)
    }

    fn seek(&mut self, range: &Range, known: Progress) -> Result<(), OutputError> {
        let [out, err] = self.offsets;
        if out > 0 || err > 0 {
            self.entry = self
                .files
                .first_entry(known.entries, |entry| entry.ends[0] > out || entry.ends[1] > err)?;
        }
        if let Some(since) = range.since_ns {
            let entry = self.files.first_entry(known.entries, |e| e.time_ns >= since)?;
            self.advance(entry, None)?;
        }
        if let Some(lines) = range.tail_lines {
            let (entry, place) = self.tail(lines, known)?;
            self.advance(entry, place)?;
        }
        Ok(())
    }

    /// Moves the position forward to an entry, or to a byte inside it.
    fn advance(&mut self, entry: u64, place: Option<(Stream, u64)>) -> io::Result<()> {
        let before = self.files.ends_before(entry)?;
        self.entry = self.entry.max(entry);
        for stream in Stream::BOTH {
            let at = stream.index();
            self.offsets[at] = self.offsets[at].max(before[at]);
        }
        if let Some((stream, offset)) = place {
            let at = stream.index();
            self.offsets[at] = self.offsets[at].max(offset);
        }
        Ok(())
    }

    /// Where the last `lines` lines begin. Walks backwards: the cost is that of the lines.
    fn tail(&mut self, lines: u64, known: Progress) -> io::Result<(u64, Option<(Stream, u64)>)> {
        let (mut entry, mut missing, mut last_byte) = (known.entries, lines, true);
        if lines == 0 {
            return Ok((entry, None));
        }
        let mut block = vec![0; BLOCK];
        while entry > 0 {
            let whole = self.files.entry(entry - 1)?;
            let (stream, at) = (whole.stream, whole.stream.index());
            let (start, mut end) = (self.files.ends_before(entry - 1)?[at], whole.ends[at]);
            while self.wants(stream) && end > start {
                let length = (end - start).min(BLOCK as u64);
                let bytes = &mut block[..length as usize];
                self.files.read_now(stream, end - length, bytes)?;
                for (n, byte) in bytes.iter().enumerate().rev() {
                    // The newline at the very end closes the last line, it begins none.
                    if *byte == b'\n' && !std::mem::take(&mut last_byte) {
                        missing -= 1;
                    }
                    last_byte = false;
                    if missing == 0 {
                        return Ok((entry - 1, Some((stream, end - length + n as u64 + 1))));
                    }
                }
                end -= length;
            }
            entry -= 1;
        }
        Ok((0, None))
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_offsets(offsets: [u64; 2], known: Progress) -> Result<(), OutputError> {
    for (name, offset, length) in
        [("stdout", offsets[0], known.stdout), ("stderr", offsets[1], known.stderr)]
    {
        if offset > length {
            return Err(OutputError::PastTheEnd { name, offset, length });
        }
    }
    Ok(())
}
