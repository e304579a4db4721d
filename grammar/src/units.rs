//! Sizes, durations, rates and CPUs as people type them, and as they read them.

use std::fmt;
use std::time::Duration;

/// The kernel's "max" in the contract: no limit.
pub const MAX: u64 = u64::MAX;

/// Reads `max` as [`MAX`], and anything else with `parse`.
///
/// # Errors
/// Those of `parse`.
pub fn or_max(text: &str, parse: impl FnOnce(&str) -> Result<u64, String>) -> Result<u64, String> {
    if text.trim() == "max" { Ok(MAX) } else { parse(text) }
}

/// Reads `90`, `90s`, `500ms`, `1h30m`, `2d`; a bare number is seconds.
///
/// ```
/// use std::time::Duration;
///
/// use job_grammar::units::parse_duration;
///
/// assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
/// assert_eq!(parse_duration("90"), parse_duration("90s"));
/// assert!(parse_duration("soon").is_err());
/// ```
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("\"{text}\" is not a duration, e.g. 30s, 500ms, 1h30m, 2d");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(fault());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "" if tail.is_empty() && number.len() == text.trim().len() => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(fault()),
        };
        let number: f64 = number.parse().map_err(|_| fault())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| fault())?;
        total = total.checked_add(part).ok_or_else(fault)?;
        rest = tail;
    }
    Ok(total)
}

/// Reads `4096`, `64k`, `256M`, `1.5GiB`: powers of 1024, as docker and systemd take them.
///
/// ```
/// use job_grammar::units::{MAX, or_max, parse_size, show_size};
///
/// assert_eq!(parse_size("256M"), Ok(256 << 20));
/// assert_eq!(show_size(256 << 20), "256 MiB");
/// assert_eq!(or_max("max", parse_size), Ok(MAX));
/// ```
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let fault = || format!("\"{text}\" is not a size in bytes, e.g. 4096, 64K, 256M, 1.5G");
    let text_ = text.trim();
    let digits = text_.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_.len());
    let (number, unit) = text_.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(fault()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(fault);
    }
    let number: f64 = number.parse().map_err(|_| fault())?;
    let bytes = number * (1u64 << shift) as f64;
    if bytes >= u64::MAX as f64 { Err(fault()) } else { Ok(bytes as u64) }
}

/// Reads a whole number: how many processes, a weight, operations per second.
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let text_ = text.trim();
    let fault = || format!("\"{text}\" is not a whole number, e.g. 100");
    // Rust's own parser takes a sign.
    if text_.starts_with('+') { Err(fault()) } else { text_.parse().map_err(|_| fault()) }
}

/// Reads bytes per second: `5000000`, `5M`, `5MB/s`; sizes as [`parse_size`] reads them.
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.trim();
    let size = size.strip_suffix("/s").unwrap_or(size);
    parse_size(size)
        .map_err(|_| format!("\"{text}\" is not a rate in bytes per second, e.g. 500K, 5M, 5MB/s"))
}

/// `5 MiB/s`.
pub fn show_rate(bytes_per_second: u64) -> String {
    format!("{}/s", show_size(bytes_per_second))
}

/// A share of CPU time in the terms of cpu.max (cgroup-v2.rst): `quota_usec` in each `period_usec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// Microseconds of CPU time; [`MAX`] is no limit.
    pub quota_usec: u64,
    /// Microseconds; not 0.
    pub period_usec: u64,
}

impl Cpus {
    /// No limit.
    pub const MAX: Cpus = Cpus { quota_usec: MAX, period_usec: 100_000 };
}

/// `0.5`, `2`, `max`: what [`parse_cpus`] reads.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quota_usec == MAX {
            return f.write_str("max");
        }
        let number = format!("{:.6}", self.quota_usec as f64 / self.period_usec as f64);
        f.write_str(number.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// `0.5 CPUs`, `1 CPU`, `no limit`.
pub fn show_cpus(cpus: Cpus) -> String {
    match cpus.to_string().as_str() {
        "max" => "no limit".into(),
        "1" => "1 CPU".into(),
        number => format!("{number} CPUs"),
    }
}

/// The kernel's default of 100 ms, and what a small share needs: it takes no quota below 1 ms, and
/// no period above 1 s.
const PERIODS: [u64; 4] = [100_000, 200_000, 500_000, 1_000_000];
const SHORTEST_QUOTA: f64 = 1_000.0;
/// More CPUs than any host has, and a quota that the contract still takes.
const MOST_CPUS: f64 = 10_000.0;

/// Reads `0.5`, `500m` (thousandths), `2`, `max`; from 0.001. The period is the kernel's default
/// where it can be, else the shortest in which the quota is long enough.
///
/// ```
/// use job_grammar::units::parse_cpus;
///
/// let half = parse_cpus("500m")?;
/// assert_eq!((half.quota_usec, half.period_usec), (50_000, 100_000));
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// A sentence that names the text and shows the form, or the range and its reason.
pub fn parse_cpus(text: &str) -> Result<Cpus, String> {
    let text_ = text.trim();
    if text_ == "max" {
        return Ok(Cpus::MAX);
    }
    let fault = || format!("\"{text}\" is not a number of CPUs, e.g. 0.5, 500m, 2");
    let (number, parts) = text_.strip_suffix('m').map_or((text_, 1.0), |milli| (milli, 1_000.0));
    // Rust's own parser takes signs, exponents, "inf" and "nan".
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(fault());
    }
    let cpus = number.parse::<f64>().map_err(|_| fault())? / parts;
    if cpus > MOST_CPUS {
        return Err(format!("\"{text}\" is more than {MOST_CPUS} CPUs"));
    }
    let quota = |period: u64| (cpus * period as f64).round();
    match PERIODS.into_iter().find(|period| quota(*period) >= SHORTEST_QUOTA) {
        Some(period) => Ok(Cpus { quota_usec: quota(period) as u64, period_usec: period }),
        None => Err(format!(
            "\"{text}\" is less than 0.001 CPUs (1 ms in each second), and the kernel takes no less"
        )),
    }
}

/// `0 B`, `1.5 KiB`, `20 MiB`: three digits at most before the unit.
pub fn show_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text =
        if unit == 0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases = [
            ("90", 90_000),
            ("1.5s", 1_500),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "1x", "-1s", "1h30", "1e400s", ".", "99999999999999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        let cases = [("4096", 4096), ("64k", 65_536), ("1.5G", 1_610_612_736), ("1GiB", 1 << 30)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "x", "-1", "1Q", "99999999999999999999", "20000000T", "0x10"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(20 << 20), "20 MiB");
    }

    #[test]
    fn counts_and_rates_are_read_with_and_without_their_units() {
        assert_eq!(parse_count("100"), Ok(100));
        for bad in ["", "-1", "+1", "1.5", "many", "max", "99999999999999999999"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
        let cases = [("5000", 5_000), ("5M", 5 << 20), ("5MB/s", 5 << 20), ("1.5k/s", 1_536)];
        for (text, rate) in cases {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for bad in ["", "/s", "5/m", "fast", "-5M"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(show_rate(5 << 20), "5 MiB/s");
    }

    #[test]
    fn max_takes_a_limit_away_and_nothing_else_does() {
        assert_eq!(or_max("max", parse_size), Ok(MAX));
        assert_eq!(or_max("1k", parse_size), Ok(1024));
        assert!(or_max("maximum", parse_size).is_err());
    }

    #[test]
    fn cpus_are_read_as_quota_and_period() {
        let cases = [
            ("0.5", 50_000, 100_000),
            ("500m", 50_000, 100_000),
            ("2", 200_000, 100_000),
            (".25", 25_000, 100_000),
            ("1.5", 150_000, 100_000),
            ("0.01", 1_000, 100_000),
            ("10000", 1_000_000_000, 100_000),
            ("max", MAX, 100_000),
        ];
        for (text, quota_usec, period_usec) in cases {
            assert_eq!(parse_cpus(text), Ok(Cpus { quota_usec, period_usec }), "{text}");
        }
        for bad in ["", "m", ".", "x", "-1", "+1", "1e3", "inf", "nan", "0x1", "1 2", "10001"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tiny_share_takes_a_longer_period_and_is_not_lost() {
        let cases =
            [("0.005", 1_000, 200_000), ("0.002", 1_000, 500_000), ("1m", 1_000, 1_000_000)];
        for (text, quota_usec, period_usec) in cases {
            assert_eq!(parse_cpus(text), Ok(Cpus { quota_usec, period_usec }), "{text}");
        }
        for bad in ["0", "0.0009", "0.5m"] {
            let why = parse_cpus(bad).expect_err(bad);
            assert!(why.contains("less than 0.001 CPUs"), "{why}");
        }
    }

    #[test]
    fn cpus_are_shown_as_they_are_typed() {
        for text in ["0.5", "2", "0.001", "0.005", "1", "10000", "max"] {
            assert_eq!(parse_cpus(text).map(|cpus| cpus.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(show_cpus(Cpus { quota_usec: 20_000, period_usec: 100_000 }), "0.2 CPUs");
        assert_eq!(show_cpus(Cpus { quota_usec: 5_000, period_usec: 5_000 }), "1 CPU");
        assert_eq!(show_cpus(Cpus::MAX), "no limit");
    }
}
