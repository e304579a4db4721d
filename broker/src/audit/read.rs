//! Reads the audit's lines for those who may see them, in slices: each opens a file, reads some of it and closes it. It
//! must give no line that is not durable, and must not judge the chain: `verify` does.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::audit::chain::Link;
use crate::audit::entry::OwnAction;
use crate::audit::files;
use crate::audit::verify::MAX_LINE;

/// Bytes of a file that one slice reads.
const SLICE: u64 = 1 << 20;
/// Bytes of lines that one slice finds, but for the last line.
const FOUND: usize = 32 << 10;

/// A file is passed over unread if its first and its last line are so much older than what is asked for. Between the two
/// the clock may have been set back, and lines of several threads differ a little in their order.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);

/// Which lines. What is not set is not asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Owner of the line's job; of a line without a job, who did it.
    pub(crate) owner: Option<String>,
    /// Beginning of the id of the line's job.
    pub(crate) job: Option<String>,
    /// The line's action.
    pub(crate) action: Option<String>,
    /// Not before this time.
    pub(crate) since: Option<SystemTime>,
}

/// A line as it is in the file, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number.
    pub(crate) seq: u64,
    /// The JSON object.
    pub(crate) text: String,
}

/// A place in the audit. Holds no descriptor between two slices.
#[derive(Debug)]
pub(crate) struct Reader {
    dir: PathBuf,
    filter: Filter,
    /// Number of the next line.
    next: u64,
    /// The file that was read last, by the number of its first line, and how much of it.
    place: (u64, u64),
}

/// What a file has next.
enum Step {
    /// A line that is asked for.
    Line(Line),
    /// Another line.
    Other,
    /// No line: the next is in a later file.
    End,
}

/// What a filter looks at.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(rename = "@timestamp", borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    event: Event<'a>,
    #[serde(borrow, default)]
    user: Option<User<'a>>,
    #[serde(borrow, default)]
    job: Option<Job<'a>>,
    audit: Link,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Job<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    owner: Option<Cow<'a, str>>,
}

/// Whether lines of the broker's own may have this action.
pub(crate) fn is_own_action(action: &str) -> bool {
    OwnAction::ALL.iter().any(|own| own.name() == action)
}

impl Filter {
    /// What is asked, for the entry of who asks.
    pub(crate) fn in_words(&self) -> String {
        let words = [("owner", &self.owner), ("job", &self.job), ("verb", &self.action)];
        let words = words.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        words
            .fold("read the audit".to_owned(), |all, (name, value)| all + ", " + name + " " + value)
    }

    /// Whether no line between these two is new enough to be asked for.
    fn is_before(&self, first: &[u8], last: &[u8]) -> bool {
        let is_old = |line: &[u8]| {
            let line = serde_json::from_slice::<Members<'_>>(line).ok()?;
            Some(line.time()?.checked_add(CLOCK_SLACK)? < self.since?)
        };
        is_old(first) == Some(true) && is_old(last) == Some(true)
    }

    fn matches(&self, line: &Members<'_>) -> bool {
        let job = line.job.as_ref();
        let user = || line.user.as_ref().map(|user| &user.name);
        let owner = || job.and_then(|job| job.owner.as_ref()).or_else(user);
        let id = || job.and_then(|job| job.id.as_ref());
        self.owner.as_ref().is_none_or(|asked| owner().is_some_and(|owner| owner == asked))
            && self.job.as_ref().is_none_or(|asked| id().is_some_and(|id| id.starts_with(asked)))
            && self.action.as_ref().is_none_or(|asked| line.event.action == *asked)
            && self.since.is_none_or(|since| line.time().is_some_and(|time| time >= since))
    }
}

impl Members<'_> {
    fn time(&self) -> Option<SystemTime> {
        self.time.parse::<prost_types::Timestamp>().ok()?.try_into().ok()
    }
}

impl Reader {
    /// From the first line after the one of this number that is kept.
    pub(super) fn new(dir: &Path, filter: Filter, after: u64) -> Reader {
        Reader { dir: dir.into(), filter, next: after.saturating_add(1), place: (0, 0) }
    }

    /// Whether lines up to `head` have not been read.
    pub(crate) fn is_behind(&self, head: u64) -> bool {
        self.next <= head
    }

    /// Some of the lines up to `head`, a durable one; there may be further ones although none is found. Blocks for a
    /// moment.
    ///
    /// # Errors
    /// As open(2) and read(2); `InvalidData` for what is no line, or ends before `head`.
    pub(crate) fn slice(&mut self, head: u64) -> io::Result<Vec<Line>> {
        let (mut file, path) = match self.open() {
            // A rotation has just removed it: there is another that is now the oldest.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.open()?,
            opened => opened?,
        };
        if self.place.1 == 0
            && let Some(later) = self.after_old(&mut file)?
        {
            self.next = self.next.max(later);
            return Ok(Vec::new());
        }
        let (begin, mut room, mut found) = (self.place.1, FOUND, Vec::new());
        while self.is_behind(head) && self.place.1 - begin < SLICE && room > 0 {
            match self.line(&mut file, &path) {
                Ok(Step::Line(line)) => {
                    room = room.saturating_sub(line.text.len());
                    found.push(line);
                }
                Ok(Step::Other) => {}
                Ok(Step::End) => break,
                Err(_) if !found.is_empty() => break, // the next slice has it
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The file that has the next line, where that is expected.
    fn open(&mut self) -> io::Result<(BufReader<File>, PathBuf)> {
        let Some((first, path)) = self.file()? else {
            return Err(self.lacking(&self.dir.display()));
        };
        let mut file = File::open(&path)?;
        if self.place.0 != first {
            self.place = (first, 0);
            self.next = self.next.max(first); // older lines were removed: a line of the audit says so
        }
        file.seek(SeekFrom::Start(self.place.1))?;
        Ok((BufReader::with_capacity(1 << 16, file), path))
    }

    /// The number of the next file's first line, if no line of this file is new enough: two lines of it tell. What cannot
    /// be read of them is found when the file is read. The last file is always read: it grows.
    fn after_old(&self, file: &mut BufReader<File>) -> io::Result<Option<u64>> {
        if self.filter.since.is_none() {
            return Ok(None);
        }
        let files = files::list(&self.dir)?;
        let later = files.iter().map(|(first, _)| *first).find(|first| *first > self.place.0);
        let (Some(later), mut first) = (later, Vec::new()) else { return Ok(None) };
        file.take(MAX_LINE).read_until(b'\n', &mut first)?;
        let last = files::last_line(file.get_mut()).ok().and_then(|(last, _)| last);
        file.seek(SeekFrom::Start(0))?;
        let is_old = last.is_some_and(|last| self.filter.is_before(&first, &last));
        Ok(is_old.then_some(later))
    }

    fn line(&mut self, file: &mut BufReader<File>, path: &Path) -> io::Result<Step> {
        let mut line = Vec::new();
        let length = file.take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
        if length == 0 && self.file()?.is_some_and(|(first, _)| first > self.place.0) {
            return Ok(Step::End);
        }
        let text = line.strip_suffix(b"\n").ok_or_else(|| self.lacking(&path.display()))?;
        let line = self.judge(text, path)?;
        self.place.1 += length;
        Ok(line.map_or(Step::Other, Step::Line))
    }

    /// The line, if it is asked for.
    fn judge(&mut self, text: &[u8], path: &Path) -> io::Result<Option<Line>> {
        let members = members(text).map_err(|fault| {
            let (path, at) = (path.display(), self.place.1);
            invalid(format!("{path} has no line of an audit at byte {at}: {fault}"))
        })?;
        let seq = members.audit.seq;
        let is_new = seq >= self.next;
        self.next = self.next.max(seq.saturating_add(1));
        Ok((is_new && self.filter.matches(&members))
            .then(|| Line { seq, text: String::from_utf8_lossy(text).into_owned() }))
    }

    /// The file that has the next line, or the oldest.
    fn file(&self) -> io::Result<Option<(u64, PathBuf)>> {
        let files = files::list(&self.dir)?;
        let later = files.partition_point(|(first, _)| *first <= self.next);
        Ok(files.into_iter().nth(later.saturating_sub(1)))
    }

    fn lacking(&self, place: &dyn std::fmt::Display) -> io::Error {
        invalid(format!("{place} lacks line {}", self.next))
    }
}

fn members(line: &[u8]) -> serde_json::Result<Members<'_>> {
    serde_json::from_slice(line)
}

/// Whether a line is asked for; `None` for what is no line.
#[cfg(any(test, fuzzing))]
pub(super) fn is_asked_for(filter: &Filter, line: &[u8]) -> Option<bool> {
    members(line).ok().map(|members| filter.matches(&members))
}

fn invalid(fault: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{fault}; see \"job-broker audit verify\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::Head;
    use std::fs;

    const TIMES: [&str; 2] = ["2026-01-31T08:00:00.5Z", "2026-01-31T09:00:00Z"];

    /// Two files of two lines each.
    fn audit() -> tempfile::TempDir {
        let (dir, mut head) = (tempfile::tempdir().unwrap(), Head::EMPTY);
        for (time, owner) in TIMES.into_iter().zip(["ann", "bob"]) {
            let path = dir.path().join(format!("audit-{:020}.jsonl", head.seq + 1));
            let lines = [
                format!(
                    r#"{{"@timestamp":"{time}","event":{{"action":"stop"}},"user":{{"name":"root"}},"job":{{"id":"0198","owner":"{owner}"}}}}"#
                ),
                format!(
                    r#"{{"@timestamp":"{time}","event":{{"action":"start"}},"user":{{"name":"{owner}"}}}}"#
                ),
            ];
            let lines = lines.map(|line| head.append(&line, None) + "\n");
            fs::write(path, lines.concat()).unwrap();
        }
        dir
    }

    fn read(dir: &Path, filter: Filter, after: u64, head: u64) -> io::Result<Vec<u64>> {
        let (mut reader, mut found) = (Reader::new(dir, filter, after), Vec::new());
        while reader.is_behind(head) {
            found.extend(reader.slice(head)?.into_iter().map(|line| line.seq));
        }
        Ok(found)
    }

    #[test]
    fn lines_are_found_by_owner_job_action_and_time_across_files_and_after_any_of_them() {
        let dir = audit();
        let found = |filter: Filter, after, head| read(dir.path(), filter, after, head).unwrap();
        let word = |word: &str| Some(word.to_owned());
        assert_eq!(found(Filter::default(), 0, 4), [1, 2, 3, 4]);
        assert_eq!(found(Filter::default(), 1, 3), [2, 3]);
        assert_eq!(found(Filter { owner: word("ann"), ..Filter::default() }, 0, 4), [1, 2]);
        assert_eq!(found(Filter { job: word("019"), ..Filter::default() }, 0, 4), [1, 3]);
        assert_eq!(found(Filter { action: word("start"), ..Filter::default() }, 2, 4), [4]);
        let since = TIMES[1].parse::<prost_types::Timestamp>().unwrap().try_into().ok();
        assert_eq!(found(Filter { since, ..Filter::default() }, 0, 4), [3, 4]);
    }

    #[test]
    fn a_file_whose_first_and_last_line_are_too_old_is_passed_over_unread() {
        let dir = audit();
        let first = dir.path().join("audit-00000000000000000001.jsonl");
        let text = fs::read_to_string(&first).unwrap();
        let since = |time: &str| {
            let since = time.parse::<prost_types::Timestamp>().unwrap().try_into().ok();
            read(dir.path(), Filter { since, ..Filter::default() }, 0, 4)
        };
        // A line that cannot be read stands between the two that are looked at.
        let (one, two) = text.split_once('\n').unwrap();
        fs::write(&first, format!("{one}\nno line\n{two}")).unwrap();
        assert_eq!(since("2026-01-31T09:30:00Z").unwrap(), [0_u64; 0]);
        // Within the slack, and where one of the two is new or damaged, all is read.
        since("2026-01-31T08:59:00Z").unwrap_err();
        fs::write(&first, format!("no line\n{two}")).unwrap();
        since("2026-01-31T09:30:00Z").unwrap_err();
        let new = one.replace(TIMES[0], TIMES[1]);
        fs::write(&first, format!("{new}\n{two}")).unwrap();
        assert_eq!(since("2026-01-31T09:00:00Z").unwrap(), [1, 3, 4]);
        // The last file is read, however old it is.
        assert_eq!(since("2027-01-31T09:00:00Z").unwrap(), [0_u64; 0]);
    }

    #[test]
    fn what_was_removed_is_passed_over_and_what_is_no_line_or_missing_is_an_error() {
        let dir = audit();
        let all = || read(dir.path(), Filter::default(), 0, 4);
        let [first, last] = [1, 3].map(|first| dir.path().join(format!("audit-{first:020}.jsonl")));
        let text = fs::read_to_string(&last).unwrap();
        for damaged in [text.replace("event", "x"), text[..text.len() - 1].into(), String::new()] {
            fs::write(&last, damaged).unwrap();
            assert_eq!(all().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        fs::write(&last, text).unwrap();
        fs::remove_file(first).unwrap();
        assert_eq!(all().unwrap(), [3, 4]);
        fs::remove_file(last).unwrap();
        assert_eq!(all().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
