//! The first line of a script, as the kernel reads it (binfmt_script). Pure; it opens nothing.

/// What the kernel looks at: BINPRM_BUF_SIZE.
pub(super) const FIRST_BYTES: usize = 256;

/// `#!/bin/sh -e`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The interpreter, absolute.
    pub(super) path: String,
    /// All that follows, as one argument.
    pub(super) argument: Option<String>,
}

/// Reads the line from the first bytes of a file; `None` for a file that is no script.
///
/// # Errors
/// Why the script cannot be executed, or not by us: a sentence without a subject.
pub(super) fn line(beginning: &[u8]) -> Result<Option<Line>, String> {
    let Some(rest) = beginning.strip_prefix(b"#!") else { return Ok(None) };
    // A file that ends before its first line is over needs no newline.
    let end = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => end,
        None if beginning.len() < FIRST_BYTES => rest.len(),
        None => return Err(format!("its first line is longer than {FIRST_BYTES} bytes")),
    };
    let text = std::str::from_utf8(&rest[..end]);
    let text = text.map_err(|_| "its first line is not UTF-8".to_owned())?;
    if text.contains('\0') {
        return Err("its first line contains a NUL byte".into());
    }
    // Blanks are spaces and tabs, to the kernel: a carriage return is a part of the name.
    let text = text.trim_matches(BLANKS);
    let (path, argument) = text.split_once(BLANKS).unwrap_or((text, ""));
    if !path.starts_with('/') {
        return Err("its interpreter is not an absolute path".into());
    }
    let argument = argument.trim_start_matches(BLANKS);
    let argument = (!argument.is_empty()).then(|| argument.to_owned());
    Ok(Some(Line { path: path.into(), argument }))
}

const BLANKS: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is(beginning: &str, path: &str, argument: Option<&str>) {
        let expected = Line { path: path.into(), argument: argument.map(str::to_owned) };
        assert_eq!(line(beginning.as_bytes()), Ok(Some(expected)), "{beginning:?}");
    }

    #[test]
    fn the_line_is_split_as_the_kernel_splits_it() {
        is("#!/bin/sh\necho", "/bin/sh", None);
        is("#! \t/bin/sh \t-e  -u \t\necho", "/bin/sh", Some("-e  -u"));
        is("#!/bin/sh", "/bin/sh", None);
        is("#!/usr/bin/env python3\n", "/usr/bin/env", Some("python3"));
        is("#!/bin/sh\r\n", "/bin/sh\r", None);
    }

    #[test]
    fn what_is_no_script_has_no_line_and_what_the_kernel_might_read_otherwise_is_refused() {
        assert_eq!(line(b"\x7fELF"), Ok(None));
        assert_eq!(line(b""), Ok(None));
        for bad in ["#!", "#!\n", "#!sh\n", "#! \n", "#!/bin/sh\0\n"] {
            assert!(line(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(line(b"#!/bin/\xff\n").is_err());
        let long = format!("#!/{}", "a".repeat(300));
        assert!(line(&long.as_bytes()[..FIRST_BYTES]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(rest in proptest::collection::vec(any::<u8>(), 0..FIRST_BYTES)) {
            for beginning in [rest.clone(), [b"#!/", rest.as_slice()].concat()] {
                if let Ok(Some(line)) = line(&beginning) {
                    prop_assert!(line.path.starts_with('/') && !line.path.contains(BLANKS));
                    prop_assert!(line.argument.as_deref() != Some(""));
                }
            }
        }
    }
}
