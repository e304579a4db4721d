//! From the two pipes to the logs and the index.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use job_shim::index::{self, Entry, Stream};
use job_shim::launch::{Launch, OutputPolicy};
use job_shim::wire::{Blocked, Progress};

use super::alarm::wall_clock_ns;
use super::failure::errno;
use super::files::Logs;
use super::poll::{Interest, Ready, Slot};
use super::reserve::Reserve;
use crate::sys;

/// The most that is read at once.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Until the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// An index that exceeds its output by this belongs to a job that writes a few bytes at a time, often.
/// Its pipes are then read less often.
const INDEX_EXCESS: u64 = 1 << 20;
/// Between reads of such a job. Small writes do not fill a pipe of 1 MiB in that time.
const COALESCE: Duration = Duration::from_millis(10);
/// A read of this size is worth its index entry: a page, 128 entries.
const LARGE_READ: usize = 4096;

/// The job wrote more than it may, and the policy is to kill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverLimit;

/// Bytes at the beginning of the buffer that belong into a log and are not all there yet.
struct Piece {
    stream: Stream,
    length: usize,
    written: usize,
}

/// Copies both streams from their pipes to the logs.
pub(crate) struct Output {
    pipes: [Option<File>; 2],
    logs: Logs,
    progress: Progress,
    limit: u64,
    policy: OutputPolicy,
    last_time_ns: u64,
    unwritten: Option<Piece>,
    retry_at: Option<Duration>,
    /// No read before this: small writes are coalesced in the pipe.
    read_at: Option<Duration>,
    /// After the workload has ended: the bytes of each pipe that are still to be read.
    left: Option<[usize; 2]>,
    reserve: Reserve,
    /// The job is over and the disk is full: the rest is dropped.
    given_up: bool,
}

impl Output {
    /// Nothing yet.
    pub(crate) fn new(launch: &Launch, pipes: [File; 2], logs: Logs) -> Output {
        Output {
            pipes: pipes.map(Some),
            logs,
            progress: Progress::default(),
            limit: launch.limits.output.unwrap_or(u64::MAX),
            policy: launch.output_policy,
            last_time_ns: 0,
            unwritten: None,
            retry_at: None,
            read_at: None,
            left: None,
            reserve: Reserve::default(),
            given_up: false,
        }
    }

    /// The progress so far.
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// Replaces the limit. A job that blocks at the old limit goes on.
    ///
    /// # Errors
    /// See [`OverLimit`]: it has written more than that already.
    pub(crate) fn limit(&mut self, limit: Option<u64>) -> Result<(), OverLimit> {
        self.limit = limit.unwrap_or(u64::MAX);
        let kept = self.progress.stdout + self.progress.stderr;
        if self.room() > 0 {
            self.progress.blocked = self.progress.blocked.filter(|b| *b != Blocked::Limit);
        }
        if kept > self.limit { self.over_limit() } else { Ok(()) }
    }

    /// When the disk is to be tried again, or the pipes are to be read again.
    pub(crate) fn next(&self) -> Option<Duration> {
        [self.retry_at, self.read_at].into_iter().flatten().min()
    }

    /// What the limit leaves, in bytes.
    fn room(&self) -> u64 {
        let Progress { stdout, stderr, entries, .. } = self.progress;
        if self.given_up || index::is_full(entries, self.limit) {
            return 0;
        }
        self.limit.saturating_sub(stdout + stderr)
    }

    /// Whether the buffer holds bytes that are not in a log.
    pub(crate) fn needs_buffer(&self) -> bool {
        self.unwritten.is_some()
    }

    /// Waits for the pipes, unless output is blocked.
    pub(crate) fn register(&self, interest: &mut Interest) {
        let is_blocked = self.unwritten.is_some() || self.progress.blocked == Some(Blocked::Limit);
        if is_blocked || self.read_at.is_some() {
            return;
        }
        for (pipe, slot) in self.pipes.iter().zip([Slot::Stdout, Slot::Stderr]) {
            if let Some(pipe) = pipe {
                interest.add(slot, pipe, libc::POLLIN);
            }
        }
    }

    /// Reads each pipe that is ready once. So two busy streams alternate.
    ///
    /// # Errors
    /// See [`OverLimit`].
    pub(crate) fn turn(&mut self, ready: &Ready, buffer: &mut [u8]) -> Result<(), OverLimit> {
        for (stream, slot) in Stream::BOTH.into_iter().zip([Slot::Stdout, Slot::Stderr]) {
            if ready.has(slot) {
                self.read(stream, buffer)?;
            }
        }
        Ok(())
    }

    /// Waits for the pipes again, if it is time.
    pub(crate) fn resume_reads(&mut self, now: Duration) {
        self.read_at = self.read_at.filter(|at| *at > now);
    }

    /// Tries the disk again, if it is time.
    pub(crate) fn due(&mut self, now: Duration, buffer: &[u8]) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.keep(buffer);
        }
    }

    /// The workload is gone: reads what it has left in the pipes, and no more. A process that
    /// was handed a pipe cannot make this endless. `true` once all of it is in the logs; or, of a job
    /// whose time is over, has been dropped, since the disk does not take it.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], time_is_over: bool) -> bool {
        if self.left.is_none() {
            let waiting = |pipe: &File| sys::waiting_bytes(pipe.as_fd()).unwrap_or(0);
            self.left = Some(self.pipes.each_ref().map(|p| p.as_ref().map_or(0, waiting)));
            // Nobody is left whom the other policies could hold or kill.
            self.policy = OutputPolicy::Discard;
            self.progress.blocked = self.progress.blocked.filter(|b| *b != Blocked::Limit);
        }
        self.read_left(buffer);
        if self.unwritten.is_some() && time_is_over {
            self.give_up(buffer);
            self.read_left(buffer);
        }
        self.unwritten.is_none()
    }

    fn read_left(&mut self, buffer: &mut [u8]) {
        while self.unwritten.is_none() && self.left.is_some_and(|left| left != [0, 0]) {
            for stream in Stream::BOTH {
                let _ = self.read(stream, buffer); // never over the limit: the policy is Discard
            }
        }
    }

    /// Drops what the disk does not take, and from now on all that comes. What blocks stays told: it is
    /// why output is missing.
    fn give_up(&mut self, buffer: &[u8]) {
        self.keep(buffer); // it may take it now
        let Some(piece) = self.unwritten.take() else { return };
        let kept = self.keep_beginning(&piece);
        self.progress.dropped = self.progress.dropped.saturating_add((piece.length - kept) as u64);
        self.retry_at = None;
        self.given_up = true;
    }

    /// How much of a piece stays in its log: all that has been written, if the index takes the entry.
    fn keep_beginning(&mut self, piece: &Piece) -> usize {
        let ends = [self.progress.stdout, self.progress.stderr];
        if piece.written > 0 {
            match self.add_entry(piece.stream, piece.written, ends) {
                Ok(entry) => {
                    self.count(&entry);
                    return piece.written;
                }
                // Bytes beyond the index would be output for whoever repairs it.
                Err(_) => {
                    _ = self.logs.streams[piece.stream.index()].set_len(ends[piece.stream.index()])
                }
            }
        }
        0
    }

    /// Makes the files durable.
    ///
    /// # Errors
    /// Those of fdatasync(2).
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.logs.sync(&self.progress)
    }

    /// Closes the pipes: who still writes gets EPIPE.
    pub(crate) fn close(&mut self) {
        self.pipes = [None, None];
    }

    fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Result<(), OverLimit> {
        let slot = stream.index();
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let Some(pipe) = self.pipes[slot].as_mut().filter(|_| self.unwritten.is_none()) else {
            return Ok(());
        };
        let mut most = buffer.len().min(self.left.map_or(usize::MAX, |left| left[slot]));
        if self.policy == OutputPolicy::Block {
            if room == 0 {
                return self.block_at_limit(stream);
            }
            most = most.min(room);
        }
        match pipe.read(&mut buffer[..most]) {
            Ok(0) => self.finish(stream),
            Ok(length) => {
                if let Some(left) = &mut self.left {
                    left[slot] -= length;
                }
                return self.take(stream, length, room, buffer);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock && self.left.is_none() => {}
            Err(_) => self.finish(stream),
        }
        Ok(())
    }

    /// Bytes wait, or the end of the file.
    fn block_at_limit(&mut self, stream: Stream) -> Result<(), OverLimit> {
        let pipe = self.pipes[stream.index()].as_ref();
        match pipe.map(|pipe| sys::waiting_bytes(pipe.as_fd())) {
            Some(Ok(1..)) => self.progress.blocked = Some(Blocked::Limit),
            _ => self.finish(stream),
        }
        Ok(())
    }

    fn finish(&mut self, stream: Stream) {
        if self.left.is_none() {
            self.pipes[stream.index()] = None;
        } else if let Some(left) = &mut self.left {
            left[stream.index()] = 0;
        }
    }

    fn take(
        &mut self,
        stream: Stream,
        length: usize,
        room: usize,
        buffer: &[u8],
    ) -> Result<(), OverLimit> {
        let kept = length.min(room);
        self.progress.dropped = self.progress.dropped.saturating_add((length - kept) as u64);
        if kept > 0 {
            self.unwritten = Some(Piece { stream, length: kept, written: 0 });
            self.keep(buffer);
        }
        if kept < length { self.over_limit() } else { Ok(()) }
    }

    fn over_limit(&mut self) -> Result<(), OverLimit> {
        if self.policy == OutputPolicy::Kill {
            self.policy = OutputPolicy::Discard; // it is being killed: once is enough
            return Err(OverLimit);
        }
        Ok(())
    }

    /// Log first, then index: bytes beyond the index are legal, an entry without bytes is not.
    fn keep(&mut self, buffer: &[u8]) {
        let Some(mut piece) = self.unwritten.take() else { return };
        match self.write(&mut piece, buffer) {
            Ok(entry) => {
                self.count(&entry);
                self.progress.blocked = None;
                self.retry_at = None;
                if piece.length < LARGE_READ && self.index_exceeds_output() {
                    self.read_at = Some(super::alarm::since_boot() + COALESCE);
                }
            }
            Err(error) => {
                self.progress.blocked = Some(Blocked::Disk(errno(&error) as i32));
                self.retry_at = Some(super::alarm::since_boot() + RETRY);
                self.unwritten = Some(piece);
            }
        }
    }

    fn count(&mut self, entry: &Entry) {
        [self.progress.stdout, self.progress.stderr] = entry.ends;
        self.progress.entries += 1;
        self.last_time_ns = entry.time_ns;
    }

    fn index_exceeds_output(&self) -> bool {
        let Progress { stdout, stderr, entries, .. } = self.progress;
        index::length(entries) > stdout + stderr + INDEX_EXCESS
    }

    fn write(&mut self, piece: &mut Piece, buffer: &[u8]) -> std::io::Result<Entry> {
        let ends = [self.progress.stdout, self.progress.stderr];
        let end = ends[piece.stream.index()];
        let log = &self.logs.streams[piece.stream.index()];
        let kept = ends[0].saturating_add(ends[1]);
        self.reserve.admit(log, piece.length - piece.written, kept)?;
        while piece.written < piece.length {
            let rest = &buffer[piece.written..piece.length];
            match log.write_at(rest, end + piece.written as u64) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => piece.written += length,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.add_entry(piece.stream, piece.length, ends)
    }

    /// `length` bytes more of a stream are in its log, which ended where `ends` says.
    fn add_entry(
        &self,
        stream: Stream,
        length: usize,
        mut ends: [u64; 2],
    ) -> std::io::Result<Entry> {
        ends[stream.index()] += length as u64;
        let time_ns = wall_clock_ns().max(self.last_time_ns);
        let entry = Entry { time_ns, ends, stream };
        self.logs.index.write_all_at(&entry.to_bytes(), index::length(self.progress.entries))?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use job_shim::index::ENTRY;
    use job_shim::wire::Limits;

    /// Output that has come so far, with the pipe of its standard output.
    struct Fixture {
        output: Output,
        writer: std::io::PipeWriter,
        dir: tempfile::TempDir,
        buffer: Vec<u8>,
    }

    impl Fixture {
        fn new(policy: OutputPolicy, limit: u64, stdout: u64, entries: u64) -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let logs = Logs::create(File::open(dir.path()).unwrap()).ok().unwrap();
            let (reader, writer) = std::io::pipe().unwrap();
            let pipes = [reader, std::io::pipe().unwrap().0];
            let pipes = pipes.map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe)));
            let limits = Limits { output: Some(limit), ..Limits::default() };
            let mut output = Output::new(&launch(policy, limits), pipes, logs);
            output.progress = Progress { stdout, entries, ..Progress::default() };
            Fixture { output, writer, dir, buffer: vec![0; BUFFER] }
        }

        /// The job writes so much, and it is read.
        fn write(&mut self, length: usize) -> Result<(), OverLimit> {
            self.writer.write_all(&vec![b'x'; length]).unwrap();
            self.output.read(Stream::Stdout, &mut self.buffer)
        }

        /// Bytes of stdout, bytes of the index, bytes that are not kept.
        fn kept(&self) -> (u64, u64, u64) {
            let index = self.dir.path().join("output.idx").metadata().unwrap().len();
            (self.output.progress.stdout, index, self.output.progress.dropped)
        }
    }

    fn launch(output_policy: OutputPolicy, limits: Limits) -> Launch {
        Launch {
            job: [1; 16],
            nonce: [2; 16],
            boot_id: [3; 16],
            argv: vec![],
            env: vec![],
            working_directory: vec![],
            uid: 1,
            gid: 1,
            groups: vec![],
            shim_uid: 2,
            shim_gid: 2,
            stdin: false,
            limits,
            rlimits: vec![],
            stop_signal: 15,
            stop_timeout_ms: 0,
            leftover_grace_ms: 0,
            output_policy,
            program: None,
            isolation: None,
            root: None,
        }
    }

    const MIB: u64 = 1 << 20;
    /// Entries of a MiB of index.
    const ENTRIES: u64 = MIB / ENTRY as u64;

    #[test]
    fn a_full_index_is_the_output_limit_whatever_the_policy() {
        let fixture = |policy| Fixture::new(policy, MIB, 5, 16 * ENTRIES - 1);
        let mut discards = fixture(OutputPolicy::Discard);
        assert_eq!((discards.write(1), discards.kept()), (Ok(()), (6, 16 * MIB, 0)));
        assert_eq!((discards.write(3), discards.kept()), (Ok(()), (6, 16 * MIB, 3)));
        // Another limit has room for another entry, in which as much is kept as that allows.
        assert_eq!(discards.output.limit(Some(20 * MIB)), Ok(()));
        assert_eq!((discards.write(2), discards.kept()), (Ok(()), (8, 16 * MIB + 32, 3)));

        let mut kills = fixture(OutputPolicy::Kill);
        assert_eq!((kills.write(1), kills.write(1)), (Ok(()), Err(OverLimit)));

        let mut blocks = fixture(OutputPolicy::Block);
        assert_eq!((blocks.write(1), blocks.write(1)), (Ok(()), Ok(())));
        assert_eq!(blocks.output.progress.blocked, Some(Blocked::Limit));
        assert_eq!(blocks.kept(), (6, 16 * MIB, 0), "what it blocks with is still in the pipe");
        assert_eq!(blocks.output.limit(Some(20 * MIB)), Ok(()));
        assert_eq!(blocks.output.progress.blocked, None);
    }

    #[test]
    fn small_writes_come_together_once_the_index_outweighs_the_output() {
        let mut fixture = Fixture::new(OutputPolicy::Discard, u64::MAX, 5000, ENTRIES);
        fixture.write(31).unwrap();
        assert_eq!(
            fixture.output.next(),
            None,
            "its index does not outweigh its output by that much"
        );
        let mut fixture = Fixture::new(OutputPolicy::Discard, u64::MAX, 0, ENTRIES);
        fixture.write(31).unwrap();
        let at = fixture.output.next().expect("it is read later");
        fixture.output.resume_reads(at - COALESCE / 2);
        assert_eq!(fixture.output.next(), Some(at));
        fixture.output.resume_reads(at);
        assert_eq!(fixture.output.next(), None);
        fixture.write(LARGE_READ).unwrap();
        assert_eq!(fixture.output.next(), None, "who writes much at a time need not wait");
    }
}
