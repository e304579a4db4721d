# The end of every boot: runs RUN/command.sh, passes its output on byte by byte, leaves its status in
# RUN/status, and powers off. Two consoles (tty5, tty6) are pipes that the caller reads.

# A command that exhausts the memory must not take this script or the two cats with it.
echo -1000 >/proc/self/oom_score_adj

if [ -e /dev/ubdb ]; then
    mkdir -p /mnt/disk
    modules=/usr/lib/uml/modules/$(uname -r)/kernel/fs/quota
    if [ -e "$modules/quota_v2.ko" ]; then
        insmod "$modules/quota_tree.ko"
        insmod "$modules/quota_v2.ko"
    fi
    mount -t ext4 -o prjquota /dev/ubdb /mnt/disk 2>/dev/null || mount -t ext4 /dev/ubdb /mnt/disk
fi

# The caller holds the other end of this console. When it dies, however it dies, the machine does too.
{ cat /dev/tty7; echo o >/proc/sysrq-trigger; } >/dev/null 2>&1 &

mkdir -p /run/testbed
mkfifo /run/testbed/out /run/testbed/err
stty -F /dev/tty5 raw -echo
stty -F /dev/tty6 raw -echo
# The command gets pipes, not the terminals: programs write differently to a terminal.
cat /run/testbed/out >/dev/tty5 &
out=$!
cat /run/testbed/err >/dev/tty6 &
err=$!

status=0
sh "$RUN/command.sh" </dev/null >/run/testbed/out 2>/run/testbed/err || status=$?

# The VM ends with its command. Whatever that left running would hold a pipe open for ever.
holders=yes
while [ -n "$holders" ]; do
    holders=
    for fd in /proc/[0-9]*/fd/*; do
        if [ "$fd" -ef /run/testbed/out ] || [ "$fd" -ef /run/testbed/err ]; then
            pid=${fd#/proc/}
            pid=${pid%%/*}
            if [ "$pid" != "$out" ] && [ "$pid" != "$err" ]; then
                holders=yes
                kill -9 "$pid" || true
            fi
        fi
    done
done
wait "$out" "$err"
# tcsetattr waits until what was written has been taken by the reader.
stty -F /dev/tty5 raw -echo
stty -F /dev/tty6 raw -echo

echo "$status" >"$RUN/status"
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
