//! Patterns of the policy and of quotas: exact text, or a glob. Matching takes time proportional to text times pattern,
//! whatever either says; nothing here reads a file.

use std::fmt;

/// Maximum bytes of a pattern.
pub const MAX_PATTERN: usize = 256;
/// Maximum bytes of a text that a glob is compared with. A longer one matches only what says "anything".
const MAX_TEXT: usize = 4096;

/// What a star stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Any text.
    Text,
    /// `*` and `?` stop at a slash, `**` does not. The pattern begins with a slash, the text has no `..`.
    Path,
}

/// `make`, `ci-*`, `/srv/**`. A backslash makes the next character stand for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    source: Box<str>,
    syntax: Syntax,
    /// What a text begins with.
    prefix: Box<[u8]>,
    /// What follows; empty for exact text.
    rest: Box<[Token]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One byte, perhaps no slash.
    One {
        slash: bool,
    },
    /// Any number of them.
    Many {
        slash: bool,
    },
}

impl Token {
    fn takes(self, byte: u8) -> bool {
        match self {
            Token::Byte(own) => own == byte,
            Token::One { slash } | Token::Many { slash } => slash || byte != b'/',
        }
    }
}

impl Pattern {
    /// Matches every text of its syntax.
    pub fn any(syntax: Syntax) -> Pattern {
        let (source, prefix): (_, &[u8]) = match syntax {
            Syntax::Text => ("*", b""),
            Syntax::Path => ("/**", b"/"),
        };
        let rest = Box::new([Token::Many { slash: true }]);
        Pattern { source: source.into(), syntax, prefix: prefix.into(), rest }
    }

    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(source: &str, syntax: Syntax) -> Result<Pattern, String> {
        if source.len() > MAX_PATTERN {
            return Err(format!("has {} bytes; at most {MAX_PATTERN} are allowed", source.len()));
        }
        if syntax == Syntax::Path {
            check_path(source)?;
        }
        let tokens = tokens(source.as_bytes(), syntax)?;
        let literal = tokens.iter().position(|token| !matches!(token, Token::Byte(_)));
        let (prefix, rest) = tokens.split_at(literal.unwrap_or(tokens.len()));
        let bytes = prefix.iter().filter_map(|token| match token {
            Token::Byte(byte) => Some(*byte),
            Token::One { .. } | Token::Many { .. } => None,
        });
        Ok(Pattern { source: source.into(), syntax, prefix: bytes.collect(), rest: rest.into() })
    }

    /// The text that it is, unless it is a glob.
    pub fn exact(&self) -> Option<&str> {
        self.rest.is_empty().then(|| std::str::from_utf8(&self.prefix).ok())?
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.source
    }

    /// Whether it matches every text of its syntax: `*`, `**`, `/**`.
    pub fn is_any(&self) -> bool {
        let beginning: &[u8] = match self.syntax {
            Syntax::Text => b"", // "/*" is any absolute path, and no option
            Syntax::Path => b"/",
        };
        *self.prefix == *beginning && matches!(&*self.rest, [Token::Many { slash: true }])
    }

    /// Whether it matches the whole text.
    pub fn matches(&self, text: &str) -> bool {
        let Some(rest) = text.as_bytes().strip_prefix(&*self.prefix) else { return false };
        match &*self.rest {
            [] => rest.is_empty(),
            [Token::Many { slash: true }] => true,
            tokens => text.len() <= MAX_TEXT && run(tokens, rest),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Every state that can be reached is kept at once, so that no text makes it go back.
fn run(tokens: &[Token], text: &[u8]) -> bool {
    let mut states = [false; MAX_PATTERN + 1];
    states[0] = true;
    skip_stars(tokens, &mut states);
    for byte in text {
        let mut next = [false; MAX_PATTERN + 1];
        let mut alive = false;
        for (at, token) in tokens.iter().enumerate() {
            if states[at] && token.takes(*byte) {
                let stays = matches!(token, Token::Many { .. });
                next[if stays { at } else { at + 1 }] = true;
                alive = true;
            }
        }
        if !alive {
            return false;
        }
        skip_stars(tokens, &mut next);
        states = next;
    }
    states[tokens.len()]
}

/// A star may stand for nothing.
fn skip_stars(tokens: &[Token], states: &mut [bool; MAX_PATTERN + 1]) {
    for (at, token) in tokens.iter().enumerate() {
        if states[at] && matches!(token, Token::Many { .. }) {
            states[at + 1] = true;
        }
    }
}

fn tokens(source: &[u8], syntax: Syntax) -> Result<Vec<Token>, String> {
    let text = syntax == Syntax::Text;
    let mut all = Vec::new();
    let mut bytes = source.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        all.push(match byte {
            b'\\' => {
                let next = bytes.next().ok_or("ends with a backslash that stands for nothing")?;
                Token::Byte(next)
            }
            b'?' => Token::One { slash: text },
            b'*' => {
                let mut slash = text;
                while bytes.next_if_eq(&b'*').is_some() {
                    slash = true;
                }
                Token::Many { slash }
            }
            byte => Token::Byte(byte),
        });
    }
    Ok(all)
}

/// A path that names one place: absolute, without `.`, `..`, empty components or a slash at its end.
pub fn check_path(path: &str) -> Result<(), String> {
    let Some(rest) = path.strip_prefix('/') else { return Err("must begin with a slash".into()) };
    if path.contains('\0') {
        return Err("has a NUL byte".into());
    }
    let is_odd = |part: &str| matches!(part, "" | "." | "..");
    if !rest.is_empty() && rest.split('/').any(is_odd) {
        return Err("has an empty component, \".\" or \"..\"".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, syntax: Syntax, text: &str) -> bool {
        Pattern::parse(pattern, syntax).unwrap().matches(text)
    }

    #[test]
    fn a_star_of_a_path_stops_at_a_slash_and_two_do_not() {
        for (pattern, yes, no) in [
            ("/usr/bin/make", "/usr/bin/make", "/usr/bin/make2"),
            ("/srv/*/out", "/srv/a/out", "/srv/a/b/out"),
            ("/srv/**", "/srv/a/b", "/srv"),
            ("/srv/**/x", "/srv/a/b/x", "/srv/x/y"),
            ("/**", "/", "make"),
            ("/b?n", "/bin", "/b/n"),
            (r"/a\*", "/a*", "/ab"),
        ] {
            assert!(matches(pattern, Syntax::Path, yes), "{pattern} {yes}");
            assert!(!matches(pattern, Syntax::Path, no), "{pattern} {no}");
        }
    }

    #[test]
    fn a_star_of_a_text_takes_anything() {
        for (pattern, yes, no) in [
            ("ci-*", "ci-", "ci"),
            ("*", "", ""),
            ("V*=*", "VAR=/x=1", "XV=1"),
            ("-j?", "-j4", "-j16"),
            ("a*b*c", "axxbyybc", "axxbyyb"),
        ] {
            assert!(matches(pattern, Syntax::Text, yes), "{pattern} {yes}");
            assert!(pattern == "*" || !matches(pattern, Syntax::Text, no), "{pattern} {no}");
        }
    }

    #[test]
    fn what_names_no_one_place_is_no_path() {
        for path in ["make", "/a/../b", "/a//b", "/a/", "/a/./b", "/a\0"] {
            assert!(Pattern::parse(path, Syntax::Path).is_err(), "{path:?}");
        }
        assert!(Pattern::parse("x\\", Syntax::Text).is_err());
        assert!(Pattern::parse(&"x".repeat(257), Syntax::Text).is_err());
    }

    #[test]
    fn any_absolute_path_is_not_any_argument() {
        let is_any = |source, syntax| Pattern::parse(source, syntax).unwrap().is_any();
        assert!(is_any("*", Syntax::Text) && is_any("**", Syntax::Text));
        assert!(!is_any("/*", Syntax::Text) && !is_any("/**", Syntax::Text));
        assert!(is_any("/**", Syntax::Path) && !is_any("/*", Syntax::Path));
    }

    #[test]
    fn no_text_makes_a_glob_go_back() {
        let pattern = Pattern::parse(&"*a".repeat(127), Syntax::Text).unwrap();
        assert!(!pattern.matches(&("a".repeat(4000) + "b")));
        assert!(!pattern.matches(&"a".repeat(1 << 20)), "too long for a glob");
        assert!(matches("*", Syntax::Text, &"a".repeat(1 << 20)));
    }

    #[test]
    fn exact_text_is_told_from_a_glob() {
        let exact = |text| Pattern::parse(text, Syntax::Text).unwrap().exact().map(str::to_owned);
        assert_eq!(exact(r"a\*"), Some("a*".into()));
        assert_eq!(exact("a*"), None);
    }
}
