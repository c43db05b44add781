#!/bin/sh
# Init of a guest: ext4 on a volume that the daemon has attached; the daemon is killed under load and started again.
. "$here/common.sh"
. "$here/daemon.sh"

try attach disk1 /dev/nbd0
start_daemon
must 'attach' understudy attach disk1 /dev/nbd0 --state /run/state
try attach disk1 /dev/nbd1
must 'mkfs.ext4' mkfs.ext4 -q -F /dev/nbd0
must 'mount' mount -t ext4 /dev/nbd0 /run/disk
try detach /dev/nbd0

"$here/load.py" files /run/disk /run/load &
load=$!
while [ ! -s /run/load ] || [ "$(cat /run/load)" -lt 50 ]; do sleep 0.1; done
kill -9 $daemon
wait $daemon
tell "synced $(cat /run/load) at the kill"
sleep 1
tell "synced $(cat /run/load) while there is no daemon"
start_daemon
before=$(cat /run/load)
while [ "$(cat /run/load)" -lt $((before + 50)) ] && kill -0 $load 2>/dev/null; do sleep 0.1; done
tell "synced $(cat /run/load) after the restart"

predecessor=$daemon
start_daemon --takeover --max-stall 10s  # here is shown that the kernel does not notice; how long it takes is not a matter of this slow machine
wait $predecessor
tell "takeover $?"
before=$(cat /run/load)
while [ "$(cat /run/load)" -lt $((before + 50)) ] && kill -0 $load 2>/dev/null; do sleep 0.1; done
tell "synced $(cat /run/load) after the takeover"
tell "connected again $(grep -c 'is connected again' /run/daemon.log)"
touch /run/load.stop
must 'the load saw no error, and reads what it wrote' wait $load
tell "status $(understudy status --json --state /run/state | tr -d '\n ' | grep -o '"attachments":[^]]*')"

must 'umount' umount /run/disk
must 'fsck is clean' fsck.ext4 -fn /dev/nbd0
must 'mount again' mount -t ext4 /dev/nbd0 /run/disk
must 'what was synced is on the disk' "$here/load.py" check /run/disk
must 'umount again' umount /run/disk
try detach disk1
tell "errors $(dmesg | grep -c 'I/O error')"
kill -TERM $daemon
wait $daemon
tell "daemon $?"
leave done
