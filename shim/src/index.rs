//! `output.idx`: the order in which the shim read the two pipes, an entry for each read.
//!
//! An entry holds the lengths of both logs *after* it, so that any place in the merged order is
//! found by binary search, and a reader needs two neighbours to know a piece: its stream, its
//! offset (the previous length of that stream) and its length (the difference).

/// Bytes of one entry: time u64, stdout end u64, stderr end u64, stream u32, crc32 u32, all
/// little endian; the crc is over the 28 bytes before it.
pub const ENTRY: usize = 32;

/// Bytes that every index may have: half a million reads.
const MIN_SIZE: u64 = 16 << 20;

/// Bytes of an index of so many entries.
pub fn length(entries: u64) -> u64 {
    entries.saturating_mul(ENTRY as u64)
}

/// Whether there is no room for one more entry under this limit of output, which has been reached then:
/// an index may have as many bytes as the output itself, and 16 MiB at least.
pub fn is_full(entries: u64, limit: u64) -> bool {
    length(entries.saturating_add(1)) > limit.max(MIN_SIZE)
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, `stdout.log`.
    Stdout,
    /// Standard error, `stderr.log`.
    Stderr,
}

impl Stream {
    /// Both, in the order of [`Stream::index`].
    pub const BOTH: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// 0 or 1, for arrays of two.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The log's name in the job's directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout.log",
            Stream::Stderr => "stderr.log",
        }
    }
}

/// One read of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When it was read, nanoseconds since 1970; never less than the entry's before it.
    pub time_ns: u64,
    /// Lengths of both logs after it, by [`Stream::index`].
    pub ends: [u64; 2],
    /// Whose bytes it were.
    pub stream: Stream,
}

impl Entry {
    /// As it stands in the file.
    pub fn to_bytes(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[0..8].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.ends[0].to_le_bytes());
        bytes[16..24].copy_from_slice(&self.ends[1].to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.stream as u32).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Back from the file; `None` where the bytes are torn.
    pub fn from_bytes(bytes: &[u8; ENTRY]) -> Option<Entry> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let tail = word(24);
        let (stream, crc) = (tail as u32, (tail >> 32) as u32);
        if crc != crc32fast::hash(&bytes[..28]) {
            return None;
        }
        let stream = *Stream::BOTH.get(stream as usize)?;
        Some(Entry { time_ns: word(0), ends: [word(8), word(16)], stream })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY_1: Entry = Entry { time_ns: 3, ends: [10, 1 << 40], stream: Stream::Stderr };

    #[test]
    fn an_entry_survives_the_disk() {
        assert_eq!(Entry::from_bytes(&ENTRY_1.to_bytes()), Some(ENTRY_1));
    }

    #[test]
    fn an_index_may_have_as_many_bytes_as_the_output_and_16_mib_at_least() {
        let half_a_million = MIN_SIZE / 32;
        assert!(!is_full(half_a_million - 1, 0) && is_full(half_a_million, 0));
        assert!(
            !is_full(half_a_million, MIN_SIZE + 32) && is_full(half_a_million + 1, MIN_SIZE + 32)
        );
        assert!(!is_full(1 << 50, u64::MAX), "no limit is none for the index");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = ENTRY_1.to_bytes();
        for bit in 0..ENTRY * 8 {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::from_bytes(&torn), None, "bit {bit}");
        }
        assert_eq!(Entry::from_bytes(&[0; ENTRY]), None, "a hole of zeros");
    }
}
