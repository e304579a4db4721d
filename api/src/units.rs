//! Sizes and durations as people type them, and as they read them.

use std::time::Duration;

/// Reads `90`, `90s`, `500ms`, `1h30m`, `2d`; a bare number is seconds.
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
}
