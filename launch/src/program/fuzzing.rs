//! Fuzz target: the first line of a script, which its owner writes.

use crate::program::script::{FIRST_BYTES, line};

/// The first bytes of a file.
pub fn script(data: &[u8]) {
    let data = &data[..data.len().min(FIRST_BYTES)];
    let Ok(Some(found)) = line(data) else { return };
    assert!(found.path.starts_with('/') && !found.path.contains([' ', '\t', '\n', '\0']));
    let argument = found.argument.as_deref().unwrap_or_default();
    assert!(
        !argument.contains(['\n', '\0']) && !argument.starts_with(' ') && !argument.ends_with(' ')
    );
    let again = format!("#!{} {argument}\n", found.path);
    if again.len() <= FIRST_BYTES {
        assert_eq!(line(again.as_bytes()), Ok(Some(found)));
    }
}
