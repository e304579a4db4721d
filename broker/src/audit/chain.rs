//! The chain of hashes: each line has its number and the SHA-256 of the line before. Pure: it makes and checks lines, and
//! must not read or write any file.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// No log has more lines: from here on a number plus one is a number.
const MAX_SEQ: u64 = u64::MAX >> 1;

/// SHA-256 of a line, without its newline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) [u8; 32]);

/// The last line of a chain: all that is needed to add one, or to know that none is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Number of the last line; 0 before the first.
    pub(crate) seq: u64,
    /// Its hash; zeros before the first.
    pub(crate) hash: Hash,
}

/// Where a line stands in the chain; its member `audit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The line's number; the first is 1.
    pub(crate) seq: u64,
    /// The hash of the line before.
    pub(crate) prev: Hash,
    /// Of a line that says so: the last line of what was removed from the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dropped: Option<Dropped>,
}

/// The lines that were removed with the oldest file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    /// How many.
    pub(crate) lines: u64,
    /// The last one's number.
    pub(crate) last_seq: u64,
    /// Its hash: what the oldest line that is left has as `prev`.
    pub(crate) last_hash: Hash,
}

/// What is wrong with a line, or with the end of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// Not a line of this log.
    #[error("the line is no audit line: {0}")]
    Malformed(String),
    /// The numbers leave some out.
    #[error("lines {first} to {last} are missing before this line")]
    Missing {
        /// The first that is missing.
        first: u64,
        /// The last.
        last: u64,
    },
    /// The number was there already.
    #[error(
        "the line has number {found} where {expected} was expected: it was inserted, repeated or moved"
    )]
    OutOfOrder {
        /// In the line.
        found: u64,
        /// By its place.
        expected: u64,
    },
    /// The next line's hash is of another text.
    #[error("line {0} was changed: the line after it has the hash of another text")]
    Changed(u64),
    /// A checkpoint, the journal or the operator knows another text.
    #[error("line {seq} was changed: {witness} has the hash of another text")]
    Contradicted {
        /// The line's number.
        seq: u64,
        /// Who knows.
        witness: String,
    },
    /// The log ends too early.
    #[error("lines {first} to {last} were cut off at the end: {witness} knows them")]
    CutOff {
        /// The first that is missing.
        first: u64,
        /// The last that is known of.
        last: u64,
        /// Who knows.
        witness: String,
    },
    /// The log begins too late, and no line says so.
    #[error(
        "lines 1 to {0} are missing at the beginning, and no later line says that they were removed"
    )]
    NoBeginning(u64),
}

impl Head {
    /// Of an empty chain.
    pub(crate) const EMPTY: Head = Head { seq: 0, hash: Hash([0; 32]) };

    /// The line for a JSON object, without its newline; the head moves on to it.
    pub(crate) fn append(&mut self, object: &str, dropped: Option<Dropped>) -> String {
        let link = Link { seq: self.seq + 1, prev: self.hash, dropped };
        let link = serde_json::to_string(&link).unwrap_or_default(); // numbers and text only
        let body = object.strip_suffix('}').unwrap_or(object);
        let comma = if body.ends_with('{') { "" } else { "," };
        let line = format!("{body}{comma}\"audit\":{link}}}");
        *self = Head { seq: self.seq + 1, hash: Hash::of(line.as_bytes()) };
        line
    }
}

impl Hash {
    /// Of a line without its newline.
    pub(crate) fn of(line: &[u8]) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, line).as_ref());
        Hash(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Hash {
    type Err = String;
    fn from_str(text: &str) -> Result<Hash, String> {
        let fault = || "a hash has 64 hexadecimal digits".to_owned();
        if text.len() != 64 || !text.is_ascii() {
            return Err(fault());
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| fault())?;
        }
        Ok(Hash(hash))
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl std::str::FromStr for Head {
    type Err = String;
    /// `NUMBER:HASH`, as the journal has it.
    fn from_str(text: &str) -> Result<Head, String> {
        let (seq, hash) = text.split_once(':').ok_or("is not NUMBER:HASH")?;
        let seq = seq.parse().map_err(|_| "is not NUMBER:HASH".to_owned())?;
        Ok(Head { seq, hash: hash.parse()? })
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The place of a line in its chain.
///
/// # Errors
/// Why it has none.
pub(crate) fn link(line: &[u8]) -> Result<Link, String> {
    #[derive(Deserialize)]
    struct Line {
        audit: Link,
    }
    let Line { audit } = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let last_seq = audit.dropped.as_ref().map_or(0, |dropped| dropped.last_seq);
    if !(1..=MAX_SEQ).contains(&audit.seq) || last_seq > MAX_SEQ {
        return Err(format!("its numbers are not from 1 to {MAX_SEQ}"));
    }
    Ok(audit)
}

/// Checks lines in their order, against each other and against what others know of them.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// The heads that others know, with who does.
    witnesses: BTreeMap<u64, Vec<(Hash, String)>>,
    /// The first line's number, and what it says of the line before.
    first: Option<(u64, Hash)>,
    last: Head,
    is_anchored: bool,
}

impl Verifier {
    /// Of a log of which `witnesses` know some lines.
    pub(crate) fn new(witnesses: impl IntoIterator<Item = (Head, String)>) -> Verifier {
        let mut known = BTreeMap::<_, Vec<_>>::new();
        for (head, who) in witnesses.into_iter().filter(|(head, _)| head.seq > 0) {
            known.entry(head.seq).or_default().push((head.hash, who));
        }
        Verifier { witnesses: known, first: None, last: Head::EMPTY, is_anchored: false }
    }

    /// The next line, without its newline.
    ///
    /// # Errors
    /// What is wrong with it, or with the line before.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Link { seq, prev, dropped } = link(line).map_err(Fault::Malformed)?;
        match self.first {
            None => {
                self.first = Some((seq, prev));
                self.is_anchored = seq == 1 && prev == Head::EMPTY.hash;
            }
            Some(_) if seq > self.last.seq + 1 => {
                return Err(Fault::Missing { first: self.last.seq + 1, last: seq - 1 });
            }
            Some(_) if seq != self.last.seq + 1 => {
                return Err(Fault::OutOfOrder { found: seq, expected: self.last.seq + 1 });
            }
            Some(_) if prev != self.last.hash => return Err(Fault::Changed(self.last.seq)),
            Some(_) => {}
        }
        self.last = Head { seq, hash: Hash::of(line) };
        for (hash, witness) in self.witnesses.get(&seq).into_iter().flatten() {
            if *hash != self.last.hash {
                return Err(Fault::Contradicted { seq, witness: witness.clone() });
            }
        }
        if let (Some(dropped), Some((first, before))) = (dropped, self.first) {
            self.is_anchored |= dropped.last_seq + 1 == first && dropped.last_hash == before;
        }
        Ok(())
    }

    /// After the last line: whether both ends are there.
    ///
    /// # Errors
    /// Which is not.
    pub(crate) fn end(&self) -> Result<Head, Fault> {
        if let Some((last, known)) = self.witnesses.last_key_value()
            && *last > self.last.seq
        {
            let witness = known.first().map(|(_, who)| who.clone()).unwrap_or_default();
            return Err(Fault::CutOff { first: self.last.seq + 1, last: *last, witness });
        }
        match self.first {
            Some((seq, _)) if !self.is_anchored => Err(Fault::NoBeginning(seq.saturating_sub(1))),
            _ => Ok(self.last),
        }
    }

    /// The last line so far.
    pub(crate) fn last(&self) -> Head {
        self.last
    }

    /// The last line that somebody else knows.
    pub(crate) fn last_witnessed(&self) -> u64 {
        self.witnesses.last_key_value().map_or(0, |(seq, _)| *seq)
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
