//! On hosts as they were recorded: sysfs as directories and links, mountinfo and stat(2) as text.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

/// One host. Each line of its text is one of
/// - `block SYSFS-DIRECTORY M:m [partition] [slaves NAME...]`
/// - `queue M:m SCHEDULERS`
/// - `btrfs UUID NAME...`
/// - `stat PATH ST_DEV MOUNT-ID [fuse]`, `node PATH ST_RDEV`
/// - a line of mountinfo
struct Recorded {
    sysfs: TempDir,
    stats: BTreeMap<PathBuf, Stat>,
    mountinfo: String,
}

impl Recorded {
    fn host(text: &str) -> Recorded {
        let sysfs = tempfile::tempdir().unwrap();
        let mut host = Recorded { sysfs, stats: BTreeMap::new(), mountinfo: String::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["block", directory, number, ref more @ ..] => host.block(directory, number, more),
                ["queue", number, ref schedulers @ ..] => {
                    let queue = host.directory(number.parse().unwrap()).join("queue");
                    fs::create_dir(&queue).unwrap();
                    fs::write(queue.join("scheduler"), schedulers.join(" ") + "\n").unwrap();
                }
                ["btrfs", uuid, ref names @ ..] => {
                    let devices = host.sysfs().join("fs/btrfs").join(uuid).join("devices");
                    host.link(&devices, names);
                    fs::create_dir_all(host.sysfs().join("fs/btrfs/features")).unwrap();
                }
                ["stat", path, device, mount, ref fuse @ ..] => {
                    let (device, mount) = (device.parse().unwrap(), mount.parse().unwrap());
                    let stat = Stat { device, block: None, mount, is_fuse: fuse == ["fuse"] };
                    host.stats.insert(path.into(), stat);
                }
                ["node", path, number] => {
                    let (device, block) = ("0:6".parse().unwrap(), number.parse().ok());
                    let stat = Stat { device, block, mount: 24, is_fuse: false };
                    host.stats.insert(path.into(), stat);
                }
                _ => host.mountinfo += &format!("{line}\n"),
            }
        }
        host
    }

    fn block(&mut self, directory: &str, number: &str, more: &[&str]) {
        let directory = self.sysfs().join("devices").join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("dev"), format!("{number}\n")).unwrap();
        match more {
            ["partition"] => fs::write(directory.join("partition"), "1\n").unwrap(),
            ["slaves", names @ ..] => self.link(&directory.join("slaves"), names),
            _ => fs::create_dir_all(directory.join("slaves")).unwrap(),
        }
        fs::create_dir_all(self.sysfs().join("dev/block")).unwrap();
        symlink(directory, self.sysfs().join("dev/block").join(number)).unwrap();
    }

    /// A directory with links to these devices.
    fn link(&self, directory: &Path, names: &[&str]) {
        fs::create_dir_all(directory).unwrap();
        let known = fs::read_dir(self.sysfs().join("dev/block")).unwrap();
        let targets: Vec<_> = known.map(|e| fs::read_link(e.unwrap().path()).unwrap()).collect();
        for name in names {
            let target = targets.iter().find(|target| target.ends_with(name)).unwrap();
            symlink(target, directory.join(name)).unwrap();
        }
    }

    /// `8:0 sda, ...`, or the refusal.
    fn disks(&self, path: &str) -> String {
        shown(at(self, path))
    }
}

impl Host for Recorded {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.stats.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    fn mountinfo(&self) -> io::Result<String> {
        Ok(self.mountinfo.clone())
    }

    fn sysfs(&self) -> PathBuf {
        self.sysfs.path().into()
    }
}

fn at(host: &impl Host, path: &str) -> Result<Disks, DiskError> {
    let path = Path::new(path);
    disks_of_path(host, path, &host.stat(path).expect("it is there"))
}

fn shown(disks: Result<Disks, DiskError>) -> String {
    match disks {
        Ok(disks) => {
            let all = disks.devices.iter().map(|disk| format!("{disk} {}", disk.name));
            all.collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.to_string(),
    }
}

const SCSI: &str = "
    block pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda 8:0
    block pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1 8:1 partition
    block pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda2 8:2 partition
    block pci0000:00/0000:00:17.0/ata2/host1/target1:0:0/1:0:0:0/block/sdb 8:16
    queue 8:0 mq-deadline kyber [bfq] none
    queue 8:16 [mq-deadline] kyber bfq none
    stat /data 8:16 40
    stat /home 8:2 41
    node /dev/sda 8:0
    node /dev/sda1 8:1
";

#[test]
fn a_file_system_on_a_whole_disk_is_on_that_disk() {
    assert_eq!(Recorded::host(SCSI).disks("/data"), "8:16 sdb");
}

#[test]
fn a_partition_leads_to_its_disk() {
    assert_eq!(Recorded::host(SCSI).disks("/home"), "8:0 sda");
}

#[test]
fn a_partition_of_nvme_leads_to_its_namespace_whichever_path_leads_there() {
    let host = Recorded::host(
        "block virtual/nvme-subsystem/nvme-subsys0/nvme0n1 259:0
         block virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2 259:2 partition
         block pci0000:00/0000:00:1d.0/0000:04:00.0/nvme/nvme1/nvme1n1 259:3
         block pci0000:00/0000:00:1d.0/0000:04:00.0/nvme/nvme1/nvme1n1/nvme1n1p1 259:4 partition
         stat /multipath 259:2 30
         stat /plain 259:4 31",
    );
    assert_eq!(host.disks("/multipath"), "259:0 nvme0n1");
    assert_eq!(host.disks("/plain"), "259:3 nvme1n1");
}

#[test]
fn disks_of_virtual_machines_cards_and_old_controllers_are_disks() {
    let host = Recorded::host(
        "block pci0000:00/0000:00:02.0/virtio1/block/vda 254:0
         block platform/soc/fe320000.mmc/mmc_host/mmc1/mmc1:0001/block/mmcblk1 179:0
         block platform/soc/fe320000.mmc/mmc_host/mmc1/mmc1:0001/block/mmcblk1/mmcblk1p2 179:2 partition
         block pci0000:00/0000:00:03.0/cciss0/block/cciss!c0d0 104:0
         stat / 254:0 22
         stat /card 179:2 23
         stat /old 104:0 24",
    );
    assert_eq!(host.disks("/"), "254:0 vda");
    assert_eq!(host.disks("/card"), "179:0 mmcblk1");
    assert_eq!(host.disks("/old"), "104:0 cciss/c0d0");
}

const VOLUMES: &str = "
    block pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda 8:0
    block pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda3 8:3 partition
    block pci0000:00/0000:00:17.0/ata2/host1/target1:0:0/1:0:0:0/block/sdb 8:16
    block virtual/block/dm-0 253:0 slaves sda3
    block virtual/block/dm-1 253:1 slaves dm-0
    block virtual/block/dm-2 253:2 slaves sda3 sdb
    stat /lvm 253:0 30
    stat /luks 253:1 31
    stat /wide 253:2 32
    node /dev/mapper/vg-root 253:0
";

#[test]
fn a_logical_volume_is_limited_on_itself_and_on_the_disk_below() {
    assert_eq!(Recorded::host(VOLUMES).disks("/lvm"), "253:0 dm-0, 8:0 sda");
}

#[test]
fn an_encrypted_logical_volume_is_limited_on_itself_and_on_the_disk_at_the_bottom() {
    assert_eq!(Recorded::host(VOLUMES).disks("/luks"), "253:1 dm-1, 8:0 sda");
}

#[test]
fn a_volume_over_two_disks_is_limited_on_itself_alone() {
    assert_eq!(Recorded::host(VOLUMES).disks("/wide"), "253:2 dm-2");
}

#[test]
fn a_thin_volume_is_limited_on_the_disk_below_its_pool() {
    let host = Recorded::host(
        "block pci0000:00/0000:00:17.0/ata1/block/sda 8:0
         block pci0000:00/0000:00:17.0/ata1/block/sda/sda3 8:3 partition
         block virtual/block/dm-0 253:0 slaves sda3
         block virtual/block/dm-1 253:1 slaves sda3
         block virtual/block/dm-2 253:2 slaves dm-0 dm-1
         block virtual/block/dm-4 253:4 slaves dm-2
         stat /thin 253:4 30",
    );
    assert_eq!(host.disks("/thin"), "253:4 dm-4, 8:0 sda");
}

#[test]
fn a_mirror_is_limited_on_itself_alone_and_so_is_what_lies_on_it() {
    let host = Recorded::host(
        "block pci0000:00/0000:00:17.0/ata1/block/sda 8:0
         block pci0000:00/0000:00:17.0/ata1/block/sda/sda1 8:1 partition
         block pci0000:00/0000:00:17.0/ata2/block/sdb 8:16
         block pci0000:00/0000:00:17.0/ata2/block/sdb/sdb1 8:17 partition
         block virtual/block/md127 9:127 slaves sda1 sdb1
         block virtual/block/md127/md127p1 259:0 partition
         block virtual/block/dm-0 253:0 slaves md127
         stat /mirror 9:127 30
         stat /part 259:0 31
         stat /luks 253:0 32",
    );
    assert_eq!(host.disks("/mirror"), "9:127 md127");
    assert_eq!(host.disks("/part"), "9:127 md127");
    assert_eq!(host.disks("/luks"), "253:0 dm-0");
}

#[test]
fn a_loop_device_is_a_disk_and_has_partitions() {
    let host = Recorded::host(
        "block virtual/block/loop0 7:0
         block virtual/block/loop1 7:1
         block virtual/block/loop1/loop1p1 259:0 partition
         stat /image 7:0 30
         stat /parted 259:0 31",
    );
    assert_eq!(host.disks("/image"), "7:0 loop0");
    assert_eq!(host.disks("/parted"), "7:1 loop1");
}

/// The subvolumes have devices of their own, which are not that of the mount.
const BTRFS: &str = "
    block pci0000:00/0000:00:17.0/ata1/block/sda 8:0
    block pci0000:00/0000:00:17.0/ata1/block/sda/sda2 8:2 partition
    block pci0000:00/0000:00:17.0/ata2/block/sdb 8:16
    block pci0000:00/0000:00:17.0/ata3/block/sdc 8:32
    block virtual/block/dm-0 253:0 slaves sda2
    btrfs 0c9bc9a6-6f4a-4b1c-8a51-9cd4ba8d0a1f dm-0
    btrfs 9f1e4f6e-31ba-4f8f-8a2f-5f6d1f1f6f8b sdb sdc
    node /dev/mapper/system 253:0
    node /dev/sdc 8:32
    stat /home 0:44 30
    stat /pool 0:51 31
    stat /early 0:60 32
    30 1 0:25 /@home /home rw,relatime shared:1 - btrfs /dev/mapper/system rw,subvolid=257,subvol=/@home
    31 1 0:50 / /pool rw,relatime - btrfs /dev/sdc rw,space_cache=v2,subvolid=5,subvol=/
    32 1 0:60 / /early rw,relatime - btrfs /dev/root rw
";

#[test]
fn a_subvolume_of_btrfs_leads_to_the_device_of_its_mount() {
    assert_eq!(Recorded::host(BTRFS).disks("/home"), "253:0 dm-0, 8:0 sda");
}

#[test]
fn btrfs_over_two_disks_is_refused_with_both_named() {
    let error = Recorded::host(BTRFS).disks("/pool");
    assert!(error.contains("/pool lies on several disks"), "{error}");
    assert!(error.contains("8:16 (sdb)") && error.contains("8:32 (sdc)"), "{error}");
}

#[test]
fn btrfs_from_a_device_that_has_another_name_here_is_refused() {
    let error = Recorded::host(BTRFS).disks("/early");
    assert!(error.contains("mounted from /dev/root"), "{error}");
}

const DOCKER: &str = "
    block pci0000:00/0000:00:02.0/virtio1/block/vda 254:0
    block pci0000:00/0000:00:02.0/virtio1/block/vda/vda1 254:1 partition
    stat /srv 0:70 90
    stat /var/lib/docker/overlay2/4f:1/diff 254:1 22
    22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
    90 22 0:70 / /srv rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/AB:/var/lib/docker/overlay2/l/CD,upperdir=/var/lib/docker/overlay2/4f\\134:1/diff,workdir=/var/lib/docker/overlay2/4f\\134:1/work
";

#[test]
fn an_overlay_is_on_the_disk_of_its_upper_layer() {
    assert_eq!(Recorded::host(DOCKER).disks("/srv"), "254:0 vda");
}

#[test]
fn an_overlay_on_btrfs_and_one_on_an_overlay_are_resolved_too() {
    let host = Recorded::host(&format!(
        "{BTRFS}
         stat /over 0:70 90
         stat /twice 0:71 91
         stat /home/upper 0:44 30
         stat /over/upper 0:70 90
         90 1 0:70 / /over rw - overlay none rw,lowerdir=/usr,upperdir=/home/upper,workdir=/home/w
         91 1 0:71 / /twice ro - overlay none ro,lowerdir=/over/upper:/usr"
    ));
    assert_eq!(host.disks("/over"), "253:0 dm-0, 8:0 sda");
    assert_eq!(host.disks("/twice"), "253:0 dm-0, 8:0 sda");
}

#[test]
fn an_overlay_whose_layer_is_hidden_or_in_memory_is_refused() {
    let host = Recorded::host(
        "stat / 0:17 22
         stat /live 0:18 23
         stat /run/upper 0:22 26
         stat /loop 0:19 27
         22 1 0:17 / / rw - overlay overlay rw,lowerdir=/,upperdir=/mnt/scratch/upper,workdir=/w
         23 22 0:18 / /live rw - overlay overlay rw,lowerdir=/,upperdir=/run/upper,workdir=/run/w
         26 22 0:22 / /run rw - tmpfs tmpfs rw
         27 22 0:19 / /loop ro - overlay overlay ro,lowerdir=/loop",
    );
    let hidden = host.disks("/");
    assert!(hidden.contains("/mnt/scratch/upper, which is not visible to the broker"), "{hidden}");
    assert!(host.disks("/loop").contains("not visible to the broker"), "{}", host.disks("/loop"));
    let memory = host.disks("/live");
    assert!(memory.contains("/live lies on an overlay with its files in /run/upper"), "{memory}");
    assert!(memory.contains("tmpfs, which keeps its files in memory"), "{memory}");
}

#[test]
fn what_has_no_disk_is_refused_with_its_kind_and_a_way_out() {
    let host = Recorded::host(
        "stat /tmp 0:30 1
         stat /mnt/nfs 0:31 2
         stat /host 0:32 3
         stat /tank 0:33 4
         stat /proc 0:34 5
         stat /ssh 0:35 6
         stat /ntfs 8:1 7 fuse
         1 22 0:30 / /tmp rw - tmpfs tmpfs rw,size=8g
         2 22 0:31 / /mnt/nfs rw - nfs4 server:/export rw,vers=4.2
         3 22 0:32 / /host rw - hostfs hostfs rw,/work
         4 22 0:33 / /tank rw - zfs tank/data rw,xattr
         5 22 0:34 / /proc rw - proc proc rw
         6 22 0:35 / /ssh rw - fuse.sshfs user@host: rw",
    );
    for (path, why) in [
        ("/tmp", "/tmp lies on tmpfs, which keeps its files in memory"),
        ("/mnt/nfs", "nfs4, whose disks belong to another machine"),
        ("/host", "hostfs, whose disks belong to another machine"),
        ("/tank", "zfs, whose writes io.max does not limit"),
        ("/proc", "proc, which has no disk of its own"),
        ("/ssh", "fuse.sshfs, whose I/O a process outside the job does"),
        ("/ntfs", "fuse, whose I/O a process outside the job does"),
    ] {
        let error = host.disks(path);
        assert!(error.contains(why), "{error}");
        assert!(error.contains("give a path on a local disk, or a disk as MAJOR:MINOR"));
    }
}

#[test]
fn the_uppermost_of_mounts_on_one_place_counts() {
    let host = Recorded::host(
        "stat /mnt 0:31 12
         11 22 0:30 / /mnt rw - tmpfs tmpfs rw
         12 11 0:31 / /mnt rw - nfs srv:/a rw
         112 22 0:32 / /mnt/a rw - tmpfs tmpfs rw",
    );
    assert!(host.disks("/mnt").contains("lies on nfs,"), "{}", host.disks("/mnt"));
}

#[test]
fn a_named_device_is_taken_as_it_is() {
    let (scsi, volumes) = (Recorded::host(SCSI), Recorded::host(VOLUMES));
    assert_eq!(shown(disks_of_device(&scsi, "8:16")), "8:16 sdb");
    assert_eq!(scsi.disks("/dev/sda"), "8:0 sda");
    assert_eq!(volumes.disks("/dev/mapper/vg-root"), "253:0 dm-0");
}

#[test]
fn a_named_partition_is_refused_and_its_disk_named() {
    let host = Recorded::host(SCSI);
    for error in [shown(disks_of_device(&host, "8:1")), host.disks("/dev/sda1")] {
        assert!(error.starts_with("8:1 is the partition sda1 of a disk"), "{error}");
        assert!(error.ends_with("name the disk, 8:0 (sda)"), "{error}");
    }
}

#[test]
fn what_is_not_there_or_no_number_is_refused() {
    let host = Recorded::host(SCSI);
    assert!(shown(disks_of_device(&host, "8:32")).contains("no block device 8:32 on this host"));
    assert!(shown(disks_of_device(&host, "0:0")).contains("no block device 0:0"));
    for text in ["8", "8:", ":0", "8:0 ", "+8:0", "8:0:0", "sda", "4294967296:0", "../../etc:0"] {
        assert!(shown(disks_of_device(&host, text)).contains("not a device number"), "{text}");
    }
    let found = host.stat(Path::new("/data")).unwrap();
    assert!(
        shown(disks_of_path(&host, Path::new("data"), &found)).contains("not an absolute path")
    );
}

#[test]
fn a_mount_that_is_in_no_table_is_refused() {
    let host = Recorded::host("stat /gone 0:99 99");
    assert!(host.disks("/gone").contains("mount 99, which is not in"));
}

#[test]
fn weights_divide_where_io_cost_or_bfq_is_on() {
    let host = Recorded::host(SCSI);
    let weigher = |path: &str, qos| weight_policy(&host, &at(&host, path).unwrap(), qos);
    assert_eq!(weigher("/home", ""), Some(WeightPolicy::Bfq));
    assert_eq!(weigher("/data", ""), None);
    let qos = "8:16 enable=1 ctrl=auto rpct=0.00 rlat=250000 wpct=0.00 wlat=250000 min=1.00 max=10000.00\n\
               8:160 enable=1\n";
    assert_eq!(weigher("/data", qos), Some(WeightPolicy::Cost));
    assert_eq!(weigher("/data", "8:16 enable=0 ctrl=user\n8:160 enable=1\n"), None);
}

#[test]
fn this_host_can_be_looked_at() {
    let proc = at(&LocalHost, "/proc/self");
    assert!(matches!(proc, Err(DiskError::FileSystem { kind, .. }) if kind == "proc"));
    assert_eq!(LocalHost.stat(Path::new("/absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    // What it says about a disk, the kernel says too.
    if let Ok(disks) = at(&LocalHost, env!("CARGO_MANIFEST_DIR")) {
        assert_eq!(shown(disks_of_device(&LocalHost, &disks.devices[0].to_string())), {
            let first = &disks.devices[0];
            format!("{first} {}", first.name)
        });
    }
}
