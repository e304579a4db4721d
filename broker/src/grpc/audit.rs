//! ReadAudit: decodes the request, and streams the lines that the audit's reader finds. It must not decide who may read,
//! and has one slice of lines in memory at most.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::stream::{self, Stream};
use job_api::v1;
use tokio::sync::watch;
use tonic::Status;

use crate::audit::{Filter, Reader, is_own_action};
use crate::auth::{Caller, Verb};
use crate::grpc::status;
use crate::grpc::streams::Revoked;
use crate::jobs::shared::calls::Call;
use crate::jobs::supervisor::Supervisor;
use crate::model::identity::Identity;

/// Lines of the audit.
pub(super) type Lines = Pin<Box<dyn Stream<Item = Result<v1::AuditLine, Status>> + Send>>;

/// A reading under way.
pub(super) struct Reading {
    pub(super) supervisor: Supervisor,
    pub(super) caller: Caller,
    /// Its place among the calls.
    pub(super) _call: Call,
    /// Number of the last durable line; `None` while there is no audit.
    pub(super) durable: watch::Receiver<Option<u64>>,
    /// Goes on with lines to come.
    pub(super) follows: bool,
}

struct State {
    reading: Reading,
    /// `None` while a thread has it.
    reader: Option<Reader>,
    found: VecDeque<v1::AuditLine>,
    /// The last line to read for now.
    head: u64,
}

/// What is asked of the lines.
pub(super) fn filter(asked: &v1::ReadAuditRequest) -> Result<Filter, Status> {
    let owner = match asked.owner.as_str() {
        "" => None,
        owner => {
            let owner = Identity::new(owner).map_err(|fault| status::field("owner", fault))?;
            Some(owner.to_string())
        }
    };
    let is_of_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    if asked.job.len() > 36 || !asked.job.chars().all(is_of_id) {
        return Err(status::field("job", "is no id and no beginning of one".into()));
    }
    let verb = asked.verb.as_str();
    if !verb.is_empty() && !is_own_action(verb) {
        verb.parse::<Verb>().map_err(|fault| status::field("verb", fault))?;
    }
    let since = asked.since.map(TryInto::try_into).transpose();
    let since = since.map_err(|_| status::field("since", "is out of range".into()))?;
    let word = |word: &str| Some(word.to_owned()).filter(|word| !word.is_empty());
    let job = word(&asked.job.to_ascii_lowercase());
    Ok(Filter { owner, job, action: word(verb), since })
}

/// The lines that the reader finds, up to the last that is durable now, or without an end.
pub(super) fn lines(
    reading: Reading,
    reader: Reader,
    revoked: Revoked,
    closing: watch::Receiver<bool>,
) -> Lines {
    let head = reading.durable.borrow().unwrap_or_default();
    let state = State { reading, reader: Some(reader), found: VecDeque::new(), head };
    Box::pin(stream::unfold(Some((state, revoked, closing)), |all| async move {
        let (mut state, mut revoked, mut closing) = all?;
        let next = tokio::select! {
            biased;
            status = &mut revoked => Err(status),
            _ = closing.wait_for(|closing| *closing) => Err(status::shutting_down()),
            next = state.next() => next,
        };
        match next {
            Ok(Some(line)) => Some((Ok(line), Some((state, revoked, closing)))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl State {
    async fn next(&mut self) -> Result<Option<v1::AuditLine>, Status> {
        loop {
            if let Some(line) = self.found.pop_front() {
                return Ok(Some(line));
            }
            let Some(reader) = self.reader.take_if(|reader| reader.is_behind(self.head)) else {
                if !self.reading.follows || self.reading.durable.changed().await.is_err() {
                    return Ok(None);
                }
                self.head = self.reading.durable.borrow_and_update().unwrap_or_default();
                continue;
            };
            let Reading { supervisor, caller, .. } = &self.reading;
            let read = supervisor.read_audit(caller, reader, self.head).await;
            let (reader, lines) = read.map_err(|error| status::panicked(&error))?;
            self.reader = Some(reader);
            let lines = lines.map_err(|error| status::audit(&error))?;
            self.found =
                lines.into_iter().map(|l| v1::AuditLine { seq: l.seq, json: l.text }).collect();
        }
    }
}
