#!/bin/sh
# Init of a guest with little memory: twice as much of dirty pages as it has, through a volume that its own daemon serves.
. "$here/common.sh"
. "$here/daemon.sh"

start_daemon
must 'attach' understudy attach disk1 /dev/nbd0 --state /run/state
tell "memory $(sed -n 's/MemTotal: *//p' /proc/meminfo)"
must 'everything is written' "$here/load.py" fill /dev/nbd0 "$megabytes"
must 'and reads back' "$here/load.py" check-fill /dev/nbd0 "$megabytes"
tell_guard
tell "errors $(dmesg | grep -c 'I/O error')"
leave done
