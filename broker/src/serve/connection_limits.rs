//! The limits of authenticated connections: for each identity, for all identities, and a reserve for admins. Other
//! callers must never use the reserve: an admin can connect when every other slot is taken.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::{Policy, Role};
use crate::model::identity::Identity;
use crate::quota::kind::QuotaKind;
use crate::quota::{Exceeded, Permit, Quota, Quotas};

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
    connections: u64,
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
        let connections = descriptors.saturating_sub(preauth).clamp(8, 4096);
        let own = (connections / 4).clamp((connections / 2).min(16), 512);
        Capacity { preauth, connections, own, admins: 4 }
    }
}

impl ConnectionLimits {
    pub(super) fn new(
        capacity: Capacity,
        policy: watch::Receiver<Policy>,
        quotas: &Quotas,
    ) -> ConnectionLimits {
        let all = quotas.counter(QuotaKind::Connections, capacity.own, capacity.connections);
        ConnectionLimits {
            all,
            admins: Quota::new("connections", capacity.admins, capacity.admins),
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
        let capacity = Capacity { preauth: 4, connections: 3, own: 2, admins: 1 };
        let connection_limits = ConnectionLimits::new(capacity, policy, &Quotas::default());
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
            let capacity = Capacity::of(share);
            assert!(
                capacity.preauth + capacity.connections + capacity.admins <= share + 4,
                "{capacity:?}"
            );
            assert!(capacity.own >= 16, "{capacity:?}");
        }
        assert_eq!(Capacity::of(0), Capacity { preauth: 4, connections: 8, own: 4, admins: 4 });
    }
}
