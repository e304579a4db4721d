//! The fuzz targets of the protocol: functions that must have an answer for any bytes from the other side or from a disk.
//! In no program: only tests and `cargo xtask fuzz` have them.

use std::time::Duration;

use crate::frame::{self, MAX_PAYLOAD, Reader};
use crate::index::{ENTRY, Entry};
use crate::launch::Launch;
use crate::record::{self, ExitFile, FILE_LENGTH, Outcome, RECORD};
use crate::search;
use crate::wire::{Exited, FromShim, Message, ToShim};

/// A stream of frames, its first byte the size of the pieces in which it comes.
pub fn frame(data: &[u8]) {
    let Some((size, bytes)) = data.split_first() else { return };
    frames_of::<ToShim>(bytes, usize::from(*size).max(1));
    frames_of::<FromShim>(bytes, usize::from(*size).max(1));
}

/// Pieces change nothing, and what is understood is understood again.
fn frames_of<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8], size: usize) {
    let whole = read::<M>(bytes, bytes.len().max(1));
    let cut = read::<M>(bytes, size);
    assert_eq!(cut, whole, "in pieces of {size}");
    let mut again = Vec::new();
    whole.0.iter().for_each(|message| frame::write(message, &mut again));
    assert_eq!(read::<M>(&again, again.len().max(1)), (whole.0, true));
}

/// All messages, and whether the bytes ended well.
fn read<M: Message>(bytes: &[u8], size: usize) -> (Vec<M>, bool) {
    let (mut reader, mut messages) = (Reader::<M>::default(), Vec::new());
    for piece in bytes.chunks(size) {
        reader.push(piece);
        loop {
            match reader.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
    }
    (messages, true)
}

/// One payload, behind a byte that is its kind.
pub fn wire(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else { return };
    payload_of::<ToShim>((*kind).into(), payload);
    payload_of::<FromShim>((*kind).into(), payload);
}

fn payload_of<M: Message + PartialEq + std::fmt::Debug>(kind: u16, payload: &[u8]) {
    let Ok(Some(message)) = M::from_parts(kind, payload) else { return };
    let again = message.payload();
    assert!(again.len() <= payload.len(), "the encoder's own form is the shortest");
    assert!(payload.len() > MAX_PAYLOAD || again.len() <= MAX_PAYLOAD);
    assert_eq!(M::from_parts(message.kind(), &again), Ok(Some(message)));
}

/// The launch that a shim inherits, and where its program is searched.
pub fn launch(data: &[u8]) {
    let Ok(launch) = Launch::from_bytes(data) else { return };
    assert_eq!(Launch::from_bytes(&launch.to_bytes()).as_ref(), Ok(&launch));
    let program = launch.argv.first().map_or(&b""[..], Vec::as_slice);
    for path in search::candidates(program, &launch.env) {
        assert!(path.ends_with(program) && path.contains(&b'/'));
    }
}

/// The file `exit`: what is read of any bytes is what is read of the records made from that. A record without its
/// checksum says nothing; with the checksum put right, its fields are as they are.
pub fn exit(data: &[u8]) {
    let mut boot = [0; 16];
    data.iter().skip(8).zip(&mut boot).for_each(|(from, to)| *to = *from);
    read_again(data, &boot);
    let mut sealed = data[..data.len().min(FILE_LENGTH)].to_vec();
    for record in sealed.chunks_exact_mut(RECORD) {
        let crc = crc32fast::hash(&record[..RECORD - 4]);
        record[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
        if let [_, .., _] = record {
            record[8..24].copy_from_slice(&boot);
        }
        let crc = crc32fast::hash(&record[..RECORD - 4]);
        record[RECORD - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    let whole = read_again(&sealed, &boot);
    // No other record by a single byte.
    for at in (0..sealed.len()).step_by(37) {
        sealed[at] ^= 1 << (at % 8);
        let torn = ExitFile::from_bytes(&sealed, &boot);
        assert!(torn.outcome.is_none() || torn.outcome == whole.outcome, "byte {at}");
        assert!(torn.ended.is_none() || torn.ended == whole.ended, "byte {at}");
        sealed[at] ^= 1 << (at % 8);
    }
}

fn read_again(data: &[u8], boot: &[u8; 16]) -> ExitFile {
    let file = ExitFile::from_bytes(data, boot);
    let mut again = vec![0; FILE_LENGTH];
    if let Some(outcome) = &file.outcome {
        let ran = file.ran.unwrap_or(Duration::ZERO);
        again[..RECORD].copy_from_slice(&record::outcome_record(outcome, ran, boot));
    }
    if let Some(ended) = &file.ended {
        again[RECORD..].copy_from_slice(&record::ended_record(ended, boot));
    }
    let second = ExitFile::from_bytes(&again, boot);
    assert_eq!(second.ended, file.ended);
    match (&second.outcome, &file.outcome) {
        // A name that is not UTF-8 is longer in replacement characters, and cut.
        (Some(Outcome::Exited(second)), Some(Outcome::Exited(first)))
            if first.by.contains('\u{fffd}') =>
        {
            assert_eq!(Exited { by: first.by.clone(), ..second.clone() }, *first);
        }
        (second, first) => assert_eq!(second, first),
    }
    assert!(file.outcome.is_none() || second.ran == file.ran);
    file
}

/// The entries of an index.
pub fn index(data: &[u8]) {
    for bytes in data.as_chunks::<ENTRY>().0 {
        let Some(entry) = Entry::from_bytes(bytes) else { continue };
        assert_eq!(&entry.to_bytes(), bytes);
        let mut torn = *bytes;
        for bit in 0..8 * ENTRY {
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::from_bytes(&torn), None, "bit {bit}");
            torn[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! { frame wire launch exit index }
}

#[cfg(test)]
mod seeds;
