//! Signals by name and number, as Linux counts them on x86 and ARM (signal(7)).

/// The classic signals, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The real-time signals as glibc and musl hand them out; the two below are the C library's own.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Reads `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3`, `RTMAX-1`.
///
/// ```
/// use job_grammar::signals::{parse_signal, signal_name};
///
/// assert_eq!(parse_signal("SIGTERM"), Ok(15));
/// assert_eq!(signal_name(15), "SIGTERM");
/// ```
///
/// # Errors
/// A sentence that names the text and shows the form.
pub fn parse_signal(text: &str) -> Result<i32, String> {
    let fault = || format!("\"{text}\" is not a signal, e.g. TERM, SIGINT, 9, RTMIN+1 (1 to 64)");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|n| (1..=RTMAX).contains(n)).ok_or_else(fault);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Ok(index as i32 + 1);
    }
    let step = |digits: &str| digits.parse::<u8>().ok().map(i32::from);
    let number = match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(up), _) => step(up).map(|n| RTMIN + n),
            (_, Some(down)) => step(down).map(|n| RTMAX - n),
            _ => None,
        }
        .filter(|number| (RTMIN..=RTMAX).contains(number)),
    };
    number.ok_or_else(fault)
}

/// `SIGTERM` for 15, `SIGRTMIN+3` for 37, `signal 32` for what has no name.
pub fn signal_name(number: i32) -> String {
    match number {
        1..=31 => format!("SIG{}", NAMES[number as usize - 1]),
        RTMIN => "SIGRTMIN".into(),
        35..=RTMAX => format!("SIGRTMIN+{}", number - RTMIN),
        _ => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_with_and_without_sig_and_as_numbers() {
        let cases = [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("int", 2),
            ("9", 9),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("POLL", 29),
            ("SYS", 31),
        ];
        for (text, number) in cases {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-9", "SIG", "FOO", "RTMIN+31", "RTMAX-31", "RTMIN+", "9 "] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_real_time_signal_is_none_of_the_classic_ones_and_never_zero() {
        for bad in ["RTMAX-33", "RTMAX-64", "RTMAX-65", "RTMAX-255", "RTMIN+255"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_read_back_as_the_number_it_was_made_of() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(parse_signal(&signal_name(number)), Ok(number));
        }
        assert_eq!(signal_name(32), "signal 32");
    }
}
