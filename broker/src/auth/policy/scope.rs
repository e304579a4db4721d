//! Whose jobs a role reaches. Knows no job, only its owner.

use crate::model::glob::Pattern;
use crate::model::identity::Identity;

/// Whose jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The caller's.
    Own,
    /// Everybody's.
    All,
    /// Those of some owners.
    Owners {
        /// The caller's, too.
        own: bool,
        /// Whose names match one of these.
        owners: Vec<Pattern>,
    },
}

impl Scope {
    /// Whether it reaches the jobs of this owner, for this caller.
    pub(crate) fn covers(&self, caller: &Identity, owner: &Identity) -> bool {
        match self {
            Scope::All => true,
            Scope::Own => caller == owner,
            Scope::Owners { own, owners } => {
                (*own && caller == owner) || owners.iter().any(|name| name.matches(owner.as_str()))
            }
        }
    }
}

/// The owners whose jobs a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListScope {
    /// Nobody.
    Nobody,
    /// One, by whom finished jobs are indexed.
    Owner(Identity),
    /// All.
    All,
    /// Those that one of these scopes reaches.
    Some {
        /// The caller.
        caller: Identity,
        /// Of its roles.
        scopes: Vec<Scope>,
    },
}

impl ListScope {
    /// Of a caller whose roles have these scopes.
    pub(crate) fn of<'a>(caller: &Identity, scopes: impl Iterator<Item = &'a Scope>) -> ListScope {
        let scopes: Vec<_> = scopes.cloned().collect();
        if scopes.contains(&Scope::All) {
            ListScope::All
        } else if scopes.is_empty() {
            ListScope::Nobody
        } else if scopes.iter().all(|scope| *scope == Scope::Own) {
            ListScope::Owner(caller.clone())
        } else {
            ListScope::Some { caller: caller.clone(), scopes }
        }
    }

    /// Whether the jobs of this owner are shown.
    pub(crate) fn covers(&self, owner: &Identity) -> bool {
        match self {
            ListScope::Nobody => false,
            ListScope::All => true,
            ListScope::Owner(own) => own == owner,
            ListScope::Some { caller, scopes } => {
                scopes.iter().any(|scope| scope.covers(caller, owner))
            }
        }
    }
}
