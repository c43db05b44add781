#!/bin/sh
# Init of the first guest: the kernel's own NBD client, and a file system on it. `here` and `files` come from the kernel's command line.
. "$here/common.sh"

must 'the nbd module loads' insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=1
"$here/wire.py" guest /run/nbd.sock /dev/ttyS0 &
while [ ! -S /run/nbd.sock ]; do sleep 0.1; done
must 'nbd-client connects' nbd-client -unix /run/nbd.sock /dev/nbd0 -N disk1 -b 4096
tell "size $(cat /sys/block/nbd0/size) cache $(cat /sys/block/nbd0/queue/write_cache)"

must 'mkfs.ext4' mkfs.ext4 -q -F /dev/nbd0
must 'mount' mount -t ext4 /dev/nbd0 /run/disk
must 'files are copied' cp -r "$files" /run/disk/copied
must 'a file of random bytes' dd if=/dev/urandom of=/run/disk/random bs=64k count=32 status=none
must 'a sparse file' dd if=/dev/urandom of=/run/disk/sparse bs=4k count=1 seek=500 status=none
i=0
while [ $i -lt 60 ]; do
  echo "file $i" >"/run/disk/small-$i"
  i=$((i + 1))
done
must 'sync' sync
must 'rename, remove, truncate, link' sh -c 'cd /run/disk && mv small-1 renamed && rm small-2 && truncate -s 100 random && ln -s renamed link && ln renamed hard && mkdir -p a/b/c'
must 'sync again' sync
list_disk
must 'umount' umount /run/disk
must 'fsck is clean' fsck.ext4 -fn /dev/nbd0
must 'nbd-client disconnects' nbd-client -d /dev/nbd0
leave done
