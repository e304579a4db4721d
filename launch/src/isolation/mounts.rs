//! The kernel's table of mounts, proc_pid_mountinfo(5), and which of them are the host's own, wherever they are
//! mounted: a second `/proc` in a tree for chroot(2) shows the same processes. It must not mount or unmount anything.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// File systems that show or control the host, wherever they are mounted.
const HOSTS: [&str; 16] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "mqueue",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];
/// Directories that are hidden under any other name, too: sockets and devices are there.
const HIDDEN: [&str; 2] = ["/run", "/dev"];

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// As major:minor.
    device: String,
    /// The directory or file of the file system that is mounted.
    root: PathBuf,
    /// Where.
    pub(super) place: PathBuf,
    /// Of the file system.
    kind: String,
}

/// The table of a mount namespace, and whether it has changed.
#[derive(Debug)]
pub(super) struct Table(File);

impl Table {
    /// Of the mount namespace that the process of this file is in now.
    pub(super) fn of(file: File) -> Table {
        Table(file)
    }

    /// Whether it was changed since the last call.
    pub(super) fn has_changed(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)];
        // What cannot be asked is looked at.
        !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// In the order in which they were mounted.
    pub(super) fn read(&self) -> io::Result<Vec<Mounted>> {
        let (mut file, mut text) = (&self.0, Vec::new());
        file.rewind()?;
        file.read_to_end(&mut text)?;
        Ok(text.split(|byte| *byte == b'\n').filter_map(Mounted::parse).collect())
    }
}

impl Mounted {
    /// All of this thread's mount namespace.
    pub(super) fn here() -> io::Result<Vec<Mounted>> {
        Table(File::open("/proc/thread-self/mountinfo")?).read()
    }

    fn parse(line: &[u8]) -> Option<Mounted> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let after = fields.iter().position(|field| *field == b"-")?;
        let text = |n: usize| fields.get(n).map(|field| String::from_utf8_lossy(field).into());
        let path = |n: usize| fields.get(n).map(|field| unescaped(field));
        Some(Mounted { device: text(2)?, root: path(3)?, place: path(4)?, kind: text(after + 1)? })
    }

    /// Whether its file system shows or controls the host.
    pub(super) fn is_hosts(&self) -> bool {
        HOSTS.contains(&self.kind.as_str())
    }

    fn is_in_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "devtmpfs")
    }
}

/// What is in [`HIDDEN`], by device and directory, of the host's table.
pub(super) struct Hidden(Vec<(String, PathBuf)>);

impl Hidden {
    pub(super) fn of(host: &[Mounted]) -> Hidden {
        let below = |mounted: &&Mounted| HIDDEN.iter().any(|path| mounted.place.starts_with(path));
        let in_memory = host.iter().filter(below).filter(|mounted| mounted.is_in_memory());
        let in_memory = in_memory.map(|mounted| (mounted.device.clone(), mounted.root.clone()));
        let named = HIDDEN.iter().filter_map(|path| found(host, Path::new(path)));
        Hidden(named.chain(in_memory).collect())
    }

    /// The places of this table that are to be hidden from jobs: the host's own file systems, and what is also in
    /// [`HIDDEN`]. Not those at their usual place, nor automounts: what is below is the host's files.
    pub(super) fn copies<'a>(&'a self, table: &'a [Mounted]) -> impl Iterator<Item = &'a Path> {
        let usual = ["/proc", "/sys"].into_iter().chain(HIDDEN);
        let is_usual = move |place: &Path| usual.clone().any(|usual| place.starts_with(usual));
        let elsewhere = table.iter().filter(move |mounted| !is_usual(&mounted.place));
        let is_hidden = |mounted: &&Mounted| {
            (mounted.is_hosts() && mounted.kind != "autofs") || self.has(mounted)
        };
        elsewhere.filter(is_hidden).map(|mounted| mounted.place.as_path())
    }

    /// A single file was chosen, and is not: a list of name servers, for one.
    fn has(&self, mounted: &Mounted) -> bool {
        let is_same = |(device, root): &(String, PathBuf)| {
            mounted.device == *device && mounted.root.starts_with(root)
        };
        self.0.iter().any(is_same)
            && fs::symlink_metadata(&mounted.place).is_ok_and(|found| found.is_dir())
    }
}

/// A mount of the host's own which this path is in, or which would come with it.
///
/// # Errors
/// The table cannot be read.
pub(super) fn hosts_at_or_below(path: &Path) -> io::Result<Option<PathBuf>> {
    let table = Mounted::here()?;
    let hidden = Hidden::of(&table);
    let of_the_host = |mounted: &&Mounted| mounted.is_hosts() || hidden.has(mounted);
    let below = table.iter().filter(|mounted| mounted.place.starts_with(path));
    let place = above(&table, path).into_iter().chain(below).find(of_the_host);
    Ok(place.map(|mounted| mounted.place.clone()))
}

/// The file system that a path is in, and where in it.
fn found(table: &[Mounted], path: &Path) -> Option<(String, PathBuf)> {
    let mounted = above(table, path)?;
    let rest = path.strip_prefix(&mounted.place).ok()?;
    let is_root = rest.as_os_str().is_empty();
    let root = if is_root { mounted.root.clone() } else { mounted.root.join(rest) };
    Some((mounted.device.clone(), root))
}

/// The mount that a path is in: of several at one place the last.
fn above<'a>(table: &'a [Mounted], path: &Path) -> Option<&'a Mounted> {
    let above = table.iter().filter(|mounted| path.starts_with(&mounted.place));
    above.max_by_key(|mounted| mounted.place.as_os_str().len())
}

/// Spaces, tabs, ends of lines and backslashes are written as `\ooo`.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Vec<Mounted> {
        text.lines().filter_map(|line| Mounted::parse(line.as_bytes())).collect()
    }

    fn copied(text: &str) -> Vec<String> {
        let table = table(text);
        Hidden::of(&table).copies(&table).map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_line_is_read_whatever_its_optional_fields_and_escapes_are() {
        let all = table(
            "36 35 98:0 /mnt1 /mnt\\0402\\134 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
             junk\n37 35 0:21 / /proc rw - proc proc rw\n",
        );
        let places: Vec<_> = all.iter().map(|mounted| mounted.place.to_str().unwrap()).collect();
        assert_eq!(places, ["/mnt 2\\", "/proc"]);
        assert_eq!((all[0].root.to_str(), all[0].is_hosts()), (Some("/mnt1"), false));
        assert!(all[1].is_hosts());
    }

    #[test]
    fn the_hosts_own_file_systems_are_hidden_but_at_their_usual_places() {
        let text = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:21 / /proc rw - proc b rw\n\
                    3 1 0:22 / /sys rw - sysfs c rw\n4 1 0:21 / /srv/a\\040b/proc rw - proc d rw\n\
                    5 1 0:40 / /mnt/cg rw - cgroup2 e rw\n6 1 0:41 / /home rw - autofs f rw\n\
                    7 1 0:5 / /srv/dev rw - devtmpfs g rw\n";
        assert_eq!(copied(text), ["/srv/a b/proc", "/mnt/cg", "/srv/dev"]);
    }

    #[test]
    fn what_is_in_run_is_hidden_by_another_name_and_a_disk_that_is_mounted_there_is_not() {
        // Only directories that are there count: these are on every host.
        let text = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:25 / /run rw - tmpfs b rw\n\
                    3 2 8:2 / /run/media/x rw - ext4 c rw\n4 2 0:26 / /run/lock rw - tmpfs d rw\n\
                    5 1 0:25 /user /usr rw - tmpfs b rw\n6 1 8:2 / /var rw - ext4 c rw\n\
                    7 1 0:26 / /etc rw - tmpfs d rw\n8 1 0:25 /f /etc/hostname rw - tmpfs b rw\n";
        assert_eq!(copied(text), ["/usr", "/etc"]);
        let on_root = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 /run /usr rw - ext4 a rw\n\
                       3 1 8:1 /runs /etc rw - ext4 a rw\n";
        assert_eq!(copied(on_root), ["/usr"]);
    }
}
