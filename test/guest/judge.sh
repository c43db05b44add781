#!/bin/sh
# Init of a second guest: mounts copies and what the master had at the same cut, read-only, and compares their files.
# `pairs` of disks (ubda and ubdb are the first) comes from the kernel's command line. A database of a program that syncs must be whole.
. "$here/common.sh"

mkdir /run/master /run/databases
set -- a b c d e f g h i j k l m n o p
number=0
while [ $number -lt "$pairs" ]; do
  must "mount the copy of cut $number" mount -t ext4 -o ro "/dev/ubd$1" /run/disk
  must "mount the master's of cut $number" mount -t ext4 -o ro "/dev/ubd$2" /run/master
  "$here/same-files.py" /run/disk /run/master | sed "s/^/GUEST: cut $number: /"
  if [ -e /run/disk/srv/database/db ]; then
    rm -f /run/databases/*
    cp /run/disk/srv/database/db* /run/databases/
    tell "cut $number: database $(sqlite3 /run/databases/db 'pragma integrity_check' 2>&1 | tr '\n' ' ')"
  fi
  umount /run/disk
  umount /run/master
  shift 2
  number=$((number + 1))
done
leave done
