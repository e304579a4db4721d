//! The workload's standard input, by offset: a broker that reconnects loses and repeats no byte.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};

use job_shim::wire::{INPUT_WINDOW, Input as Piece, InputAck};

use super::connection::Closed;
use super::poll::{Interest, Slot};

/// The pipe, and the bytes that wait for it.
pub(crate) struct Input {
    pipe: Option<File>,
    waiting: VecDeque<u8>,
    /// Close the pipe after the waiting bytes.
    ends: bool,
    accepted: u64,
}

impl Input {
    /// `None` is a job without input, which is a closed one.
    pub(crate) fn new(pipe: Option<File>) -> Input {
        Input { pipe, waiting: VecDeque::new(), ends: false, accepted: 0 }
    }

    /// The progress so far.
    pub(crate) fn ack(&self) -> InputAck {
        InputAck { accepted: self.accepted, closed: self.pipe.is_none() }
    }

    /// Waits for room in the pipe while there is something for it.
    pub(crate) fn register(&self, interest: &mut Interest) {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| !self.waiting.is_empty()) {
            interest.add(Slot::Stdin, pipe, libc::POLLOUT);
        }
    }

    /// Takes a piece. Bytes that were accepted before are skipped.
    ///
    /// # Errors
    /// A piece after a gap, or more than [`INPUT_WINDOW`] ahead of the acknowledged: this broker
    /// does not know what it does.
    pub(crate) fn take(&mut self, piece: &Piece) -> Result<(), Closed> {
        if self.pipe.is_none() {
            return Ok(());
        }
        let known = self.accepted + self.waiting.len() as u64;
        let skip = known.checked_sub(piece.offset).ok_or(Closed)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let fresh = piece.data.get(skip..).unwrap_or_default();
        if (self.waiting.len() + fresh.len()) as u64 > INPUT_WINDOW
            || self.ends && !fresh.is_empty()
        {
            return Err(Closed);
        }
        // An end that lies before what is known would be another input's.
        self.ends |= piece.end && skip <= piece.data.len();
        // Past the memory of what waits, where the pipe takes it.
        let written = if self.waiting.is_empty() { self.write(fresh) } else { 0 };
        self.waiting.extend(&fresh[written..]);
        self.pass_on();
        Ok(())
    }

    /// Writes what the pipe takes of what waits, and closes it behind the end.
    pub(crate) fn pass_on(&mut self) {
        while !self.waiting.is_empty() {
            let mut waiting = std::mem::take(&mut self.waiting);
            let written = self.write(waiting.as_slices().0);
            waiting.drain(..written);
            self.waiting = waiting;
            if self.pipe.is_none() {
                self.waiting.clear();
            }
            if written == 0 {
                return;
            }
        }
        if self.ends {
            self.pipe = None;
        }
    }

    /// Gives back the memory of what has waited: most jobs get no input.
    pub(crate) fn release(&mut self) {
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    /// How many of these bytes the pipe takes. Closes it if nobody reads any more.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(pipe) = self.pipe.as_mut().filter(|_| written < bytes.len()) {
            match pipe.write(&bytes[written..]) {
                Ok(length) => written += length,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None, // EPIPE
            }
        }
        self.accepted += written as u64;
        written
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    fn pipe() -> (Input, File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (Input::new(Some(write.into())), read.into())
    }

    fn piece(offset: u64, data: &[u8], end: bool) -> Piece {
        Piece { offset, data: data.into(), end }
    }

    fn read(mut pipe: File) -> String {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn doubled_bytes_are_skipped() {
        let (mut input, reader) = pipe();
        input.take(&piece(0, b"abc", false)).unwrap();
        input.take(&piece(0, b"abcd", false)).unwrap();
        input.take(&piece(1, b"bc", false)).unwrap();
        input.take(&piece(4, b"e", true)).unwrap();
        assert_eq!(input.ack(), InputAck { accepted: 5, closed: true });
        assert_eq!(read(reader), "abcde");
    }

    #[test]
    fn a_gap_is_refused() {
        let (mut input, _reader) = pipe();
        assert_eq!(input.take(&piece(1, b"b", false)), Err(Closed));
    }

    #[test]
    fn what_the_pipe_does_not_take_waits_and_the_end_waits_behind_it() {
        let (mut input, reader) = pipe();
        let data = [b'x'; 60_000];
        for n in 0..2 {
            input.take(&piece(n * 60_000, &data, n == 1)).unwrap();
        }
        let before = input.ack();
        assert!(before.accepted < 120_000 && !before.closed, "{before:?}");
        let text = std::thread::spawn(|| read(reader));
        while !input.ack().closed {
            input.pass_on();
        }
        assert_eq!(text.join().unwrap().len(), 120_000);
        assert_eq!(input.ack().accepted, 120_000);
    }

    #[test]
    fn without_a_reader_it_is_closed() {
        let (mut input, reader) = pipe();
        drop(reader);
        input.take(&piece(0, b"a", false)).unwrap();
        assert_eq!(input.ack(), InputAck { accepted: 0, closed: true });
    }

    #[test]
    fn more_than_the_window_is_refused() {
        let (mut input, _reader) = pipe();
        let data = vec![0; INPUT_WINDOW as usize / 4];
        let mut offset = 0;
        let refused = (0..6).find_map(|_| {
            let result = input.take(&piece(offset, &data, false));
            offset += data.len() as u64;
            result.err()
        });
        assert_eq!(refused, Some(Closed));
    }
}
