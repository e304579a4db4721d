//! The grammar of what users may name; pure functions, the same on both ends.

use crate::echo::echo;

/// What is wrong with a name, as a sentence without its subject: "must not be empty".
pub type Fault = String;

/// Longest job name, label key, and identity, in bytes.
pub const MAX_NAME: usize = 63;

/// A job's name, a label's key, an identity's name: `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}`.
///
/// ```
/// use job_grammar::names::check_name;
///
/// assert!(check_name("build-7").is_ok());
/// assert!(check_name("two words").is_err());
/// ```
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let first = name.bytes().next().ok_or("must not be empty")?;
    if name.len() > MAX_NAME {
        return Err(format!("is {} bytes long; at most {MAX_NAME} are allowed", name.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return Err("must begin with a letter or a digit".into());
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "_.-".contains(*c))) {
        Some(c) => Err(format!("has {c:?}; letters, digits, '_', '.' and '-' are allowed")),
        None => Ok(()),
    }
}

/// Longest name of an image, in bytes.
const MAX_IMAGE_NAME: usize = 128;

/// A name of an image: `debian:12`, `build-7`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_image_name(name: &str) -> Result<(), Fault> {
    let first = name.bytes().next().ok_or("must not be empty")?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    if name.len() > MAX_IMAGE_NAME
        || !first.is_ascii_alphanumeric()
        || !name.chars().all(is_allowed)
    {
        return Err(format!(
            "must have at most {MAX_IMAGE_NAME} letters, digits, '_', '.', ':' and '-', the first one a letter or a digit"
        ));
    }
    Ok(())
}

/// An environment variable: not empty, no `=`, no NUL; `LD_*` would let a caller load code into
/// programs that the operator chose.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_env(name: &str, value: &str) -> Result<(), Fault> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("name {} must not be empty and has no '=' and no NUL", echo(name)));
    }
    if name.starts_with("LD_") {
        return Err(format!("name {} is refused: LD_* changes what programs load", echo(name)));
    }
    if value.contains('\0') {
        return Err(format!("value of {} has a NUL byte", echo(name)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_letters_digits_and_three_signs() {
        for good in ["a", "build-7", "A.b_c", "0", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "ä", "a/b", "a\0", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_dynamic_linker_is_out_of_reach() {
        assert!(check_env("LD_PRELOAD", "/tmp/x.so").is_err());
        assert!(check_env("LDX", "fine").is_ok());
        assert!(check_env("A=B", "x").is_err());
        assert!(check_env("A", "x\0y").is_err());
    }
}
