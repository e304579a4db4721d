//! Fuzz targets: the audit, as a disk or a hand may give it back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::audit::chain::{Hash, Head, Verifier};
use crate::audit::checkpoint;
use crate::audit::read::{Filter, is_asked_for};

/// Lines of any content are verified or refused; and a log of lines that were written is refused after any damage. The
/// first eight bytes choose that.
pub fn audit(data: &[u8]) {
    let mut verifier = Verifier::new([(Head { seq: 3, hash: Hash([0; 32]) }, "a witness".into())]);
    let mut plain = Verifier::new([]);
    for line in data.split(|byte| *byte == b'\n') {
        let _ = (verifier.line(line), plain.line(line));
    }
    let _ = (verifier.end(), plain.end(), plain.last_witnessed());
    if let Some((choice, content)) = data.split_first_chunk::<8>() {
        damaged(u64::from_le_bytes(*choice), content);
    }
}

fn damaged(choice: u64, content: &[u8]) {
    let (mut head, mut lines) = (Head::EMPTY, Vec::new());
    for text in content.split(|byte| *byte == b'\n').take(16) {
        let object = serde_json::json!({ "message": String::from_utf8_lossy(text) }).to_string();
        lines.push(head.append(&object, None).into_bytes());
    }
    assert_eq!(verify(&lines, head), Ok(head));
    let whole = lines.clone();
    let pick = |shift: u32, of: usize| (choice >> shift) as usize % of.max(1);
    let (at, other) = (pick(8, lines.len()), pick(16, lines.len()));
    match choice % 6 {
        0 => {
            let byte = pick(24, lines[at].len());
            lines[at][byte] ^= 1 << pick(56, 8);
        }
        1 => _ = lines.remove(at),
        2 => lines.insert(at, whole[other].clone()),
        3 => lines.swap(at, other),
        4 => lines.truncate(at),
        _ => {
            let mut empty = Head::EMPTY;
            let forged = empty.append("{\"message\":\"forged\"}", None);
            lines[at] = forged.into_bytes();
        }
    }
    if lines != whole {
        assert!(verify(&lines, head).is_err(), "damage {} of line {at}, {other}", choice % 6);
    }
}

fn verify(lines: &[Vec<u8>], head: Head) -> Result<Head, String> {
    let mut verifier = Verifier::new([(head, "the journal".to_owned())]);
    lines.iter().try_for_each(|line| verifier.line(line)).map_err(|fault| fault.to_string())?;
    verifier.end().map_err(|fault| fault.to_string())
}

/// What a reader of the audit asks of a line.
pub fn audit_search(data: &[u8]) {
    let since = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_000_000));
    let filter = Filter { since, owner: Some("ann".into()), job: Some("0".into()), action: None };
    for line in data.split(|byte| *byte == b'\n') {
        let any = is_asked_for(&Filter::default(), line);
        let some = is_asked_for(&filter, line);
        assert!(any.is_some() == some.is_some() && any != Some(false));
    }
}

/// The lines of the checkpoints, and a head as an operator gives it.
pub fn checkpoint(data: &[u8]) {
    let no_directory = Path::new("/nonexistent");
    // One key, so that signatures are looked at.
    let key = Some(vec![4; 65]);
    let mut keys = BTreeMap::from([(Hash([0; 32]).to_string(), key)]);
    for line in String::from_utf8_lossy(data).lines() {
        assert!(checkpoint::check(no_directory, line, &mut keys).is_err(), "nobody signed {line}");
        if let Ok(head) = line.parse::<Head>() {
            assert_eq!(head.to_string().parse(), Ok(head));
        }
    }
    let kept = checkpoint::newer_half(data);
    assert!(data.ends_with(kept));
    let removed = &data[..data.len() - kept.len()];
    assert!(removed.is_empty() || removed.ends_with(b"\n"), "a line is cut");
}
