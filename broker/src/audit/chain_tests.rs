//! Whatever is done to a log whose last line is known elsewhere is found: every edit of a byte, every removal, insertion,
//! swap and truncation of a small log, exhaustively.

use super::*;

const LINES: usize = 6;

fn log() -> (Vec<Vec<u8>>, Head) {
    let mut head = Head::EMPTY;
    let lines = (0..LINES).map(|n| head.append(&format!("{{\"n\":\"{n}\"}}"), None).into_bytes());
    (lines.collect(), head)
}

fn verify(lines: &[Vec<u8>], head: Head) -> Result<Head, Fault> {
    let mut verifier = Verifier::new([(head, "the journal".to_owned())]);
    lines.iter().try_for_each(|line| verifier.line(line))?;
    verifier.end()
}

#[test]
fn an_untouched_log_is_whole() {
    let (lines, head) = log();
    assert_eq!(verify(&lines, head), Ok(head));
    assert_eq!(verify(&[], Head::EMPTY), Ok(Head::EMPTY));
}

#[test]
fn every_edit_of_every_byte_is_found() {
    let (lines, head) = log();
    for at in 0..LINES {
        for byte in 0..lines[at].len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut edited = lines.clone();
                edited[at][byte] ^= flip;
                assert!(verify(&edited, head).is_err(), "line {at}, byte {byte}");
            }
        }
    }
}

#[test]
fn every_removal_insertion_and_swap_is_found_and_the_first_bad_line_named() {
    let (lines, head) = log();
    for at in 0..LINES {
        let mut removed = lines.clone();
        removed.remove(at);
        let fault = verify(&removed, head).unwrap_err();
        match at {
            0 => assert_eq!(fault, Fault::NoBeginning(1)),
            at if at == LINES - 1 => assert!(matches!(fault, Fault::CutOff { .. }), "{fault}"),
            at => {
                let missing = at as u64 + 1;
                assert_eq!(fault, Fault::Missing { first: missing, last: missing });
            }
        }
        for to in 0..=LINES {
            let mut inserted = lines.clone();
            inserted.insert(to, lines[at].clone());
            assert!(verify(&inserted, head).is_err(), "{at} repeated at {to}");
        }
        for other in 0..at {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            assert!(verify(&swapped, head).is_err(), "{at} and {other}");
        }
    }
}

#[test]
fn every_truncation_is_found_and_so_is_a_log_that_was_written_anew() {
    let (lines, head) = log();
    for kept in 0..LINES {
        let fault = verify(&lines[..kept], head).unwrap_err();
        let (first, last) = (kept as u64 + 1, LINES as u64);
        assert_eq!(fault, Fault::CutOff { first, last, witness: "the journal".into() });
    }
    let (whole, last) = (lines.concat(), lines[LINES - 1].len());
    for cut in 1..last {
        let mut torn = lines.clone();
        torn[LINES - 1] = whole[whole.len() - last..whole.len() - cut].to_vec();
        assert!(verify(&torn, head).is_err(), "{cut} bytes");
    }
    let mut forged = Head::EMPTY;
    let anew: Vec<_> = (0..LINES).map(|_| forged.append("{}", None).into_bytes()).collect();
    assert!(matches!(verify(&anew, head), Err(Fault::Contradicted { .. })));
}

#[test]
fn what_was_dropped_is_accounted_for_by_the_line_that_says_so_and_by_no_other() {
    let mut head = Head::EMPTY;
    let mut lines: Vec<_> = (0..3).map(|_| head.append("{}", None)).collect();
    let gone = head;
    lines.extend((0..2).map(|_| head.append("{}", None)));
    let dropped = |last: Head| Dropped { lines: 3, last_seq: last.seq, last_hash: last.hash };
    let (mut other, before) = (head, head);
    lines.push(head.append("{\"x\":1}", Some(dropped(gone))));
    let bytes = |lines: &[String]| lines.iter().map(|l| l.clone().into_bytes()).collect::<Vec<_>>();
    assert_eq!(verify(&bytes(&lines[3..]), head), Ok(head));
    assert_eq!(verify(&bytes(&lines[4..]), head), Err(Fault::NoBeginning(4)));
    lines.pop();
    lines.push(other.append("{\"x\":1}", Some(dropped(before))));
    assert_eq!(verify(&bytes(&lines[3..]), other), Err(Fault::NoBeginning(3)));
}

#[test]
fn a_head_has_one_text() {
    let (_, head) = log();
    assert_eq!(head.to_string().parse(), Ok(head));
    for bad in ["", "1", "1:", "x:00", &format!("1:{}", "ä".repeat(32))] {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
}

#[test]
fn numbers_past_the_last_that_can_be_counted_are_a_fault_and_no_panic() {
    let hash = Hash([0; 32]);
    let line = |seq: u64, last_seq: u64| {
        let dropped = Some(Dropped { lines: 1, last_seq, last_hash: hash });
        let link = serde_json::to_string(&Link { seq, prev: hash, dropped }).unwrap();
        format!("{{\"audit\":{link}}}").into_bytes()
    };
    for (seq, last_seq) in [(u64::MAX, 1), (1, u64::MAX), (MAX_SEQ + 1, 1), (0, 1)] {
        let mut verifier = Verifier::new([]);
        let fault = verifier.line(&line(seq, last_seq)).unwrap_err();
        assert!(matches!(fault, Fault::Malformed(_)), "{seq}, {last_seq}: {fault}");
        assert!(verifier.line(&line(1, 0)).is_ok(), "as if it had not been there");
    }
    let mut verifier = Verifier::new([]);
    assert_eq!(verifier.line(&line(MAX_SEQ, MAX_SEQ)), Ok(()));
    let fault = verifier.line(&line(1, 0)).unwrap_err();
    assert_eq!(fault, Fault::OutOfOrder { found: 1, expected: MAX_SEQ + 1 });
}
