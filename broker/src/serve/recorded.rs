//! What connections leave in the audit: those that are refused, and those that are ended for their certificate. It must
//! not let a peer write as many lines as it makes connections.

use std::fmt::Display;
use std::net::SocketAddr;

use crate::audit::{Audit, Entry, OwnAction, Phase};
use crate::model::identity::Peer;
use crate::serve::live::Fault;
use crate::serve::trust::refusal::Refusal;

/// A connection that was refused for its certificate.
pub(super) fn refused(audit: &Audit, from: SocketAddr, refusal: &Refusal) {
    audit.note_unverified(|| denied(from).error(refusal.reason(), &refusal.to_string()));
}

/// A connection whose certificate is accepted and names nobody.
pub(super) fn nameless(audit: &Audit, from: SocketAddr, fault: impl Display) {
    audit.note_unverified(|| denied(from).error("NO_IDENTITY", &fault.to_string()));
}

/// A connection that was one too many of its identity.
pub(super) fn one_too_many(audit: &Audit, from: SocketAddr, peer: &Peer, fault: impl Display) {
    audit.note_bounded(&peer.identity, || {
        let entry = denied(from).by_name(peer.identity.as_str()).certificate(peer);
        entry.error("QUOTA_EXCEEDED", &fault.to_string())
    });
}

/// A connection that was open. There are no more of these than connections were admitted, and none comes again with
/// this certificate.
pub(super) fn ended(audit: &Audit, from: SocketAddr, peer: &Peer, fault: &Fault) {
    let entry =
        Entry::own(Phase::Broker, OwnAction::ConnectionEnd).category("network").address(from);
    let entry = entry.by_name(peer.identity.as_str()).certificate(peer);
    audit.note(&entry.error(fault.reason(), &fault.to_string()));
}

fn denied(from: SocketAddr) -> Entry {
    Entry::own(Phase::Denied, OwnAction::Connection).category("network").address(from)
}
