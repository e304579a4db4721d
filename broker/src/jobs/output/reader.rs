//! [`OutputReader`]: returns a job's output piece by piece. Never blocks its thread: a read beyond the page
//! cache runs on a blocking thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use job_api::deflate::deflated;
use job_shim::index::Stream;
use job_shim::wire::Progress;
use tokio::sync::watch;

use crate::auth::Caller;
use crate::jobs::job::Job;
use crate::jobs::output::locate::{Position, Wanted};
use crate::jobs::output::open_logs::{Claim, Use};
use crate::jobs::output::range::Range;
use crate::jobs::output::readers::{IdentityReaders, Place, Readers};
use crate::jobs::output::tail::{self, Tail};
use crate::model::state::Snapshot;
use crate::quota::Exceeded;
use crate::store::log::{LogFiles, Reading, Window};

/// A piece of one stream's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its stream.
    pub stream: Stream,
    /// The offset of its first byte, in its stream.
    pub offset: u64,
    /// Its bytes.
    pub data: Vec<u8>,
    /// They are compressed.
    pub is_deflated: bool,
    /// When the shim read the first byte, nanoseconds since 1970.
    pub time_ns: u64,
}

/// Why a reader cannot be opened, or has no next piece.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// An offset past the end of a finished job's stream.
    #[error("{name} offset {offset} is past the end, which is {length}")]
    PastTheEnd {
        /// `stdout` or `stderr`.
        name: &'static str,
        /// The requested offset.
        offset: u64,
        /// The stream's length.
        length: u64,
    },
    /// The job was removed while it was read.
    #[error("the job has been removed, with its output")]
    Removed,
    /// The limit of open streams is reached.
    #[error("{0}: close some, or try again later")]
    TooManyStreams(Exceeded),
    /// An error of the disk, or a damaged index.
    #[error("cannot read the job's output: {0}")]
    Io(#[from] io::Error),
}

/// Pieces that a reader returns before it yields to other tasks.
const IN_A_ROW: u32 = 64;

/// Reads a job's output from a position on.
#[derive(Debug)]
pub struct OutputReader {
    job: Arc<Job>,
    wanted: Wanted,
    follow: bool,
    deflate: bool,
    position: Position,
    /// Index entries around the position, while there is output to read.
    window: Window,
    /// Whether a piece was returned since the last request for progress.
    has_given: bool,
    /// Pieces since the last yield.
    in_a_row: u32,
    progress: watch::Receiver<Progress>,
    snapshot: watch::Receiver<Snapshot>,
    claim: Claim,
    place: Place,
}

impl OutputReader {
    /// Opens a reader at the beginning of the range, on the files in `dir`.
    ///
    /// # Errors
    /// [`OutputError`].
    pub(crate) async fn open(
        readers: &Arc<Readers>,
        caller: &Caller,
        job: Arc<Job>,
        dir: PathBuf,
        range: Range,
    ) -> Result<Self, OutputError> {
        let place = readers.admit(caller);
        let place = place.map_err(OutputError::TooManyStreams)?;
        let mut reader = OutputReader {
            progress: job.watch_progress(),
            snapshot: job.watch_snapshot(),
            wanted: Wanted { stream: range.stream, by_entry: range.by_entry },
            follow: range.follow,
            deflate: range.deflate,
            position: Position { entry: 0, offsets: range.offsets },
            window: Window::default(),
            has_given: false,
            in_a_row: 0,
            claim: readers.logs.claim(job.id(), dir),
            place,
            job,
        };
        let is_over = reader.is_over(); // first: a finished job reported its final length before
        let known = *reader.progress.borrow_and_update();
        if is_over {
            check_offsets(range.offsets, known)?;
        }
        reader.seek(range, known.entries).await?;
        Ok(reader)
    }

    /// The next piece; `None` at the end of the range, where the job's snapshot is the trailer.
    ///
    /// # Errors
    /// [`OutputError::Io`], and [`OutputError::Removed`].
    pub async fn next(&mut self) -> Result<Option<Piece>, OutputError> {
        self.place.release(); // the caller has passed on the last piece
        loop {
            // In this order: a finished job reported its final length before.
            let over = self.is_over();
            let known = *self.progress.borrow_and_update();
            if let Some(piece) = self.piece(known.entries).await? {
                self.has_given = true;
                return Ok(Some(piece));
            }
            if over || !self.follow {
                return Ok(None);
            }
            if std::mem::take(&mut self.has_given) {
                // The piece must reach the client before the reader asks the shim for more: otherwise the shim wakes
                // up and takes a processor from the client that waits for the line. A spawned task waits one turn of
                // the scheduler; yield_now() would complete at its second poll.
                let _ = tokio::spawn(std::future::ready(())).await;
                continue;
            }
            (self.window, self.in_a_row) = (Window::default(), 0); // thousands of readers wait
            self.job.request_progress();
            tokio::select! {
                _ = self.progress.changed() => {}
                _ = self.snapshot.changed() => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        self.snapshot.borrow().state.is_over()
    }

    /// The piece at the position, if there is one.
    async fn piece(&mut self, entries: u64) -> Result<Option<Piece>, OutputError> {
        self.in_a_row += 1;
        if self.in_a_row > IN_A_ROW {
            self.in_a_row = 0;
            tokio::task::yield_now().await;
        }
        let (position, wanted, most) = (self.position, self.wanted, self.place.most());
        let read = move |files: &LogFiles, window: &mut Window, reading| {
            let index = &mut files.index(window, reading);
            let Some(span) = position.piece(wanted, most, index, entries)? else {
                return Ok(None);
            };
            let data = files.read(span.stream, span.start, span.length, reading)?;
            match data.len() < span.length {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(Some((span, data))),
            }
        };
        let Some((span, data)) = self.read(read).await? else { return Ok(None) };
        self.position = span.after;
        self.place.hold(data.len() as u64);
        let (data, is_deflated) = match self.deflate {
            true => self.deflated(data).await?,
            false => (data, false),
        };
        let (stream, offset, time_ns) = (span.stream, span.start, span.time_ns);
        Ok(Some(Piece { stream, offset, data, is_deflated, time_ns }))
    }

    /// The bytes, compressed where that makes them smaller, and whether it does.
    async fn deflated(&self, data: Vec<u8>) -> Result<(Vec<u8>, bool), OutputError> {
        let turn = self.own().compressions.turn().await?;
        let compress = move || Ok(deflated(&data).map_or((data, false), |less| (less, true)));
        Ok(turn.run(compress).await?)
    }

    async fn seek(&mut self, mut range: Range, entries: u64) -> Result<(), OutputError> {
        let lines = range.tail_lines.take();
        if range.offsets != [0, 0] || range.since_ns.is_some() {
            let find = move |files: &LogFiles, window: &mut Window, reading| {
                Position::of(&range, &mut files.index(window, reading), entries)
            };
            self.position = self.read(find).await?;
        }
        let Some(lines) = lines else { return Ok(()) };
        let (entry, place) = self.tail(lines, entries).await?;
        let position = self.position;
        let advance = move |files: &LogFiles, window: &mut Window, reading| {
            position.advanced(&mut files.index(window, reading), entry, place)
        };
        self.position = self.read(advance).await?;
        Ok(())
    }

    /// The place where the last `lines` lines begin; a cancelled call stops after the current slice.
    async fn tail(&mut self, lines: u64, entries: u64) -> Result<tail::Place, OutputError> {
        let mut tail = Tail::new(self.wanted, lines, entries);
        loop {
            let turn = self.own().searches.turn().await?;
            let files = self.files().await?;
            let step = move || Ok((tail.step(&files)?, tail));
            let found;
            (found, tail) = turn.run(step).await?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Does a short read: at once if the bytes are in the page cache, else on a blocking thread.
    async fn read<T: Send + 'static>(
        &mut self,
        read: impl Fn(&LogFiles, &mut Window, Reading) -> io::Result<T> + Send + 'static,
    ) -> Result<T, OutputError> {
        let files = self.files().await?;
        match read(&files, &mut self.window, Reading::Cached) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => drop(files), // other readers need them too
            done => return Ok(done?),
        }
        let turn = self.own().disk.turn().await?;
        let (files, mut window) = (self.files().await?, std::mem::take(&mut self.window));
        let read = move || Ok((read(&files, &mut window, Reading::Blocking)?, window));
        let done;
        (done, self.window) = turn.run(read).await?;
        Ok(done)
    }

    async fn files(&self) -> Result<Use, OutputError> {
        let files = self.claim.files().await?;
        if files.are_missing() && self.job.progress().entries > 0 {
            return Err(OutputError::Removed);
        }
        Ok(files)
    }

    fn own(&self) -> &IdentityReaders {
        self.place.own()
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
