//! The encoding of messages and of the launch: bincode 2 (`config::standard`), confined to this file;
//! and how it may change while shims and brokers of several releases run together.
//!
//! - The magic of a frame is the major version: behind another one nothing is read.
//! - [`VERSION`] rises with each release that says anything new. Both sides name theirs in every
//!   frame, and neither refuses a newer one.
//! - A message grows at its end only. An older reader ignores the bytes of a field that it does not
//!   know; a newer one reads zeros for a missing field, so that the zero of a new field (0, `None`,
//!   empty, false) means "not sent". Types inside a message, enums included, do not change.
//! - A message of an unknown kind is skipped. A sender that needs an answer checks the peer's version
//!   first.
//! - The launch has no answer: a shim that ignored half of it would run a job without the limits asked
//!   for. There both versions must be the same.
//!
//! The feature `next-version` makes programs of the release after this one, which say more, for the
//! tests of upgrades and downgrades.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

/// The version that this build speaks.
pub const VERSION: u16 = if cfg!(feature = "next-version") { 2 } else { 1 };
/// The oldest that it understands.
pub const OLDEST: u16 = 1;

/// Bytes that do not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError(pub String);

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "garbled message: {}", self.0)
    }
}

impl std::error::Error for FrameError {}

/// What decoding gives.
pub type Decoded<T> = Result<T, FrameError>;

/// What the next version adds to every message; in this one nothing, in no bytes.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Added {
    #[cfg(feature = "next-version")]
    extension: Option<[u64; 3]>,
}

/// As this version tells it.
const ADDED: Added = Added {
    #[cfg(feature = "next-version")]
    extension: Some([7, 8, 9]),
};

/// Longer than all that later versions have added to a message, as zeros.
const NOT_TOLD: [u8; 256] = [0; 256];

/// What the values of a message may count for. A value counts for eight times the bytes that it has at most, as a number
/// does; a text counts for the length that it claims, before anything is allocated for it. Frames have 64 KiB.
const MOST_OF_MESSAGE: usize = 8 * (80 << 10);
/// The same for a launch, whose arguments and environment have 1 MiB.
const MOST_OF_LAUNCH: usize = 8 * (4 << 20);

/// A value as bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Vectors grow as needed and every type here is serializable: this cannot fail.
    bincode::serde::encode_to_vec((value, ADDED), bincode::config::standard()).unwrap_or_default()
}

/// Back from what [`encode`] of this or a later version has made.
///
/// # Errors
/// Bytes that are not of this type, or too few.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Decoded<T> {
    decode_within::<T, MOST_OF_MESSAGE>(bytes)
}

/// The same for what a launch has.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_launch<T: DeserializeOwned>(bytes: &[u8]) -> Decoded<T> {
    decode_within::<T, MOST_OF_LAUNCH>(bytes)
}

fn decode_within<'a, T: Deserialize<'a>, const MOST: usize>(bytes: &'a [u8]) -> Decoded<T> {
    // Without a limit a claimed length is allocated as it is: a message of 13 bytes would end this process.
    let config = bincode::config::standard().with_limit::<MOST>();
    let ((value, added), _) =
        bincode::serde::borrow_decode_from_slice::<(T, Added), _>(bytes, config)
            .map_err(|e| FrameError(e.to_string()))?;
    if added != ADDED && added != Added::default() {
        return Err(FrameError(format!("{added:?} at its end")));
    }
    Ok(value)
}

/// Writes a `Vec<u8>` in one piece, for `serialize_with`: on the wire as a sequence of bytes is, without a call for each.
#[allow(clippy::ptr_arg, reason = "serde gives the field as it is")]
pub(crate) fn bytes<S: Serializer>(bytes: &Vec<u8>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// The payload of an older peer with the fields that it does not know.
pub(crate) fn not_told(payload: &[u8]) -> Vec<u8> {
    [payload, &NOT_TOLD].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_a_newer_peer_has_added_are_left_alone() {
        let mut bytes = encode(&(7u32, "x"));
        bytes.extend([1, 2, 3]);
        assert_eq!(decode(&bytes), Ok((7u32, "x".to_owned())));
    }

    #[test]
    fn a_text_that_claims_more_than_there_is_allocates_nothing() {
        for claimed in [u64::MAX, 1 << 50, 1 << 21] {
            let bytes = [&[253][..], &claimed.to_le_bytes(), b"x"].concat();
            assert!(decode::<String>(&bytes).is_err(), "{claimed} bytes");
        }
    }

    #[test]
    fn the_longest_launch_and_the_longest_frame_are_decoded() {
        let words = vec![Vec::<u8>::new(); 1 << 20];
        assert_eq!(decode_launch(&encode(&words)), Ok(words), "words without a byte");
        let text = "x".repeat(60 << 10);
        assert_eq!(decode(&encode(&text)), Ok(text));
        let numbers = vec![1u64; 64 << 10]; // one byte each
        assert_eq!(decode(&encode(&numbers)), Ok(numbers));
    }

    #[test]
    fn fields_that_an_older_peer_does_not_know_are_zero() {
        let old = not_told(&[7]);
        assert_eq!(decode(&old), Ok((7u32, None::<u64>, String::new(), false)));
        assert!(decode::<(u32, Option<u64>)>(&[7]).is_err(), "as garbled as before");
    }
}
