//! The names that go into certificates: parsed once, correct afterwards.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::NameError;

/// The scheme of identities, with its separator.
pub(crate) const SCHEME: &str = "job://";

/// The space in which user names are unique: 1 to 63 of `a-z 0-9 . _ -`, starting with a letter
/// or digit (the characters of a SPIFFE trust domain; 63 fits the Organization's bound of 64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustDomain(String);

impl TrustDomain {
    /// The SAN URI by which a CA certificate remembers its trust domain.
    pub(crate) fn uri(&self) -> String {
        format!("{SCHEME}{self}")
    }

    /// The SAN URI of a user.
    pub(crate) fn identity(&self, user: &UserName) -> String {
        format!("{SCHEME}{self}/{user}")
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        check("trust domain", s, "a-z 0-9 . _ -", allowed)?;
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user: 1 to 63 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit, so that it is a path
/// segment of a URI, a file name and a Common Name without any quoting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserName(String);

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        check("user name", s, "A-Z a-z 0-9 . _ -", allowed)?;
        Ok(Self(s.to_owned()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(
    what: &'static str,
    s: &str,
    set: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    let name = || s.to_owned();
    if s.is_empty() {
        return Err(NameError::Empty { what, allowed: set });
    }
    if let Some((at, found)) = s.chars().enumerate().find(|(_, c)| !is_allowed(*c)) {
        let position = at + 1;
        return Err(NameError::Character { what, name: name(), found, position, allowed: set });
    }
    if !s.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(NameError::Start { what, name: name() });
    }
    if s.len() > 63 {
        return Err(NameError::Length { what, name: name() });
    }
    Ok(())
}

/// Checks a host name for a SAN (RFC 1123 and `_`; a `*` may stand for the first label).
///
/// # Errors
/// Names the label that is wrong; an address is sent to `--ip`, because TLS never looks for
/// addresses among DNS names.
pub(crate) fn check_dns(name: &str) -> Result<(), NameError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Err(NameError::Address(address));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    if name.len() > 253 {
        return Err(NameError::DnsLength(name.to_owned()));
    }
    for label in host.split('.') {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_label = (1..=63).contains(&label.len())
            && label.chars().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-');
        if !is_label {
            return Err(NameError::DnsLabel { name: name.to_owned(), label: label.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: FromStr<Err = NameError> + fmt::Debug>(s: &str) -> String {
        s.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn user_names_of_the_allowed_shape_are_taken() {
        for name in ["a", "user-a", "Ann.Lee_2", "0", &"x".repeat(63)] {
            assert_eq!(name.parse::<UserName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_refused_user_name_is_told_what_is_wrong_with_it() {
        assert!(refusal::<UserName>("").contains("is empty"));
        assert!(refusal::<UserName>("a/b").contains("has '/' at position 2"));
        assert!(refusal::<UserName>("zoë").contains("has 'ë' at position 3"));
        assert!(refusal::<UserName>("a\nb").contains(r"has '\n' at position 2"));
        assert!(refusal::<UserName>("..").contains("must start with"));
        assert!(refusal::<UserName>("-x").contains("must start with"));
        assert!(refusal::<UserName>(&"x".repeat(64)).contains("64 characters: at most 63"));
    }

    #[test]
    fn a_trust_domain_is_lower_case_and_has_no_path() {
        let domain: TrustDomain = "prod.example.org".parse().unwrap();
        assert_eq!(domain.uri(), "job://prod.example.org");
        assert_eq!(domain.identity(&"ann".parse().unwrap()), "job://prod.example.org/ann");
        assert!(refusal::<TrustDomain>("Prod").contains("has 'P' at position 1"));
        assert!(refusal::<TrustDomain>("a/b").contains("has '/'"));
    }

    #[test]
    fn dns_names_are_hosts_and_wildcards_but_not_addresses() {
        for good in ["localhost", "a.example.org", "*.example.org", "host_1"] {
            check_dns(good).unwrap();
        }
        for bad in ["", "a..b", "a.", "-a", "a-", "a b", "a.*.b", "*", "zoë", &"x".repeat(64)] {
            assert!(check_dns(bad).is_err(), "{bad:?} was taken");
        }
        for address in ["127.0.0.1", "::1"] {
            assert!(check_dns(address).unwrap_err().to_string().contains("--ip"));
        }
    }
}
