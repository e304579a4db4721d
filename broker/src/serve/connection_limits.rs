//! The limits of authenticated connections: for each identity, for all identities, and a reserve for admins. Other
//! callers must never use the reserve: an admin can connect when every other slot is taken.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::{Policy, Role};
use crate::model::identity::Identity;
use crate::quota::{Exceeded, Permit, Quota};

/// The authenticated connections.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    all: Arc<Quota<Identity>>,
    admins: Arc<Quota<Identity>>,
    /// As of the last reload.
    policy: watch::Receiver<Policy>,
}

/// The maximum numbers of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Unauthenticated connections.
    pub(super) preauth: u64,
    /// Authenticated connections.
    connection_limits: u64,
    /// Connections of one identity.
    own: u64,
    /// The reserve for admins, in addition.
    admins: u64,
}

impl Capacity {
    /// Derived from the number of descriptors for connections. An idle connection takes 40 KiB: with all connections
    /// open, the broker has 160 MiB.
    pub(super) fn of(descriptors: u64) -> Capacity {
        let preauth = (descriptors / 4).clamp(4, 1024);
        let connection_limits = descriptors.saturating_sub(preauth).clamp(8, 4096);
        let own = (connection_limits / 4).clamp((connection_limits / 2).min(16), 512);
        Capacity { preauth, connection_limits, own, admins: 4 }
    }
}

impl ConnectionLimits {
    pub(super) fn new(places: Capacity, policy: watch::Receiver<Policy>) -> ConnectionLimits {
        let all = Quota::new("connections", places.own, places.connection_limits);
        ConnectionLimits {
            all,
            admins: Quota::new("connections", places.admins, places.admins),
            policy,
        }
    }

    /// A slot, held until it is dropped.
    ///
    /// # Errors
    /// [`Exceeded`]; also for an admin, if the reserve is used up.
    pub(super) fn admit(&self, identity: &Identity) -> Result<Permit<Identity>, Exceeded> {
        self.all.take(identity, 1).or_else(|exceeded| {
            let role = self.policy.borrow().caller(identity.clone()).role();
            let reserved = (role == Role::Admin).then(|| self.admins.take(identity, 1).ok());
            reserved.flatten().ok_or(exceeded)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::descriptors::Shares;

    #[test]
    fn one_identity_cannot_take_the_places_of_others_nor_all_those_of_admins() {
        let [alice, root] = ["alice", "root"].map(|name| Identity::new(name).unwrap());
        let policy = watch::channel(Policy::new([root.clone()])).1;
        let places = Capacity { preauth: 4, connection_limits: 3, own: 2, admins: 1 };
        let connection_limits = ConnectionLimits::new(places, policy);
        let mut held: Vec<_> = (0..2).map(|_| connection_limits.admit(&alice).unwrap()).collect();
        let refused = connection_limits.admit(&alice).unwrap_err().to_string();
        assert_eq!(refused, "you have reached the limit of 2 connections");
        held.push(connection_limits.admit(&root).unwrap());
        held.push(connection_limits.admit(&root).unwrap());
        assert!(connection_limits.admit(&root).is_err());
        held.pop();
        assert!(connection_limits.admit(&root).is_ok());
    }

    #[test]
    fn connections_have_no_more_descriptors_than_are_theirs() {
        for limit in [1024, 20_000, 524_288] {
            let share = Shares::of(limit).connections;
            let places = Capacity::of(share);
            assert!(
                places.preauth + places.connection_limits + places.admins <= share + 4,
                "{places:?}"
            );
            assert!(places.own >= 16, "{places:?}");
        }
        assert_eq!(
            Capacity::of(0),
            Capacity { preauth: 4, connection_limits: 8, own: 4, admins: 4 }
        );
    }
}
