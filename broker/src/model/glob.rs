//! Patterns for names: `*` is any text, `?` any character, all else itself. Pure, and linear in the text for each `*`:
//! a pattern cannot make the broker search for long.

/// Whether it is more than a name.
pub(crate) fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether the whole text matches.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from) = (0, 0);
    // The last `*`, and how much of the text it has taken.
    let mut star = None;
    while at < text.len() {
        match pattern.get(from) {
            Some('*') => {
                star = Some((from, at));
                from += 1;
            }
            Some(c) if *c == '?' || *c == text[at] => (at, from) = (at + 1, from + 1),
            _ => match star {
                Some((star_from, taken)) => {
                    star = Some((star_from, taken + 1));
                    (at, from) = (taken + 1, star_from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[from..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_character() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("ci-*", "ci-"),
            ("ci-*", "ci-7"),
            ("*-b?", "a-b-bc"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "b"),
            ("a", "aa"),
            ("", "a"),
            ("ci-*", "ci"),
            ("?", ""),
            ("*a", "ab"),
            ("a*b", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!(!matches(&"*a".repeat(30), &"a".repeat(29)), "and that quickly");
    }
}
