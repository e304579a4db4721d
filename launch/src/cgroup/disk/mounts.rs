//! Parses proc_pid_mountinfo(5): the type and source of a mount. Pure: the caller reads the file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::cgroup::disk::device::DeviceNumber;

/// One line of mountinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// `st_dev` of the files on the mount.
    pub(crate) device: DeviceNumber,
    /// The file system type.
    pub(crate) kind: &'a str,
    source: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// The mount with this id.
    pub(crate) fn find(mountinfo: &'a str, id: u64) -> Option<Mount<'a>> {
        mountinfo.lines().find_map(|line| {
            // A hyphen between spaces ends the optional fields; in a path, spaces are escaped.
            let (fields, rest) = line.split_once(" - ")?;
            let mut fields = fields.split(' ');
            if fields.next()?.parse() != Ok(id) {
                return None;
            }
            let device = fields.nth(1)?.parse().ok()?;
            let mut rest = rest.split(' ');
            let (kind, source) = (rest.next()?, rest.next()?);
            Some(Mount { device, kind, source, options: rest.next().unwrap_or_default() })
        })
    }

    /// The mount source, such as `/dev/sda2`.
    pub(crate) fn source(&self) -> PathBuf {
        OsString::from_vec(unescape(self.source)).into()
    }

    /// The upper layer of an overlay or, for a read-only one, the topmost lower layer.
    pub(crate) fn layer(&self) -> Option<PathBuf> {
        // Commas in paths are escaped.
        let option = |name: &str| self.options.split(',').find_map(|own| own.strip_prefix(name));
        let layer = match option("upperdir=") {
            Some(upper) => first_path(&unescape(upper), false),
            None => {
                // One list, or an option for each layer since Linux 6.8.
                let lower = option("lowerdir=").or_else(|| option("lowerdir+="))?;
                first_path(&unescape(lower), true)
            }
        };
        Some(OsString::from_vec(layer).into())
    }
}

/// mountinfo escapes special characters as a backslash and three octal digits.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

/// overlayfs separates the paths of a list by colons; a backslash escapes the next character.
fn first_path(text: &[u8], list: bool) -> Vec<u8> {
    let mut path = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.extend(bytes.next()),
            b':' if list => break,
            _ => path.push(*byte),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_id_with_or_without_optional_fields() {
        let text = "25 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
                    125 25 0:31 / /a\\040-\\040b rw shared:4 master:1 - nfs4 srv:/b rw,vers=4.2\n";
        let mount = Mount::find(text, 125).unwrap();
        assert_eq!((mount.kind, mount.source()), ("nfs4", "srv:/b".into()));
        assert_eq!(Mount::find(text, 25).unwrap().device, DeviceNumber { major: 8, minor: 2 });
        assert_eq!(Mount::find(text, 5), None);
    }

    #[test]
    fn both_kinds_of_escapes_in_the_layers_of_an_overlay_are_undone() {
        let layer = |options| {
            let device = DeviceNumber { major: 0, minor: 50 };
            Mount { device, kind: "overlay", source: "overlay", options }.layer()
        };
        let written = layer("rw,lowerdir=/l,upperdir=/my\\040upper\\054x\\134:y,workdir=/w");
        assert_eq!(written, Some("/my upper,x:y".into()));
        assert_eq!(layer("ro,lowerdir=/a\\134:b:/c"), Some("/a:b".into()));
        assert_eq!(layer("ro,lowerdir+=/a:b,lowerdir+=/c"), Some("/a".into()));
        assert_eq!(layer("rw"), None);
    }
}
