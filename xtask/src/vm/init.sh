# PID 1 of the testbed without systemd. The caller's lines above set RUN, TARGET and WORKSPACE.
#
# The host's whole tree is the root file system, read-only through hostfs, with everything that is
# written going to a throw-away ext4 (the first block device) by way of an overlay. TARGET, and it
# alone, is the host's own and writable.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/scratch /mnt/root
# The VM never outlives its disk: no barriers, so that an fsync in it does not wait for the host's.
mount -t ext4 -o nobarrier /dev/ubda /mnt/scratch
mkdir /mnt/scratch/upper /mnt/scratch/work /mnt/scratch/state
mkdir -m 1777 /mnt/scratch/tmp
insmod /usr/lib/uml/modules/"$(uname -r)"/kernel/fs/overlayfs/overlay.ko*
mount -t overlay -o lowerdir=/,upperdir=/mnt/scratch/upper,workdir=/mnt/scratch/work \
    overlay /mnt/root

cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
# Files of any size may be written to these, and limits on devices apply: not tmpfs.
mount --bind /mnt/scratch/tmp tmp
mkdir -p var/lib/job-broker mnt
mount --bind /mnt/scratch/state var/lib/job-broker
# Below /tmp or /run the source tree has just been hidden.
if [ ! -e ".$WORKSPACE/Cargo.toml" ]; then
    mkdir -p ".$WORKSPACE"
    mount -t hostfs -o "ro,$WORKSPACE" hostfs ".$WORKSPACE"
fi
[ -e ".$TARGET" ] || mkdir -p ".$TARGET"
mount -t hostfs -o "$TARGET" hostfs ".$TARGET"

mkdir run/host
pivot_root . run/host
cd /
umount -l /run/host
rmdir /run/host

mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=0620,gid=5,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf fd/0 /dev/stdin
ln -sf fd/1 /dev/stdout
ln -sf fd/2 /dev/stderr

mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
echo testbed >/proc/sys/kernel/hostname
# The kernel's default for PID 1 (1024/4096) is far below what systemd gives a service.
ulimit -H -n 524288

. "$RUN/run.sh"
