//! Sizes on the command line: `64M`, `2G`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written with an optional binary suffix K, M, G or T.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(format!("'{text}' is not a size such as 512M or 2G")),
        };
        let number: u64 = digits.parse().map_err(|e| format!("'{text}' is not a size: {e}"))?;
        match number.checked_mul(1 << shift) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(format!("'{text}' must be between 1 byte and 16 EiB")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes.is_multiple_of(1 << 20) => write!(f, "{}M", bytes >> 20),
            bytes => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_suffixes() {
        assert_eq!("512".parse(), Ok(Size(512)));
        assert_eq!("64M".parse(), Ok(Size(64 << 20)));
        assert_eq!("2g".parse(), Ok(Size(2 << 30)));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "0", "-1M", "1.5G", "2GB", "99999999999T", "5é"] {
            assert!(text.parse::<Size>().is_err(), "{text} was accepted");
        }
    }
}
