//! Frames on a stream socket: a fixed header, checked before anything is allocated, and a payload.

use std::marker::PhantomData;

use crate::wire::{Garbled, Message, VERSION};

/// "JOB1", little endian.
const MAGIC: u32 = u32::from_le_bytes(*b"JOB1");
/// Header: magic u32, version u16, kind u16, payload length u32; all little endian.
const HEADER: usize = 12;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Appends `message` as one frame.
pub fn write<M: Message>(message: &M, out: &mut Vec<u8>) {
    let payload = message.payload();
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    out.extend(MAGIC.to_le_bytes());
    out.extend(VERSION.to_le_bytes());
    out.extend(message.kind().to_le_bytes());
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(payload);
}

/// Takes bytes as they come and gives whole messages of one direction.
#[derive(Debug)]
pub struct Reader<M> {
    bytes: Vec<u8>,
    direction: PhantomData<M>,
}

impl<M> Default for Reader<M> {
    fn default() -> Self {
        Reader { bytes: Vec::new(), direction: PhantomData }
    }
}

impl<M: Message> Reader<M> {
    /// More bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// Bytes that are no frame, or a frame that is no message: the connection is of no use any
    /// more.
    pub fn next_message(&mut self) -> Result<Option<M>, Garbled> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let magic = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let kind = u16::from_le_bytes([head[6], head[7]]);
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        if magic != MAGIC {
            return Err(Garbled(format!("frame begins with {magic:#x}")));
        }
        if length > MAX_PAYLOAD {
            return Err(Garbled(format!(
                "frame of {length} bytes; at most {MAX_PAYLOAD} are sent"
            )));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = M::from_parts(kind, payload)?;
        self.bytes.drain(..HEADER + length);
        if self.bytes.is_empty() && self.bytes.capacity() > 4096 {
            self.bytes = Vec::new(); // input is rare; its buffer is not to stay resident
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FromShim, Started, ToShim};

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
    fn a_frame_that_claims_too_much_is_refused_before_its_bytes_come() {
        let mut bytes = Vec::new();
        write(&ToShim::Go, &mut bytes);
        bytes[8..12].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_le_bytes());
        let mut reader = Reader::<ToShim>::default();
        reader.push(&bytes);
        assert!(reader.next_message().is_err());
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        let mut reader = Reader::<ToShim>::default();
        reader.push(b"GET / HTTP/1.1\r\n");
        assert!(reader.next_message().is_err());
    }
}
