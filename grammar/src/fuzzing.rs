//! The fuzz targets of the contract: what people type, and the files of a client. In no program: only tests and
//! `cargo xtask fuzz` have them.

use crate::echo::{MOST, echo};
use crate::names::{check_env, check_name};
use crate::signals::{parse_signal, signal_name};
use crate::units::{
    MAX, or_max, parse_count, parse_cpus, parse_duration, parse_rate, parse_size, show_cpus,
    show_rate, show_size,
};

/// Sizes, durations, rates, CPUs, counts, signals, names, variables.
pub fn units(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let bounded =
        |fault: &str| assert!(fault.len() < 512 + 2 * text.len(), "{} bytes", fault.len());
    if let Ok(bytes) = parse_size(&text).inspect_err(|fault| bounded(fault)) {
        assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        assert!(show_size(bytes).len() < 16 && show_rate(bytes).len() < 16);
    }
    let size = text.trim();
    let size = size.strip_suffix("/s").unwrap_or(size);
    assert_eq!(parse_rate(&text).ok(), parse_size(size).ok());
    if let Ok(count) = parse_count(&text).inspect_err(|fault| bounded(fault)) {
        assert_eq!(parse_count(&count.to_string()), Ok(count));
        assert_eq!(or_max(&text, parse_count), Ok(count));
    }
    if let Ok(time) = parse_duration(&text).inspect_err(|fault| bounded(fault)) {
        let seconds = time.as_secs();
        let again = parse_duration(&format!("{seconds}s")).map(|time| time.as_secs());
        // It is read as a number of 53 bits, which is 285 million years.
        assert!(seconds >= 1 << 53 || again == Ok(seconds), "{seconds} s");
    }
    if let Ok(cpus) = parse_cpus(&text).inspect_err(|fault| bounded(fault)) {
        assert!(cpus.period_usec > 0 && (cpus.quota_usec >= 1000), "{cpus:?}");
        assert_eq!(parse_cpus(&cpus.to_string()), Ok(cpus), "{cpus}");
        assert!(show_cpus(cpus).len() < 32);
        assert!(cpus.quota_usec == MAX || cpus.quota_usec / cpus.period_usec <= 10_000);
    }
    if let Ok(signal) = parse_signal(&text).inspect_err(|fault| bounded(fault)) {
        assert!((1..=64).contains(&signal));
        assert!(signal == 32 || signal == 33 || parse_signal(&signal_name(signal)) == Ok(signal));
    }
    names(&text);
}

fn names(text: &str) {
    if check_name(text).is_ok() {
        assert!(!text.contains(|c: char| c.is_control() || c == '/' || c.is_whitespace()));
        assert!((1..=63).contains(&text.len()));
    }
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if check_env(name, value).is_ok() {
        assert!(!name.is_empty() && !name.contains('=') && !text.contains('\0'));
    }
    let shown = echo(text).to_string();
    assert!(shown.len() <= MOST + 40 && !shown.contains(|c: char| c.is_control()), "{shown}");
}

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! { units }
}
