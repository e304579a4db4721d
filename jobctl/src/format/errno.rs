//! The error numbers that a start can fail with, by name (errno(3), as Linux counts them).

const NAMES: &[(i32, &str)] = &[
    (libc::E2BIG, "E2BIG"),
    (libc::EACCES, "EACCES"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::EBUSY, "EBUSY"),
    (libc::EDQUOT, "EDQUOT"),
    (libc::EEXIST, "EEXIST"),
    (libc::EFAULT, "EFAULT"),
    (libc::EINTR, "EINTR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EIO, "EIO"),
    (libc::EISDIR, "EISDIR"),
    (libc::ELOOP, "ELOOP"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENAMETOOLONG, "ENAMETOOLONG"),
    (libc::ENFILE, "ENFILE"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOENT, "ENOENT"),
    (libc::ENOEXEC, "ENOEXEC"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::EPERM, "EPERM"),
    (libc::EPIPE, "EPIPE"),
    (libc::EROFS, "EROFS"),
    (libc::ESRCH, "ESRCH"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::ETXTBSY, "ETXTBSY"),
];

/// `("No such file or directory", "ENOENT")`.
pub(crate) fn in_words(number: i32) -> (String, String) {
    let text = std::io::Error::from_raw_os_error(number).to_string();
    let meaning = text.split(" (os error").next().unwrap_or(&text).to_owned();
    let name = NAMES.iter().find(|(known, _)| *known == number);
    (meaning, name.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_has_a_meaning_and_a_name() {
        let words = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(in_words(2), words("No such file or directory", "ENOENT"));
        assert_eq!(in_words(8), words("Exec format error", "ENOEXEC"));
        assert_eq!(in_words(9999).1, "errno 9999");
    }
}
