//! The limits of authenticated connections: for each identity, for all identities, and a reserve for admins. It must
//! never let other callers use up the reserve: an admin can connect when every other place is taken.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::{Policy, Role};
use crate::model::identity::Identity;
use crate::quota::{Exceeded, Permit, Quota};

/// Who is connected.
#[derive(Debug)]
pub(super) struct Members {
    all: Arc<Quota<Identity>>,
    admins: Arc<Quota<Identity>>,
    /// As of the last reload.
    policy: watch::Receiver<Policy>,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    /// Of peers that nobody knows yet.
    pub(super) lobby: u64,
    /// Of peers that are known.
    members: u64,
    /// Of one identity.
    own: u64,
    /// Of admins alone, beside these.
    admins: u64,
}

impl Places {
    /// Of so many descriptors for connections. A connection that does nothing has 40 KiB: with all its
    /// members connected, the broker has 160 MiB.
    pub(super) fn of(descriptors: u64) -> Places {
        let lobby = (descriptors / 4).clamp(4, 1024);
        let members = descriptors.saturating_sub(lobby).clamp(8, 4096);
        let own = (members / 4).clamp((members / 2).min(16), 512);
        Places { lobby, members, own, admins: 4 }
    }
}

impl Members {
    pub(super) fn new(places: Places, policy: watch::Receiver<Policy>) -> Members {
        let all = Quota::new("connections", places.own, places.members);
        Members { all, admins: Quota::new("connections", places.admins, places.admins), policy }
    }

    /// A place, until it is dropped.
    ///
    /// # Errors
    /// [`Exceeded`]; for an admin, too, when admins have taken what is theirs.
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
        let places = Places { lobby: 4, members: 3, own: 2, admins: 1 };
        let members = Members::new(places, policy);
        let mut held: Vec<_> = (0..2).map(|_| members.admit(&alice).unwrap()).collect();
        let refused = members.admit(&alice).unwrap_err().to_string();
        assert_eq!(refused, "you have reached the limit of 2 connections");
        held.push(members.admit(&root).unwrap());
        held.push(members.admit(&root).unwrap());
        assert!(members.admit(&root).is_err());
        held.pop();
        assert!(members.admit(&root).is_ok());
    }

    #[test]
    fn connections_have_no_more_descriptors_than_are_theirs() {
        for limit in [1024, 20_000, 524_288] {
            let share = Shares::of(limit).connections;
            let places = Places::of(share);
            assert!(places.lobby + places.members + places.admins <= share + 4, "{places:?}");
            assert!(places.own >= 16, "{places:?}");
        }
        assert_eq!(Places::of(0), Places { lobby: 4, members: 8, own: 4, admins: 4 });
    }
}
