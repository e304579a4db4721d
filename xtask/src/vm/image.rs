//! Debian images with systemd, built once and cached under `<target>/testbed/`. It must not change an image that
//! exists.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::machine::{Disk, Machine, Root, make_ext4};
use super::rundir::RunDir;
use super::suite::Suite;
use crate::size::Size;
use crate::{packages, process};

/// Packages in addition to Debian's minimal base.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,kmod,procps,openssl,python3-minimal";
/// Sparse: the base takes about 300 MB, the rest is for a run's files.
const SIZE: Size = Size(16 << 30);
/// Unpacking takes seconds.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(600);
/// Debian's keys: present on Debian, and optional on its derivatives.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns the suite's image, and builds it if it is missing. A changed recipe is a different image.
///
/// # Errors
/// mmdebstrap failed, or the machine that unpacks its archive failed.
pub(crate) fn ensure(suite: Suite, target: &Path) -> Result<PathBuf> {
    let cache = target.join("testbed");
    let name = suite.name();
    let image = cache.join(format!("{name}-{:016x}.ext4", recipe()));
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if image.exists() {
        return Ok(image);
    }
    remove_outdated(&cache, name)?;
    eprintln!("xtask: making the {name} image, once, which takes a minute or two");
    // In a run's directory, which is removed after a failure.
    let dir = RunDir::create(target)?;
    let archive = dir.file("root.tar");
    bootstrap(suite, &archive)?;
    let part = dir.file("image.ext4");
    make_ext4(&part, SIZE, &[])?;
    unpack(&dir, &archive, &part, target)?;
    fs::rename(&part, &image).with_context(|| format!("cannot rename to {}", image.display()))?;
    Ok(image)
}

/// One process builds an image, and the others wait for it.
fn lock(path: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", path.display()))
}

fn remove_outdated(cache: &Path, name: &str) -> Result<()> {
    for entry in fs::read_dir(cache).with_context(|| format!("cannot read {}", cache.display()))? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.starts_with(&format!("{name}-")) && file.ends_with(".ext4") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn bootstrap(suite: Suite, archive: &Path) -> Result<()> {
    let needed =
        [("mmdebstrap", "mmdebstrap"), ("newuidmap", "uidmap"), (KEYS, "debian-archive-keyring")];
    packages::ensure(&needed, "to make an image with systemd")?;
    // In a user namespace: run as plain root, mmdebstrap has replaced the host's /dev/null.
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=unshare", "--variant=minbase"]);
    if suite == Suite::Forky {
        // For a rolling release: a lagging mirror's expired Valid-Until is acceptable here.
        command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    }
    command.arg(format!("--include={PACKAGES}")).arg(suite.name()).arg(archive);
    process::check(command.stdout(std::io::stderr()))
}

/// Unpacks inside a machine on the host's tree, where the command is always root.
fn unpack(dir: &RunDir, archive: &Path, image: &Path, target: &Path) -> Result<()> {
    dir.write("command.sh", &unpack_script(archive))?;
    let disk = Some(Disk::File(image.to_owned()));
    let machine = Machine { dir, target, root: Root::Host, mem: Size(1 << 30), disk };
    machine.make_disks()?;
    match machine.boot(UNPACK_TIMEOUT)? {
        Some(0) => Ok(()),
        Some(status) => bail!("unpacking the image failed with status {status}"),
        None => bail!("the VM broke down before the image was unpacked{}", machine.log_tail()),
    }
}

fn unpack_script(archive: &Path) -> String {
    let mut script = format!(
        "set -eu\ncd /mnt/disk\ntar --numeric-owner -xpf {}\n",
        process::quoted(&archive.to_string_lossy())
    );
    for (path, mode, text) in FILES {
        script += &format!("printf %s {} >.{path}\nchmod {mode} .{path}\n", process::quoted(text));
    }
    script + FINISH
}

fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (PACKAGES, SIZE.0, unpack_script(Path::new("root.tar"))).hash(&mut hasher);
    hasher.finish()
}

/// Additional files: path, mode, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/etc/systemd/system/testbed.service", "0644", include_str!("testbed.service")),
    ("/usr/local/sbin/testbed-start", "0755", include_str!("start.sh")),
    ("/etc/hostname", "0644", "testbed\n"),
    ("/etc/fstab", "0644", ""),
];

/// The masks. Consoles carry the command's output and need no login; there are no kernel modules; maintenance timers
/// would disturb measurements, and fail without a network. Generators have nothing to generate, and take three
/// seconds of each `daemon-reload`. A machine id and the two stamps keep systemd from treating every boot as the
/// first.
const FINISH: &str = "
units=etc/systemd/system
mkdir -p $units/multi-user.target.wants
ln -s ../testbed.service $units/multi-user.target.wants/testbed.service
for unit in getty@tty1.service console-getty.service systemd-logind.service \
    systemd-modules-load.service e2scrub_reap.service \
    apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null $units/$unit
done
mkdir -p etc/systemd/system-generators
for generator in usr/lib/systemd/system-generators/*; do
    ln -sf /dev/null etc/systemd/system-generators/${generator##*/}
done
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
touch etc/.updated var/.updated
sync
";
