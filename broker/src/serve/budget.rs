//! How much memory clients may make the broker keep on their behalf, and the accounts that it is
//! charged to. Whatever is not bounded by what is written down here is bounded by HTTP/2's windows.
//!
//! The worst case, in MiB:
//!
//! | what | a connection | an identity | all |
//! |---|---|---|---|
//! | requests that come, or whose call has not ended | 8 | 16 | 64 |
//! | those again while they are put together (a buffer doubles as it grows) | 8 | 16 | 64 |
//! | answers of unary calls, encoded and not yet sent, for `ANSWER_TIME` at most | 16 | 16 | 64 |
//! | HTTP/2's own: a window of 1, a read buffer of 1, send buffers of 16 KiB x 100 | 3.6 | | |
//! | headers: 8 KiB x 100, those of a call that lasts are cut to 1 KiB | 0.8 | | |
//!
//! Requests are charged as they come, not as they are announced: whoever announces 2 MiB and sends 5
//! bytes has taken 5. What decodes a message makes two more copies of it, of one message for each thread.

use std::sync::Arc;
use std::time::Duration;

use crate::model::identity::Identity;
use crate::quota::{Exceeded, Permit, Quota};

/// Calls at a time on one connection. Clients wait for a turn by themselves.
pub(super) const STREAMS: u32 = 100;
/// Most bytes of the headers of one call; what gRPC's libraries take by default as well.
pub(super) const HEADERS: u32 = 8 << 10;
/// For the whole of a message, from when the broker waits for it, however it trickles. For the largest
/// that is 1.7 Mbit/s.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// For an answer that is not small to be taken, and for each 64 KiB of it again so much: 0.5 Mbit/s. Who does
/// not take it has no connection any more.
pub(super) const ANSWER_TIME: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(1)];

/// Most bytes of requests: of one connection, of one identity, in all.
const REQUESTS: [u64; 3] = [8 << 20, 16 << 20, 64 << 20];
/// Most bytes of answers: of one identity, in all. A page of jobs has 3 MiB at most.
const ANSWERS: [u64; 2] = [16 << 20, 64 << 20];

/// What all connections are charged to.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Arc<Quota<Identity>>,
    answers: Arc<Quota<Identity>>,
}

/// What one connection is charged to.
#[derive(Debug, Clone)]
pub(super) struct Account {
    identity: Identity,
    connection: Arc<Quota<()>>,
    requests: Arc<Quota<Identity>>,
    answers: Arc<Quota<Identity>>,
}

/// Bytes of requests that are kept; none when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    connection: Permit<()>,
    identity: Permit<Identity>,
}

impl Budget {
    pub(super) fn new() -> Budget {
        let [_, own, all] = REQUESTS;
        let requests = Quota::new("bytes of requests at a time", own, all);
        let [own, all] = ANSWERS;
        Budget { requests, answers: Quota::new("bytes of answers that were not read", own, all) }
    }

    pub(super) fn account(&self, identity: Identity) -> Account {
        let what = "bytes of requests at a time on one connection";
        Account {
            identity,
            connection: Quota::new(what, REQUESTS[0], u64::MAX),
            requests: Arc::clone(&self.requests),
            answers: Arc::clone(&self.answers),
        }
    }
}

impl Account {
    /// For a request of which nothing has come.
    pub(super) fn open(&self) -> Result<Charge, Exceeded> {
        let connection = self.connection.take(&(), 0)?;
        Ok(Charge { bytes: 0, connection, identity: self.requests.take(&self.identity, 0)? })
    }

    /// For an answer of so many bytes.
    pub(super) fn answer(&self, bytes: usize) -> Result<Permit<Identity>, Exceeded> {
        self.answers.take(&self.identity, bytes as u64)
    }
}

impl Charge {
    /// So many more bytes are kept.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.set(self.bytes + bytes)
    }

    /// So many are kept now. Fewer never fail. After a failure there is nothing to do but to drop it.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.bytes = bytes;
        self.identity.resize(bytes as u64)?;
        self.connection.resize(bytes as u64)
    }
}

#[cfg(test)]
impl Account {
    /// Takes all that its identity has left but for so many bytes.
    pub(super) fn requests_left(&self, bytes: u64) -> Permit<Identity> {
        self.requests.take(&self.identity, REQUESTS[1] - bytes).unwrap()
    }
}

#[cfg(test)]
impl Charge {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
