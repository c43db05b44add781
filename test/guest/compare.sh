#!/bin/sh
# Init of the second guest: the standby's image as its disk.
. "$here/common.sh"

must 'fsck is clean' fsck.ext4 -fn "$disk"
must 'mount' mount -t ext4 -o ro "$disk" /run/disk
list_disk
must 'umount' umount /run/disk
leave done
