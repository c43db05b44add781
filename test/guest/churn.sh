#!/bin/sh
# Init of a guest that mounts the file system of an export and changes it at random. `options` of the mount, `seed`,
# `rounds` and `sector` come from the kernel's command line.
. "$here/common.sh"

must 'the nbd module loads' insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=1
"$here/wire.py" guest /run/nbd.sock /dev/ttyS0 &
while [ ! -S /run/nbd.sock ]; do sleep 0.05; done
must 'nbd-client connects' nbd-client -unix /run/nbd.sock /dev/nbd0 -N disk1 -b "$sector"
must 'mount' mount -t ext4 -o "$options" /dev/nbd0 /run/disk
must 'churn' "$here/churn.py" /run/disk "$seed" "$rounds"
must 'umount' umount /run/disk
must 'nbd-client disconnects' nbd-client -d /dev/nbd0
leave done
