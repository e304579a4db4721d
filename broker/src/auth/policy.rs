//! The policy: gives an identity its role. An owner controls its own jobs, an admin all; nothing here
//! knows an action.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::call::CallContext;
use crate::model::identity::Identity;

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    admins: HashSet<Identity>,
}

/// A caller whose role the policy has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    identity: Identity,
    role: Role,
    /// `None` for a caller that did not come over the network.
    context: Option<Arc<CallContext>>,
}

/// Whose jobs a caller may see and control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its own.
    User,
    /// All.
    Admin,
}

impl Policy {
    /// These identities are admins.
    pub fn new(admins: impl IntoIterator<Item = Identity>) -> Policy {
        Policy { admins: admins.into_iter().collect() }
    }

    /// Gives an identity its role.
    pub fn caller(&self, identity: Identity) -> Caller {
        let role = if self.admins.contains(&identity) { Role::Admin } else { Role::User };
        Caller { identity, role, context: None }
    }
}

impl Caller {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The same caller, as it made this call.
    pub(crate) fn calling(self, context: Arc<CallContext>) -> Caller {
        Caller { context: Some(context), ..self }
    }

    /// Certificate, address, ids and reason of this call; `None` if it did not come over the network.
    pub(crate) fn context(&self) -> Option<&CallContext> {
        self.context.as_deref()
    }

    /// The owner whose jobs this caller may list; `None` for all owners.
    pub(crate) fn scope(&self) -> Option<&Identity> {
        (self.role == Role::User).then_some(&self.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_an_admin_unless_named() {
        let root = Identity::new("root").unwrap();
        assert_eq!(Policy::default().caller(root).role(), Role::User);
    }
}
