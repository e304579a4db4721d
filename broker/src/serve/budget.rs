//! The memory that clients can make the broker hold, and the accounts that are charged for it. No buffer for a client
//! may be unbounded: HTTP/2's windows bound what has no constant here.
//!
//! The worst case, in MiB:
//!
//! | what | a connection | an identity | all |
//! |---|---|---|---|
//! | requests that arrive, or whose call has not ended | 8 | 16 | 64 |
//! | their copies during reassembly (a buffer doubles as it grows) | 8 | 16 | 64 |
//! | encoded responses of unary calls that wait to be sent, for `ANSWER_TIME` at most | 16 | 16 | 64 |
//! | HTTP/2: a window of 1, a read buffer of 1, send buffers of 16 KiB x 100 | 3.6 | | |
//! | HTTP/2: a larger window, see `windows.rs` | 16 | 128 | 256 |
//! | headers: 8 KiB x 100; a streaming call keeps at most 1 KiB | 0.8 | | |
//!
//! Requests are charged for the bytes received, not for the announced length: a client that announces 2 MiB and sends
//! 5 bytes is charged 5. Decoding makes two more copies of a message, of one message on each thread.

use std::sync::Arc;
use std::time::Duration;

use crate::model::identity::Identity;
use crate::quota::kind::QuotaKind;
use crate::quota::{Exceeded, Permit, Quota, Quotas};

/// Concurrent calls of one connection (SETTINGS_MAX_CONCURRENT_STREAMS). Clients queue further calls.
pub(super) const STREAMS: u32 = 100;
/// Maximum bytes of one call's headers; gRPC libraries have the same default.
pub(super) const HEADERS: u32 = 8 << 10;
/// The timeout of one whole message, from when the broker starts to wait for it. The largest message needs 1.7
/// Mbit/s.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// The timeout of a response that is not small, and its extension for each 64 KiB: 0.5 Mbit/s. A client that exceeds
/// the timeout loses its connection.
pub(super) const ANSWER_TIME: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(1)];

/// Maximum bytes of requests: of one connection, of one identity, of all.
const REQUESTS: [u64; 3] = [8 << 20, 16 << 20, 64 << 20];
/// Maximum bytes of responses: of one identity, of all. A page of jobs has 3 MiB at most.
const ANSWERS: [u64; 2] = [16 << 20, 64 << 20];

/// The accounts of all connections.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Arc<Quota<Identity>>,
    answers: Arc<Quota<Identity>>,
}

/// The account of one connection.
#[derive(Debug, Clone)]
pub(super) struct Account {
    identity: Identity,
    connection: Arc<Quota<()>>,
    requests: Arc<Quota<Identity>>,
    answers: Arc<Quota<Identity>>,
}

/// The bytes of requests that are charged; dropping it releases them.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    connection: Permit<()>,
    identity: Permit<Identity>,
}

impl Budget {
    pub(super) fn new(quotas: &Quotas) -> Budget {
        let [_, own, all] = REQUESTS;
        let requests = quotas.counter(QuotaKind::RequestBytes, own, all);
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
    /// A charge of 0 bytes, for a request that has just begun.
    pub(super) fn open(&self) -> Result<Charge, Exceeded> {
        let connection = self.connection.take(&(), 0)?;
        Ok(Charge { bytes: 0, connection, identity: self.requests.take(&self.identity, 0)? })
    }

    /// Charges `bytes` of a response.
    pub(super) fn answer(&self, bytes: usize) -> Result<Permit<Identity>, Exceeded> {
        self.answers.take(&self.identity, bytes as u64)
    }
}

impl Charge {
    /// Charges `bytes` more.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.set(self.bytes + bytes)
    }

    /// Sets the charge to `bytes`. A decrease never fails. After a failure the charge can only be dropped.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.bytes = bytes;
        self.identity.resize(bytes as u64)?;
        self.connection.resize(bytes as u64)
    }
}

#[cfg(test)]
impl Account {
    /// Charges all that is left to the identity's requests, except `bytes`.
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
