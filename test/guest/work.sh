#!/bin/sh
# Init of a guest that works with the files of a file system that the master serves, for so many `seconds`. `options` of
# the mount, `sector`, `seed`, `kinds` (of work.py, with commas), `files` (a folder to be copied), `size` of the file system
# in KiB with a k, and `remake` (a command that makes it anew in the middle) come from the kernel's command line.
. "$here/common.sh"

must 'the nbd module loads' insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=1
"$here/wire.py" guest /run/nbd.sock /dev/ttyS0 &
while [ ! -S /run/nbd.sock ]; do sleep 0.05; done
must 'nbd-client connects' nbd-client -unix /run/nbd.sock /dev/nbd0 -N disk1 -b "$sector"
must 'mount' mount -t ext4 -o "$options" /dev/nbd0 /run/disk
tell 'mounted'
export size
if [ -n "$remake" ]; then
  seconds=$((seconds / 2))
  must 'work' "$here/work.py" /run/disk "$seed" "$seconds" "$kinds" "$files"
  must 'umount' umount /run/disk
  must 'made anew' $remake
  must 'mount' mount -t ext4 -o "$options" /dev/nbd0 /run/disk
fi
must 'work' "$here/work.py" /run/disk "$seed" "$seconds" "$kinds" "$files"
must 'umount' umount /run/disk
must 'nbd-client disconnects' nbd-client -d /dev/nbd0
leave done
