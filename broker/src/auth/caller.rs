//! Who calls, with the roles that the policy gives it. Nothing here judges a request.

use std::fmt::Display;
use std::sync::Arc;

use crate::audit::{Audit, Entry, Phase};
use crate::auth::action::{Verb, Verbs};
use crate::auth::policy::scope::ListScope;
use crate::auth::policy::{Policy, PolicyRole};
use crate::model::call::CallContext;
use crate::model::identity::Identity;

/// A caller whose roles the policy has decided. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    identity: Identity,
    roles: Arc<[Arc<PolicyRole>]>,
    /// What its roles allow, on some job at least, and none denies.
    verbs: Verbs,
    /// `None` for a caller that did not come over the network.
    context: Option<Arc<CallContext>>,
    audit: Audit,
}

/// Whether a caller has the places that are kept for admins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has not.
    User,
    /// It has: a role allows the verb `admin`.
    Admin,
}

impl Policy {
    /// Gives an identity its roles.
    pub fn caller(&self, identity: Identity) -> Caller {
        let roles = self.roles_of(&identity);
        let allowed = roles.iter().fold(Verbs::default(), |all, role| all.and(role.allow));
        let denied = roles.iter().fold(Verbs::default(), |all, role| all.and(role.deny));
        let verbs = allowed.without(denied);
        Caller { identity, roles: roles.into(), verbs, context: None, audit: Audit::default() }
    }
}

impl Caller {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it is an admin.
    pub fn role(&self) -> Role {
        if self.verbs.has(Verb::Admin) { Role::Admin } else { Role::User }
    }

    /// Its roles, in the order in which they are asked.
    pub(crate) fn roles(&self) -> &[Arc<PolicyRole>] {
        &self.roles
    }

    /// Whether a role allows the verb, on some job at least, and none denies it.
    pub(crate) fn has(&self, verb: Verb) -> bool {
        self.verbs.has(verb)
    }

    /// Whether one of its roles demands a reason for the verb.
    pub(crate) fn must_give_reason(&self, verb: Verb) -> bool {
        self.roles.iter().any(|role| role.reason_required.has(verb))
    }

    /// The same caller, as it made this call, and where the audit of it is written.
    pub(crate) fn calling(self, context: Arc<CallContext>, audit: Audit) -> Caller {
        Caller { context: Some(context), audit, ..self }
    }

    /// Where the audit of what this caller does is written.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// An entry of what this caller does.
    pub(crate) fn entry(&self, phase: Phase, action: impl Display) -> Entry {
        let roles = self.roles.iter().map(|role| role.name.to_string());
        Entry::new(phase, action).by(&self.identity, roles.collect(), self.context())
    }

    /// The same caller, as it made an earlier call.
    pub(crate) fn made_by(self, earlier: &Caller) -> Caller {
        Caller { context: earlier.context.clone(), audit: earlier.audit.clone(), ..self }
    }

    /// Certificate, address, ids and reason of this call; `None` if it did not come over the network.
    pub(crate) fn context(&self) -> Option<&CallContext> {
        self.context.as_deref()
    }

    /// The owners whose jobs this caller may list.
    pub(crate) fn list_scope(&self) -> ListScope {
        let seeing =
            self.roles.iter().filter(|role| self.has(Verb::View) && role.allow.has(Verb::View));
        ListScope::of(&self.identity, seeing.map(|role| &role.scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_an_admin_unless_named() {
        let root = Identity::new("root").unwrap();
        assert_eq!(Policy::default().caller(root.clone()).role(), Role::User);
        assert_eq!(Policy::new([root.clone()]).caller(root).role(), Role::Admin);
    }
}
