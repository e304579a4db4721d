//! Salvages what can be read of a job with damaged records: whether it ran, and its request. Repairs
//! nothing.

use std::fs;
use std::io;
use std::path::Path;

use job_shim::record;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::model::identity::Identity;
use crate::model::state::State;
use crate::store::log::INDEX_NAME;
use crate::store::records;
use crate::store::records::{FINAL, FinalRecord, REQUEST, RequestRecord, SPAWN, SPEC, SpawnRecord};
use crate::store::seal;
use job_launch::host::BootId;

/// Whether this directory is of a job whose start crashed before GO: the job was never published, and nothing ran.
///
/// `spec.json` is synced before GO. So GO was not reached if the file is missing, or has the damage of an unsynced
/// file after a host crash (truncated, or zeros). Any other damage proves nothing. Any other sign that the job ran
/// takes precedence.
///
/// # Errors
/// As read(2).
pub(crate) fn never_started(dir: &Path, boot_id: &BootId) -> io::Result<bool> {
    let is_cut_short = match read(dir, SPEC)? {
        // In the boot that created the shim, `spec.json` existed before `spawn.json`.
        None => !read(dir, SPAWN)?.is_some_and(|bytes| is_of_boot(&bytes, boot_id)),
        Some(bytes) => is_cut_short(&bytes),
    };
    let is_zero = |bytes: Vec<u8>| bytes.iter().all(|byte| *byte == 0);
    Ok(is_cut_short
        && read(dir, FINAL)?.is_none_or(|bytes| is_failed_start(&bytes))
        && read(dir, record::FILE_NAME)?.is_none_or(is_zero)
        && is_empty(dir, "stdout.log")?
        && is_empty(dir, "stderr.log")?
        && is_empty(dir, INDEX_NAME)?)
}

/// The request of a damaged job, from any readable record. An empty id: the start had none. `None`: every record was
/// read, and none contains the request.
///
/// # Errors
/// As read(2), of a record that may contain the request, if no other record does.
pub(crate) fn request(dir: &Path) -> io::Result<Option<RequestRecord>> {
    type Told = fn(&[u8]) -> Option<RequestRecord>;
    // Records with a checksum come before the damaged `spec.json`.
    let copies: [(&str, Told); 3] = [
        (REQUEST, |bytes| records::parse(REQUEST, bytes).ok()),
        (SPAWN, |bytes| records::parse::<SpawnRecord>(SPAWN, bytes).ok()?.request),
        (SPEC, request_in),
    ];
    let mut unread = None;
    for (name, told) in copies {
        match read(dir, name) {
            Ok(bytes) => {
                if let Some(request) = bytes.as_deref().and_then(told) {
                    return Ok(Some(request));
                }
            }
            Err(e) => unread = Some(e),
        }
    }
    unread.map_or(Ok(None), Err)
}

/// Parses a possibly damaged `spec.json`: only the fields before the spec, whose text comes from clients and could
/// look like fields.
pub(super) fn request_in(bytes: &[u8]) -> Option<RequestRecord> {
    let head = &bytes[..find(bytes, b"\"spec\":").unwrap_or(bytes.len())];
    let owner = Identity::new(&text(head, b"\"owner\":")?).ok()?;
    Some(RequestRecord { owner, id: text(head, b"\"request_id\":")? })
}

/// The JSON string after `name`.
fn text(bytes: &[u8], name: &[u8]) -> Option<String> {
    let at = find(bytes, name)? + name.len();
    let mut rest = serde_json::Deserializer::from_slice(&bytes[at..]);
    String::deserialize(&mut rest).ok()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The record of a start that failed before the spec was written, for lack of disk space.
fn is_failed_start(last: &[u8]) -> bool {
    records::parse::<FinalRecord>(FINAL, last).is_ok_and(|last| {
        last.state == State::Finished && last.started.is_none() && last.exit.is_none()
    })
}

fn is_of_boot(spawn: &[u8], boot_id: &BootId) -> bool {
    records::parse::<SpawnRecord>(SPAWN, spawn)
        .is_ok_and(|spawned| spawned.boot_id.as_bytes() == boot_id)
}

pub(super) fn is_cut_short(bytes: &[u8]) -> bool {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let parsed = serde_json::from_slice::<IgnoredAny>(&bytes[..end]);
    parsed.is_err_and(|e| e.is_eof()) && !seal::is_complete(&bytes[..end])
}

fn read(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_empty(dir: &Path, name: &str) -> io::Result<bool> {
    match fs::metadata(dir.join(name)) {
        Ok(file) => Ok(file.len() == 0),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"format":1,"id":"x","owner":"ann","request_id":"a\"b","spec":{"argv":
        ["\"request_id\":\"no\""],"labels":{"request_id":"no","owner":"no"}}}"#;

    const SPAWNED: &[u8] = br#"{"format":1,"boot_id":"00000000-0000-0000-0000-000000000000",
        "shim_pid":7,"shim_start_time":9,"nonce":"00000000-0000-0000-0000-000000000001",
        "request":{"owner":"ann","id":"c"}}"#;

    fn dir(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
        dir
    }

    #[track_caller]
    fn assert_started(started: bool, files: &[(&str, &[u8])]) {
        assert_eq!(never_started(dir(files).path(), &[0; 16]).unwrap(), !started, "{files:?}");
    }

    #[test]
    fn whatever_a_crash_makes_of_a_start_before_go_is_no_job() {
        assert_started(false, &[]);
        assert_started(false, &[(".spec.json.new", b"{")]);
        assert_started(false, &[(SPAWN, b"")]);
        let before = String::from_utf8_lossy(SPAWNED).replacen("-0000", "-1111", 1);
        assert_started(false, &[(SPAWN, before.as_bytes())]);
        for length in 0..WHOLE.len() {
            let torn = &WHOLE.as_bytes()[..length];
            let padded = [torn, &[0; 100]].concat();
            assert_started(false, &[(SPEC, torn)]);
            assert_started(false, &[(SPEC, &padded), (SPAWN, b""), (record::FILE_NAME, &[0; 512])]);
            assert_started(false, &[(SPEC, torn), ("stdout.log", b""), (INDEX_NAME, b"")]);
        }
    }

    #[test]
    fn what_no_crash_makes_may_have_run() {
        let whole = WHOLE.as_bytes();
        assert_started(true, &[(SPEC, whole)]);
        assert_started(true, &[(SPEC, b"{]")]);
        assert_started(true, &[(SPEC, b"garbage")]);
        assert_started(true, &[(SPEC, &[b"\0\0\0\0", &whole[4..]].concat())]);
        assert_started(true, &[(SPAWN, SPAWNED)]);
    }

    #[test]
    fn whatever_tells_of_a_run_is_believed() {
        let mut exit = [0; record::FILE_LENGTH];
        exit[0] = 1;
        let signs: [(&str, &[u8]); 5] = [
            (FINAL, b""),
            (record::FILE_NAME, &exit),
            ("stdout.log", b"x"),
            ("stderr.log", b"x"),
            (INDEX_NAME, b"x"),
        ];
        for sign in signs {
            assert_started(true, &[(SPEC, b""), sign]);
            assert_started(true, &[sign]);
        }
    }

    #[test]
    fn the_request_is_read_from_whatever_has_it() {
        let ann = |id: &str| {
            Some(RequestRecord { owner: Identity::new("ann").unwrap(), id: id.to_owned() })
        };
        assert_eq!(request_in(WHOLE.as_bytes()), ann("a\"b"));
        let cut = WHOLE.find("\"spec").unwrap();
        assert_eq!(request_in(&WHOLE.as_bytes()[..cut]), ann("a\"b"));
        // A field of the same name in the client's text does not count.
        let damaged = WHOLE.replacen("request_id", "re?uest_id", 1);
        assert_eq!(request_in(damaged.as_bytes()), None);
        assert_eq!(request(dir(&[(SPEC, b"{"), (SPAWN, SPAWNED)]).path()).unwrap(), ann("c"));
        let noted = br#"{"owner":"ann","id":"d"}"#;
        assert_eq!(request(dir(&[(REQUEST, noted), (SPAWN, SPAWNED)]).path()).unwrap(), ann("d"));
        assert_eq!(request(dir(&[(SPEC, b"{")]).path()).unwrap(), None);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_one_that_says_nothing() {
        let dir = dir(&[]);
        assert_eq!(request(dir.path()).unwrap(), None);
        fs::create_dir(dir.path().join(SPAWN)).unwrap(); // EISDIR stands for EMFILE and EIO
        assert_eq!(request(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        fs::write(dir.path().join(SPEC), WHOLE).unwrap();
        assert_eq!(request(dir.path()).unwrap().unwrap().id, "a\"b", "another one tells");
    }
}
