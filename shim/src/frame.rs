//! Frames on a stream socket: a fixed header, checked before anything is allocated, and a payload.

use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use crate::codec::{FrameError, OLDEST, VERSION, not_told};
use crate::wire::Message;

/// Of frames of this major version, see [`crate::codec`].
const MAGIC: [u8; 4] = *b"JOB1";
/// Header: magic, version u16, kind u16, payload length u32; all little endian.
const HEADER: usize = 12;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Appends `message` as one frame.
pub fn write<M: Message>(message: &M, out: &mut Vec<u8>) {
    write_frame(message.kind(), &message.payload(), out);
    #[cfg(feature = "next-version")]
    write_frame(EXTENSION, b"of which this version does not know", out);
}

/// A kind that comes with the next version.
#[cfg(feature = "next-version")]
const EXTENSION: u16 = 999;

fn write_frame(kind: u16, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
}

/// Takes bytes as they come and gives whole messages of one direction.
#[derive(Debug)]
pub struct Reader<M> {
    bytes: Vec<u8>,
    /// Of `bytes`, what has come and was not taken yet.
    unread: Range<usize>,
    /// How much is read at once: more while there is more.
    room: usize,
    /// For the bytes of the next message, see [`Message::from_parts_with`].
    spare: Vec<u8>,
    version: u16,
    direction: PhantomData<M>,
}

/// What is read at once, at first and at most: most connections carry few and short messages.
const ROOM: [usize; 2] = [4 << 10, 256 << 10];

impl<M> Default for Reader<M> {
    fn default() -> Self {
        Reader {
            bytes: Vec::new(),
            unread: 0..0,
            room: ROOM[0],
            spare: Vec::new(),
            version: 0,
            direction: PhantomData,
        }
    }
}

impl<M: Message> Reader<M> {
    /// More bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len()).copy_from_slice(bytes);
        self.unread.end += bytes.len();
    }

    /// Reads once, straight to where the messages are decoded; 0 is the end of the stream.
    ///
    /// # Errors
    /// As `read`.
    pub fn fill(&mut self, mut from: impl io::Read) -> io::Result<usize> {
        let room = self.room;
        let read = from.read(self.make_room(room))?;
        self.unread.end += read;
        if read == room {
            self.room = (room * 4).min(ROOM[1]);
        }
        Ok(read)
    }

    fn make_room(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.len() - self.unread.end < length {
            self.bytes.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            let whole = self.unread.end + length;
            self.bytes.resize(whole.max(self.bytes.len()), 0);
        }
        &mut self.bytes[self.unread.end..][..length]
    }

    /// Takes the bytes of a message back, for the next one.
    pub fn reuse(&mut self, bytes: Vec<u8>) {
        self.spare = bytes;
    }

    /// Gives back the memory of long messages: input is rare, and its buffer is not to stay resident.
    pub fn release(&mut self) {
        if self.unread.is_empty() {
            (self.bytes, self.spare) = (Vec::new(), Vec::new());
            (self.unread, self.room) = (0..0, ROOM[0]);
        }
    }

    /// The version that the peer speaks; 0 before its first message.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// Bytes that are no frame, or a frame that is no message: the connection is of no use any
    /// more.
    pub fn next_message(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            let unread = &self.bytes[self.unread.clone()];
            let Some((head, rest)) = unread.split_first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let head = Head::from_bytes(*head)?;
            let Some(payload) = rest.get(..head.length) else { return Ok(None) };
            let message = head.message(payload, &mut self.spare)?;
            self.version = head.version;
            self.unread.start += HEADER + head.length;
            if self.unread.is_empty() {
                self.unread = 0..0;
            }
            if message.is_some() {
                return Ok(message);
            }
        }
    }
}

/// What a frame says of itself.
struct Head {
    version: u16,
    kind: u16,
    length: usize,
}

impl Head {
    fn from_bytes(bytes: [u8; HEADER]) -> Result<Head, FrameError> {
        let [magic @ .., v0, v1, k0, k1, l0, l1, l2, l3] = bytes;
        let (version, kind) = (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([k0, k1]));
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if magic != MAGIC {
            let (is, wanted) = (magic.escape_ascii(), MAGIC.escape_ascii());
            return Err(FrameError(format!("the peer speaks {is}, and not {wanted}")));
        }
        if version < OLDEST {
            return Err(FrameError(format!(
                "the peer speaks version {version}; the oldest that is understood is {OLDEST}"
            )));
        }
        if length > MAX_PAYLOAD {
            return Err(FrameError(format!(
                "frame of {length} bytes; at most {MAX_PAYLOAD} are sent"
            )));
        }
        Ok(Head { version, kind, length })
    }

    /// `None` for one that only a newer version knows.
    fn message<M: Message>(
        &self,
        payload: &[u8],
        spare: &mut Vec<u8>,
    ) -> Result<Option<M>, FrameError> {
        let message = if self.version < VERSION {
            M::from_parts_with(self.kind, &not_told(payload), spare)?
        } else {
            M::from_parts_with(self.kind, payload, spare)?
        };
        if message.is_none() && self.version <= VERSION && !is_extension(self.kind) {
            return Err(FrameError(format!("unknown kind {}", self.kind)));
        }
        Ok(message)
    }
}

/// Known, and nothing to us.
#[cfg(feature = "next-version")]
fn is_extension(kind: u16) -> bool {
    kind == EXTENSION
}

#[cfg(not(feature = "next-version"))]
fn is_extension(_: u16) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FromShim, INPUT_PIECE, Input, InputAck, Started, ToShim};

    #[test]
    fn a_message_arrives_however_its_bytes_are_cut() {
        let mut bytes = Vec::new();
        let message = FromShim::Started(Started { pid: 7, time_ns: 9 });
        write(&message, &mut bytes);
        write(&message, &mut bytes);
        let mut reader = Reader::<FromShim>::default();
        let mut seen = 0;
        for byte in bytes {
            reader.push(&[byte]);
            while let Some(got) = reader.next_message().unwrap() {
                assert_eq!(got, message);
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn long_messages_are_read_in_few_pieces_into_memory_that_is_there_already() {
        let message = |n| {
            let data = vec![n; INPUT_PIECE];
            ToShim::Input(Input { offset: 0, data, end: false })
        };
        let mut bytes = Vec::new();
        (0..30).for_each(|n| write(&message(n), &mut bytes));
        let (mut left, mut reader) = (&bytes[..], Reader::default());
        let (mut reads, mut seen, mut places) = (0, 0, Vec::new());
        while reader.fill(&mut left).unwrap() > 0 {
            reads += 1;
            while let Some(got) = reader.next_message().unwrap() {
                assert_eq!(got, message(seen));
                seen += 1;
                let ToShim::Input(Input { data, .. }) = got else { unreachable!() };
                places.push(data.as_ptr());
                reader.reuse(data);
            }
        }
        places.dedup();
        assert_eq!((seen, places.len()), (30, 1));
        assert!(reads < 15, "{reads} reads");
        reader.release();
        assert_eq!((reader.bytes.capacity(), reader.spare.capacity()), (0, 0));
    }

    #[test]
    fn what_has_begun_to_come_is_not_given_back() {
        let (message, mut bytes) = (ToShim::Go, Vec::new());
        write(&message, &mut bytes);
        let (mut first, mut second) = bytes.split_at(5);
        let mut reader = Reader::default();
        reader.fill(&mut first).unwrap();
        reader.release();
        assert_eq!(reader.next_message(), Ok(None));
        reader.fill(&mut second).unwrap();
        assert_eq!(reader.next_message(), Ok(Some(message)));
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused_before_its_bytes_come() {
        let mut bytes = Vec::new();
        write(&ToShim::Go, &mut bytes);
        bytes[8..12].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_le_bytes());
        let mut reader = Reader::<ToShim>::default();
        reader.push(&bytes);
        assert!(reader.next_message().is_err());
    }

    fn read(version: u16, kind: u16, payload: &[u8]) -> Result<Option<FromShim>, FrameError> {
        let mut bytes = Vec::new();
        write_frame(kind, payload, &mut bytes);
        bytes[4..6].copy_from_slice(&version.to_le_bytes());
        let mut reader = Reader::default();
        reader.push(&bytes);
        reader.next_message()
    }

    #[test]
    fn what_only_a_newer_version_says_is_passed_over_and_from_others_it_is_garbled() {
        assert_eq!(read(VERSION + 1, 180, b"?"), Ok(None));
        assert!(read(VERSION, 180, b"?").is_err());
    }

    #[test]
    fn a_version_before_the_oldest_is_refused_and_so_is_another_major_one() {
        let ack = FromShim::InputAck(InputAck { accepted: 9, closed: true });
        assert_eq!(read(VERSION, ack.kind(), &ack.payload()), Ok(Some(ack.clone())));
        assert!(read(OLDEST - 1, ack.kind(), &ack.payload()).is_err());
        let mut reader = Reader::<FromShim>::default();
        reader.push(b"JOB2............");
        let said = reader.next_message().unwrap_err().0;
        assert_eq!(said, "the peer speaks JOB2, and not JOB1");
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        let mut reader = Reader::<ToShim>::default();
        reader.push(b"GET / HTTP/1.1\r\n");
        assert!(reader.next_message().is_err());
    }
}
