//! Abridges long arguments and environments for memory and lists. Never writes: `spec.json` has all of
//! them, up to 1 MiB.

use std::collections::BTreeMap;

use crate::model::spec::{JobSpec, Whole};

/// Bytes that are kept of the arguments, and of the names of the environment.
const KEPT: usize = 1024;
/// Counted for each beside its bytes, so that a million empty ones are not kept.
const EACH: usize = 8;

impl JobSpec {
    /// Lets go of all but the beginning, and of the environment's values.
    pub fn abridge(&mut self) {
        if is_long(&self.argv) || is_long(self.env.keys()) {
            *self = self.abridged();
        } else {
            self.env.values_mut().for_each(String::clear);
        }
    }

    /// The same as a copy, which costs no more than what is kept.
    pub fn abridged(&self) -> JobSpec {
        let own = || Whole {
            arguments: self.argv.len(),
            argument_bytes: self.argv.iter().map(String::len).sum(),
            variables: self.env.len(),
        };
        let is_long = is_long(&self.argv) || is_long(self.env.keys());
        let names = beginning(self.env.keys()).into_iter();
        JobSpec {
            argv: beginning(&self.argv),
            env: names.map(|name| (name, String::new())).collect::<BTreeMap<_, _>>(),
            working_directory: self.working_directory.clone(),
            run_as: self.run_as.clone(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            output_policy: self.output_policy,
            stdin: self.stdin,
            limits: self.limits.clone(),
            by_default: self.by_default.clone(),
            isolation: self.isolation.clone(),
            whole: self.whole.or_else(|| is_long.then(own)),
        }
    }
}

fn is_long<'a>(texts: impl IntoIterator<Item = &'a String>) -> bool {
    let mut left = KEPT;
    texts.into_iter().any(|text| match left.checked_sub(text.len() + EACH) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}

/// As many as fit, and the beginning of the next; of the first at least the beginning.
fn beginning<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let (mut kept, mut left) = (Vec::new(), KEPT);
    for text in texts {
        if let Some(rest) = left.checked_sub(text.len() + EACH) {
            left = rest;
            kept.push(text.clone());
            continue;
        }
        let mut end = text.len().min(left);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        kept.extend((end > 0).then(|| text[..end].to_owned()));
        break;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_is_short_stays_whole() {
        let all = texts(&["sh", "-c", "", "exit 3"]);
        assert!(!is_long(&all));
        assert_eq!(beginning(&all), all);
    }

    #[test]
    fn of_what_is_long_the_first_kibibyte_is_kept_in_whole_characters() {
        let long = "ä".repeat(1000);
        let all = texts(&["sh", "-c", &long, "x"]);
        assert!(is_long(&all));
        let kept = beginning(&all);
        assert_eq!((kept.len(), &kept[..2]), (3, &all[..2]));
        assert!(long.starts_with(&kept[2]) && (990..=1004).contains(&kept[2].len()), "{kept:?}");
        let many = vec![String::new(); 100_000];
        assert!(is_long(&many) && beginning(&many).len() <= KEPT / EACH);
    }
}
