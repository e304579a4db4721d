#!/bin/sh
# Started by testbed.service in the images with systemd. Which run this is stands on the kernel's
# command line; everything else comes with the run.
set -eu
RUN=$(sed -n 's/.*testbed=\([^ ]*\).*/\1/p' /proc/cmdline)
mkdir -p "$RUN"
mount -t hostfs -o "$RUN" hostfs "$RUN"
. "$RUN/mounts.sh"
mkdir -p "$WORKSPACE"
mount -t hostfs -o "ro,$WORKSPACE" hostfs "$WORKSPACE"
mkdir -p "$TARGET" 2>/dev/null || true
mount -t hostfs -o "$TARGET" hostfs "$TARGET"
# The kernel is the host's, and so are its modules; nothing here loads them by itself.
mkdir -p /usr/lib/uml
mount -t hostfs -o "ro,/usr/lib/uml" hostfs /usr/lib/uml
insmod /usr/lib/uml/modules/"$(uname -r)"/kernel/fs/overlayfs/overlay.ko*
. "$RUN/run.sh"
