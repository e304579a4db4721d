//! Fuzz target: readers of an index that no correct shim has written.

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::path::PathBuf;

use job_shim::index::{ENTRY, Entry, Stream};

use crate::jobs::output::Range;
use crate::jobs::output::locate::{Position, Span, Wanted};
use crate::jobs::output::tail::Tail;
use crate::store::log::{INDEX_NAME, LogFiles, Reading, Window, measure};

/// Bytes of a piece at most.
const MOST: u64 = 4096;

thread_local! { static DIRECTORY: OnceCell<PathBuf> = const { OnceCell::new() } }

/// The entries of an index, behind a byte that says how it is read; their checksums are put right. Every reader comes to
/// an end, and each piece goes on where the last one ended.
pub fn output(data: &[u8]) {
    let Some((choice, index)) = data.split_first() else { return };
    let mut index = index[..index.len().min(64 * ENTRY)].to_vec();
    for entry in index.as_chunks_mut::<ENTRY>().0 {
        entry[25..28].fill(0);
        entry[24] &= 1;
        let crc = crc32fast::hash(&entry[..ENTRY - 4]);
        entry[ENTRY - 4..].copy_from_slice(&crc.to_le_bytes());
        assert!(Entry::from_bytes(entry).is_some());
    }
    let dir = DIRECTORY.with(|dir| dir.get_or_init(directory).clone());
    fs::write(dir.join(INDEX_NAME), &index).expect("a scratch file");
    let files = LogFiles::open(&dir).expect("the scratch files");
    let entries = (index.len() / ENTRY) as u64;
    if let Ok(progress) = measure(&dir) {
        assert_eq!(progress.entries, entries);
    }
    let stream = [None, Some(Stream::Stdout), Some(Stream::Stderr)][usize::from(choice % 3)];
    let wanted = Wanted { stream, by_entry: choice & 4 != 0 };
    let offset = u64::from(choice >> 4);
    let range = Range {
        stream,
        offsets: [offset, offset / 2],
        tail_lines: None,
        since_ns: (choice & 8 != 0).then_some(offset),
        follow: false,
        by_entry: wanted.by_entry,
        deflate: false,
    };
    let _ = read(&files, wanted, &range, entries);
    let _ = tail(&files, wanted, offset, entries);
}

fn directory() -> PathBuf {
    let name = format!("job-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).expect("a scratch directory");
    for stream in Stream::BOTH {
        fs::write(dir.join(stream.file_name()), b"one\ntwo\nthree\n").expect("a scratch file");
    }
    dir
}

fn read(files: &LogFiles, wanted: Wanted, range: &Range, entries: u64) -> io::Result<()> {
    let mut window = Window::default();
    let index = &mut files.index(&mut window, Reading::Blocking);
    let mut position = Position::of(range, index, entries)?;
    // Each piece has a byte or an entry; some entries claim 2^64 bytes.
    for _ in 0..1024 {
        let Some(span) = position.piece(wanted, MOST, index, entries)? else { return Ok(()) };
        check(&span, position);
        position = span.after;
    }
    Ok(())
}

fn check(span: &Span, before: Position) {
    let at = span.stream.index();
    let (start, end) = (before.offsets[at], span.after.offsets[at]);
    assert!(span.start >= start && span.length > 0 && span.length as u64 <= MOST);
    assert_eq!(span.start + span.length as u64, end, "the next piece begins where this one ends");
    assert!(end > start && span.after.entry >= before.entry, "no progress");
}

fn tail(files: &LogFiles, wanted: Wanted, lines: u64, entries: u64) -> io::Result<()> {
    let mut tail = Tail::new(wanted, lines, entries);
    for _ in 0..64 {
        if let Some((entry, _)) = tail.step(files)? {
            assert!(entry <= entries);
            return Ok(());
        }
    }
    Ok(())
}
