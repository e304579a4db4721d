//! The oracle: a workload with self-checking output.
//!
//! `oracle lines COUNT [PAUSE_MS]` writes lines 0 to COUNT-1 to both streams, each numbered and with
//! a checksum; `oracle until FILE PAUSE_MS` does the same until the file is there, and writes how
//! many into its mark; `oracle random BYTES SEED` writes a known sequence of random bytes to
//! standard output.
//! Variables: with `ORACLE_MARK=DIR` it makes `DIR/$JOB_ID` first and exits 99 if that exists, which
//! shows a second run; `ORACLE_EXIT` is its exit status.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256};

/// A line of the oracle: `o 0000000042 padding checksum`, `o` or `e` by its stream.
pub fn line(stream: char, number: u64) -> String {
    let text = format!("{stream} {number:010} {:.<32} ", number % 97);
    let sum = checksum(text.as_bytes());
    format!("{text}{sum:016x}\n")
}

/// FNV-1a, 64 bits: enough to tell a line from a damaged one.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Checks that `bytes` are the oracle's lines from 0 on, each once, in order and undamaged, and
/// answers how many.
///
/// # Errors
/// Which line is not as it must be.
pub fn verify(stream: char, bytes: &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for found in bytes.split_inclusive(|byte| *byte == b'\n') {
        let expected = line(stream, number);
        if found != expected.as_bytes() {
            let found = String::from_utf8_lossy(found);
            return Err(format!("line {number} of {stream} is {found:?}, not {expected:?}"));
        }
        number += 1;
    }
    Ok(number)
}

/// Asserts that both streams are whole: `count` lines each.
///
/// # Panics
/// When they are not, saying where.
#[track_caller]
pub fn assert_whole(stdout: &[u8], stderr: &[u8], count: u64) {
    assert_eq!(verify('o', stdout), Ok(count));
    assert_eq!(verify('e', stderr), Ok(count));
}

/// An endless, known sequence of random bytes (splitmix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Read for Random {
    /// Whole words, so that the sequence does not depend on how it is read: give multiples of 8.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        for word in to.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
        Ok(to.len())
    }
}

/// SHA-256 of what comes.
///
/// # Panics
/// On an error of the reader.
pub fn sha256(mut from: impl Read) -> Vec<u8> {
    let mut hash = Sha256::default();
    let mut piece = vec![0; 256 << 10];
    loop {
        match from.read(&mut piece).expect("it can be read") {
            0 => return hash.finish(),
            count => hash.update(&piece[..count]),
        }
    }
}

/// SHA-256 of `oracle random BYTES SEED`; a multiple of 8 bytes.
pub fn random_sha256(bytes: u64, seed: u64) -> Vec<u8> {
    sha256(Random::new(seed).take(bytes))
}

/// SHA-256, piece by piece.
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Self {
        Sha256(Context::new(&SHA256))
    }
}

impl Sha256 {
    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        numbers.into_iter().map(|n| line('o', n)).collect::<String>().into_bytes()
    }

    #[test]
    fn lines_that_are_whole_are_counted() {
        assert_eq!(verify('o', &lines(0..50)), Ok(50));
        assert_eq!(verify('o', b""), Ok(0));
    }

    #[test]
    fn a_missing_doubled_swapped_cut_or_damaged_line_is_found() {
        for numbers in [vec![0, 2], vec![0, 0, 1], vec![1, 0], vec![1]] {
            assert!(verify('o', &lines(numbers.clone())).is_err(), "{numbers:?}");
        }
        let mut bytes = lines(0..3);
        assert!(verify('o', &bytes[..bytes.len() - 1]).is_err());
        assert!(verify('e', &bytes).is_err());
        bytes[70] ^= 1;
        assert!(verify('o', &bytes).is_err());
    }

    #[test]
    fn the_random_sequence_is_the_same_however_it_is_read() {
        let mut whole = vec![0; 4096];
        Random::new(7).read_exact(&mut whole).unwrap();
        assert_eq!(random_sha256(4096, 7), sha256(whole.as_slice()));
        assert_ne!(random_sha256(4096, 8), sha256(whole.as_slice()));
    }
}
