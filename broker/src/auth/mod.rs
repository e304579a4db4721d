//! Who may do what: pure functions, and the only door to a job. [`Authorized`] can be made here
//! alone, so whoever holds one has been judged.

use std::collections::HashSet;

use crate::model::identity::Identity;

/// The rules: an owner controls its own jobs, an admin everybody's.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    admins: HashSet<Identity>,
}

/// A caller whose role the policy has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    identity: Identity,
    role: Role,
}

/// What a caller may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its own jobs.
    User,
    /// All jobs.
    Admin,
}

/// Something that this caller may do or touch.
#[derive(Debug, Clone)]
#[must_use = "a verdict that nobody looks at protects nothing"]
pub struct Authorized<T> {
    caller: Caller,
    subject: T,
}

/// The caller may not know that this exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden;

impl Policy {
    /// These identities are admins.
    pub fn new(admins: impl IntoIterator<Item = Identity>) -> Policy {
        Policy { admins: admins.into_iter().collect() }
    }

    /// Gives an identity its role.
    pub fn caller(&self, identity: Identity) -> Caller {
        let role = if self.admins.contains(&identity) { Role::Admin } else { Role::User };
        Caller { identity, role }
    }
}

impl Caller {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it may see.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Everybody whom the broker lets in may start jobs, and owns them.
    pub fn start<T>(&self, spec: T) -> Authorized<T> {
        Authorized { caller: self.clone(), subject: spec }
    }

    /// Touching a job of `owner`, for reading and for control alike.
    ///
    /// # Errors
    /// [`Hidden`], which callers must answer exactly as if the job did not exist.
    pub fn touch<T>(&self, owner: &Identity, job: T) -> Result<Authorized<T>, Hidden> {
        if self.sees(owner) {
            Ok(Authorized { caller: self.clone(), subject: job })
        } else {
            Err(Hidden)
        }
    }

    /// Whether jobs of `owner` exist for this caller.
    pub fn sees(&self, owner: &Identity) -> bool {
        self.role == Role::Admin || self.identity == *owner
    }
}

impl<T> Authorized<T> {
    /// Who was judged.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What it may do or touch.
    pub fn subject(&self) -> &T {
        &self.subject
    }

    /// Both.
    pub fn into_parts(self) -> (Caller, T) {
        (self.caller, self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Identity {
        Identity::new(name).unwrap()
    }

    #[test]
    fn jobs_of_others_are_hidden_except_from_admins() {
        let policy = Policy::new([id("root")]);
        let (alice, root) = (policy.caller(id("alice")), policy.caller(id("root")));
        assert!(alice.touch(&id("alice"), ()).is_ok());
        assert_eq!(alice.touch(&id("bob"), ()).map(|_| ()), Err(Hidden));
        assert!(root.touch(&id("bob"), ()).is_ok());
    }

    #[test]
    fn nobody_is_an_admin_unless_named() {
        assert_eq!(Policy::default().caller(id("root")).role(), Role::User);
    }
}
