//! One call: the connection it came on, its ids, and the reason that the caller gave. The audit names all of them; nothing
//! here decides anything.

use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::model::identity::Peer;

/// Maximum bytes of a reason.
pub(crate) const MAX_REASON: usize = 512;
/// Bytes that are kept of a client's own request id.
pub(crate) const KEPT_CLIENT_ID: usize = 128;

/// Where a call came from, and its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The peer's address.
    pub address: SocketAddr,
    /// Chosen by the broker, so it is unique; a UUID of version 7, so ids sort by time.
    pub request_id: Uuid,
}

/// What is known of a call beside what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallContext {
    /// As its certificate says.
    pub peer: Arc<Peer>,
    /// The peer's address.
    pub address: SocketAddr,
    /// See [`Origin`].
    pub request_id: Uuid,
    /// The client's own `x-request-id`, at most [`KEPT_CLIENT_ID`] bytes of it. Neither unique nor trusted.
    pub client_request_id: Option<Box<str>>,
    /// Why, in the caller's words: at most [`MAX_REASON`] bytes.
    pub reason: Option<Box<str>>,
}

impl Origin {
    /// Of a new call.
    pub(crate) fn new(address: SocketAddr) -> Origin {
        Origin { address, request_id: Uuid::now_v7() }
    }
}
