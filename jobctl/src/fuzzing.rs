//! The fuzz targets of the command line: its files, what people type, and what other people's jobs print. In no program:
//! only tests and `cargo xtask fuzz` have them.

use std::time::{Duration, SystemTime};

use crate::cli::limits::parse_ulimit;
use crate::client::contexts::Config;
use crate::format::escape::{Escaper, escape, shell_quoted};
use crate::format::time::{absolute, both, parse_since, rfc3339_nanos};

/// The file of contexts.
pub fn contexts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(config) = toml::from_str::<Config>(&text) else { return };
    let saved = toml::to_string(&config).expect("text and tables");
    let again: Config = toml::from_str(&saved).expect("what was saved");
    assert_eq!(again.contexts, config.contexts);
    assert_eq!(again.current_context, config.current_context);
}

/// `--since` and `--ulimit`.
pub fn options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_000_000);
    if let Ok(since) = parse_since(&text, now) {
        assert!(!both(Some(&since), now).is_empty() && !absolute(Some(&since)).is_empty());
        let time = SystemTime::try_from(since).unwrap_or(now);
        assert!(!rfc3339_nanos(time).is_empty());
    }
    if let Ok(rlimit) = parse_ulimit(&text) {
        assert!(rlimit.soft <= rlimit.hard && text.starts_with(&rlimit.name));
    }
}

/// Output on its way to a terminal, its first byte the size of the pieces: no byte of it controls anything, however it is
/// cut.
pub fn terminal(data: &[u8]) {
    let Some((size, output)) = data.split_first() else { return };
    let whole = escaped(output, output.len().max(1));
    assert_eq!(escaped(output, usize::from(*size).max(1)), whole, "in pieces of {size}");
    let controls = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!whole.contains(|c| controls(c) && c != '\n' && c != '\t'), "{whole:?}");
    let line = String::from_utf8_lossy(output);
    assert!(!escape(&line).contains(controls));
    let words: Vec<String> = line.split('\n').map(str::to_owned).collect();
    assert_eq!(as_a_shell_reads(&shell_quoted(&words)), words);
}

/// The words of a command without expansions.
fn as_a_shell_reads(command: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        let last = words.len() - 1;
        match c {
            '\'' => is_quoted = !is_quoted,
            c if is_quoted => words[last].push(c),
            '\\' => words[last].extend(chars.next()),
            ' ' => words.push(String::new()),
            c => {
                assert!(!"$`;&|<>()\n\t*?[#~!\"{}".contains(c), "{c:?} means something");
                words[last].push(c);
            }
        }
    }
    words
}

fn escaped(output: &[u8], size: usize) -> String {
    let (mut escaper, mut out) = (Escaper::default(), Vec::new());
    output.chunks(size).for_each(|piece| escaper.push(piece, &mut out));
    escaper.finish(&mut out);
    String::from_utf8(out).expect("UTF-8, whatever the output is")
}

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! { contexts options terminal }
}
