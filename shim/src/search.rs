//! Where a program's name leads: the rule of execvp(3), for the shim that executes and for a broker that checks
//! first what would be executed. It touches no file.

/// As execvp(3) has it, less the current directory.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// The paths that a program may have, in order: itself if it has a slash, else one for each directory of `PATH` in
/// `env` (`NAME=value`). Relative ones are relative to the job's working directory.
pub fn candidates<'a>(
    program: &'a [u8],
    env: &'a [Vec<u8>],
) -> Box<dyn Iterator<Item = Vec<u8>> + 'a> {
    if program.contains(&b'/') {
        return Box::new(std::iter::once(program.to_vec()));
    }
    if program.is_empty() {
        return Box::new(std::iter::empty());
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix(b"PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    // An empty entry is the current directory, by POSIX.
    let whole = |dir: &'a [u8]| if dir.is_empty() { b".".as_slice() } else { dir };
    Box::new(directories.map(move |dir| [whole(dir), b"/", program].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
        candidates(program, env).collect()
    }

    #[test]
    fn a_program_with_a_slash_is_not_searched() {
        assert_eq!(all(b"./a", &[b"PATH=/x".to_vec()]), [b"./a"]);
    }

    #[test]
    fn a_program_is_searched_in_the_path_of_its_own_environment() {
        let env = [b"A=1".to_vec(), b"PATH=/x::/y/".to_vec()];
        assert_eq!(all(b"a", &env), [b"/x/a".to_vec(), b"./a".to_vec(), b"/y//a".to_vec()]);
        assert_eq!(all(b"a", &[])[0], b"/usr/local/bin/a");
        assert!(all(b"", &env).is_empty());
    }
}
