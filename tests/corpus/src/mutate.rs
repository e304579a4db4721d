//! Inputs made of a corpus: its files with a few changes of the kinds that break parsers, and bytes of no form at all.
//! Pure: the same seed of proptest makes the same inputs.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One change. Places are shares of the length, so that they stay valid while others change it.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
    /// A binary number, little or big endian.
    Binary(Index, usize, u64, bool),
    /// The decimal number at or behind a place.
    Decimal(Index, &'static str),
    /// A line, in place of another.
    Lines(Index, Index),
    /// The rest of another file of the corpus.
    Splice(Index, Index, Index),
}

/// Where counts, lengths and sums go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    1 << 31,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 62,
    1 << 63,
    u64::MAX,
];
const DECIMALS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "64",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0.1",
    "nan",
    "00000000000000000000000000000000000001",
];
/// What has a meaning in one of the texts.
const WORDS: [&[u8]; 24] = [
    b"\n",
    b"\0",
    b" ",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\134",
    b"=",
    b"-",
    b"+",
    b".",
    b"..",
    b"/",
    b"*",
    b"**",
    b"?",
    b"[",
    b"]",
    b"{}",
    b"[[role]]\n",
    b"max",
    b"\xff",
    b"\xc3\xa4",
    b"\xf0\x9f\x92\xa5",
];

/// The inputs.
pub(crate) fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let all = seeds.clone();
    let changed = (select(seeds), vec(change(), 1..6));
    prop_oneof![
        9 => changed.prop_map(move |(bytes, changes)| {
            changes.iter().fold(bytes, |bytes, change| change.made(bytes, &all))
        }),
        1 => vec(any::<u8>(), 0..600),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), select(&WORDS[..])).prop_map(|(at, word)| Change::Insert(at, word.to_vec())),
        (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1usize..40).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1usize..40, 1usize..60).prop_map(|(at, length, n)| Change::Repeat(at, length, n)),
        at().prop_map(Change::Cut),
        (at(), select(vec![1usize, 2, 4, 8]), select(&NUMBERS[..]), any::<bool>())
            .prop_map(|(at, width, number, big)| Change::Binary(at, width, number, big)),
        (at(), select(&DECIMALS[..])).prop_map(|(at, text)| Change::Decimal(at, text)),
        (at(), at()).prop_map(|(from, to)| Change::Lines(from, to)),
        (at(), at(), at()).prop_map(|(file, from, to)| Change::Splice(file, from, to)),
    ]
}

impl Change {
    fn made(&self, mut bytes: Vec<u8>, all: &[Vec<u8>]) -> Vec<u8> {
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        match self {
            Change::Insert(at, word) => {
                _ = bytes.splice(place(at)..place(at), word.iter().copied())
            }
            Change::Cut(at) => bytes.truncate(place(at)),
            Change::Splice(file, from, to) => {
                let file = file.get(all);
                bytes.truncate(place(to));
                bytes.extend_from_slice(&file[from.index(file.len() + 1)..]);
            }
            _ if length == 0 => {}
            Change::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Change::Set(at, byte) => bytes[at.index(length)] = *byte,
            Change::Remove(at, count) => {
                let at = at.index(length);
                bytes.drain(at..length.min(at + count));
            }
            Change::Repeat(at, count, times) => {
                let at = at.index(length);
                let piece = bytes[at..length.min(at + count)].repeat(*times);
                bytes.splice(at..at, piece);
            }
            Change::Binary(at, width, number, big) => {
                let little = number.to_le_bytes();
                let mut number = little[..*width].to_vec();
                if *big {
                    number.reverse();
                }
                let at = at.index(length);
                bytes.splice(at..length.min(at + width), number);
            }
            Change::Decimal(at, text) => {
                let is_digit = |from: usize| bytes[from..].iter().position(u8::is_ascii_digit);
                let at = at.index(length);
                if let Some(start) = is_digit(at).map(|n| at + n).or_else(|| is_digit(0)) {
                    let digits = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
                    bytes.splice(start..start + digits, text.bytes());
                }
            }
            Change::Lines(from, to) => {
                let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                let (from, to) = (from.index(lines.len()), to.index(lines.len()));
                lines[to] = lines[from];
                bytes = lines.concat();
            }
        }
        bytes
    }
}
