//! The checksum of a JSON record: a crc32 of all bytes before it, as its last member. Additive: an
//! earlier broker ignores both members, and a record without them is one that such a broker has written.

use std::io;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The first member says that there is a last one: a record whose checksum was cut off is damaged, not old.
const FIRST: &[u8] = b"{\"checksum\":\"crc32\",";
/// Before the eight hexadecimal digits of the last member.
const LAST: &[u8] = b",\"crc32\":\"";
/// After them.
const END: &[u8] = b"\"}";
const DIGITS: usize = 8;

/// A record as JSON, with its checksum.
///
/// # Errors
/// `InvalidInput` for what is no JSON object with members; no record is such.
pub(crate) fn seal<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(record)?;
    let members = json.strip_prefix(b"{").and_then(|json| json.strip_suffix(b"}"));
    let members =
        members.filter(|members| !members.is_empty()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut sealed = [FIRST, members].concat();
    let crc = format!("{:08x}", crc32fast::hash(&sealed));
    sealed.extend([LAST, crc.as_bytes(), END].concat());
    Ok(sealed)
}

/// Whether these bytes, which parse, are those that were written. A record without a checksum is believed.
///
/// # Errors
/// What is wrong, in words for an operator.
pub(crate) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    match split(bytes) {
        Some((sealed, crc)) if crc32fast::hash(sealed) == crc => Ok(()),
        Some(_) => Err("its content does not match its checksum"),
        None if bytes.starts_with(FIRST) || has_checksum_member(bytes) => {
            Err("its checksum is missing")
        }
        None => Ok(()),
    }
}

/// Whether the record ends as a whole one does: no crash has cut it short.
pub(crate) fn is_complete(bytes: &[u8]) -> bool {
    split(bytes).is_some()
}

fn split(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let rest = bytes.strip_suffix(END)?;
    let (rest, crc) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    Some((rest.strip_suffix(LAST)?, crc))
}

/// One of the two members somewhere else: the record was written anew by what knows no checksum.
fn has_checksum_member(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Members {
        checksum: Option<IgnoredAny>,
        crc32: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Members>(bytes)
        .is_ok_and(|found| found.checksum.is_some() || found.crc32.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        seal(&serde_json::json!({ "format": 1, "exit": { "wait_status": 1792 } })).unwrap()
    }

    #[test]
    fn a_record_with_its_checksum_is_json_that_an_earlier_broker_reads() {
        let value: serde_json::Value = serde_json::from_slice(&sealed()).unwrap();
        assert_eq!(value["exit"]["wait_status"], 1792);
        assert_eq!((check(&sealed()), check(b"{\"format\":1}")), (Ok(()), Ok(())));
        assert!(seal(&7).is_err() && seal(&serde_json::json!({})).is_err());
    }

    #[test]
    fn no_byte_of_a_record_can_be_altered_unseen() {
        let whole = sealed();
        let digits = whole.len() - END.len() - DIGITS..whole.len() - END.len();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut altered = whole.clone();
                altered[at] ^= 1 << bit;
                // The same digit as a capital is the same checksum.
                let same = digits.contains(&at) && altered[at].eq_ignore_ascii_case(&whole[at]);
                let parses = serde_json::from_slice::<IgnoredAny>(&altered).is_ok();
                assert!(same || !parses || check(&altered).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_record_whose_checksum_was_removed_is_no_old_one() {
        let whole = sealed();
        let cut = [&whole[..whole.len() - LAST.len() - DIGITS - END.len()], b"}"].concat();
        assert_eq!(check(&cut), Err("its checksum is missing"));
        let value: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        assert!(check(value.to_string().as_bytes()).is_err(), "written anew");
        assert!(check(&[&whole[..], b"\n"].concat()).is_err(), "something comes after it");
    }
}
