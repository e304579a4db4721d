//! The fuzz target of images, beside their readers: an archive of any bytes, and what comes of it.

use std::io::{self, Read, Write};

use crate::Bounds;
use crate::archive::Target;
use crate::unpack::image;

/// Counts, and makes nothing.
struct Nothing;

fn check(path: &[u8]) {
    let parts = path.split(|byte| *byte == b'/');
    let is_inside = |part: &[u8]| !part.is_empty() && part != b".." && part != b".";
    assert!(parts.into_iter().all(is_inside) && !path.contains(&0), "{path:?}");
}

impl Target for Nothing {
    fn directory(&mut self, path: &[u8]) -> io::Result<()> {
        check(path);
        Ok(())
    }

    fn file(&mut self, path: &[u8], _: bool, _: u64, data: &mut dyn Read) -> io::Result<()> {
        check(path);
        io::copy(data, &mut io::sink()).map(drop)
    }

    fn symlink(&mut self, path: &[u8], to: &[u8]) -> io::Result<()> {
        check(path);
        assert!(!to.is_empty() && !to.contains(&0));
        Ok(())
    }

    fn link(&mut self, path: &[u8], to: &[u8]) -> io::Result<()> {
        check(path);
        check(to);
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        check(path);
        Ok(())
    }

    fn clear(&mut self, path: &[u8]) -> io::Result<()> {
        if !path.is_empty() {
            check(path);
        }
        Ok(())
    }
}

/// No path leads out, and the end comes: whatever the archive is.
pub fn archive(bytes: &[u8]) {
    let Ok(fd) = nix::sys::memfd::memfd_create(c"archive", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
    else {
        return;
    };
    let mut file = std::fs::File::from(fd);
    if file.write_all(bytes).is_err() {
        return;
    }
    let bounds = Bounds { bytes: 1 << 20, files: 256 };
    if let Ok(made) = image(&file, bounds, &mut Nothing) {
        assert!(made.digest.starts_with("sha256:") && made.config.check().is_ok());
    }
}

#[cfg(test)]
mod any_bytes {
    job_corpus::tests! { archive }
}
