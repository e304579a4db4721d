//! The certificate of a live connection: judged again after each reload and at its end. It must end what is revoked,
//! expired or no longer signed by a trusted authority, and nothing for a list that was not renewed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;

use crate::grpc::{PeerResult, transport_status};
use crate::model::identity;
use crate::model::identity::Identity;
use crate::serve::tls::Tls;
use crate::serve::trust::refusal::Refusal;
use crate::serve::trust::{Trust, system_time};

/// A client's chain, and what is in force.
pub(super) struct Live {
    /// Leaf first.
    chain: Vec<CertificateDer<'static>>,
    in_force: watch::Receiver<Tls>,
    valid_until: SystemTime,
}

/// Why a live connection is ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Refused(Refusal),
    #[error("the client certificate names {0:?} by the new configuration: connect again")]
    Renamed(String),
}

/// The clock is looked at this often: timers do not follow a clock that is set, or a host that slept.
const CLOCK: Duration = Duration::from_secs(60);

impl Live {
    /// `in_force` is marked as seen with the configuration of the handshake.
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, in_force: watch::Receiver<Tls>) -> Live {
        Live { chain, in_force, valid_until: SystemTime::UNIX_EPOCH }
    }

    /// The peer, by these authorities.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn judge(&mut self, trust: &Trust) -> Result<PeerResult, Refusal> {
        let Some((leaf, intermediates)) = self.chain.split_first() else {
            return Err(webpki::Error::UnknownIssuer.into());
        };
        let accepted = trust.judge(leaf, intermediates, UnixTime::now())?;
        self.valid_until = system_time(accepted.valid_until);
        Ok(Arc::new(identity::peer(leaf, &accepted.naming).map(Arc::new)))
    }

    /// Returns once this connection of `identity` must end.
    pub(super) async fn refused(&mut self, identity: &Identity) -> Fault {
        loop {
            tokio::select! {
                changed = self.in_force.changed() => if changed.is_err() {
                    std::future::pending().await // the broker ends
                },
                () = at(self.valid_until) => {}
            }
            let trust = Arc::clone(&self.in_force.borrow_and_update().trust);
            match self.judge(&trust).as_ref().map(Arc::as_ref) {
                Ok(Ok(peer)) if peer.identity == *identity => {}
                Ok(Ok(peer)) => return Fault::Renamed(peer.identity.to_string()),
                Ok(Err(e)) => return Fault::Renamed(format!("nobody ({e})")),
                // It was looked at when the list was current; a list that somebody forgot ends nobody's work.
                Err(refusal) if refusal.is_of_lists() && SystemTime::now() < self.valid_until => {}
                Err(refusal) => return Fault::Refused(refusal.clone()),
            }
        }
    }
}

/// Whose connection was ended because a list revokes its certificate: the number of that, and since when, in seconds
/// since 1970.
pub(crate) type RevokedPeer = (Identity, String, u64);

impl Fault {
    /// The peer, if its own certificate or one of its chain is revoked.
    pub(super) fn revoked(&self, identity: &Identity) -> Option<RevokedPeer> {
        match self {
            Fault::Refused(Refusal::Revoked { serial, entry, .. }) => {
                Some((identity.clone(), serial.to_string(), entry.date().as_secs()))
            }
            _ => None,
        }
    }

    /// For programs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Fault::Refused(refusal) => refusal.reason(),
            Fault::Renamed(_) => "IDENTITY_CHANGED",
        }
    }

    pub(super) fn status(&self) -> Status {
        transport_status::certificate_refused(self.reason(), self)
    }
}

/// Returns once this host's clock is past the time, in seconds.
async fn at(time: SystemTime) {
    // A certificate is valid until and including its last second.
    let end = time + Duration::from_secs(1);
    while let Ok(left) = end.duration_since(SystemTime::now()) {
        sleep(left.min(CLOCK)).await;
    }
}
