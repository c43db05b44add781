#!/bin/sh
# Init of a user-mode-linux guest: DRBD 8.4 (protocols A and C) and this program (async and received), one after the other,
# each with both sides in this guest, on disks in memory, without flushes. fio writes to the block device of each. Prints
# `GUEST: figure PEER DEPTH RATE P50 P99` (us). `seconds`, `main` and `node` come from the kernel's command line.
. "$tests/common.sh"
modules=/usr/lib/uml/modules/$(uname -r)/kernel
load() { must "module $1" insmod "$modules/$@"; }
load lib/lru_cache.ko
load drivers/block/brd.ko rd_nr=3 rd_size=131072
load drivers/block/nbd.ko nbds_max=1
load drivers/block/drbd/drbd.ko usermode_helper=disabled
ip link set lo up
mount -t tmpfs lib /var/lib
mkdir -p /var/lib/drbd /run/lock

flags="--name=guest --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --time_based --runtime=$seconds --size=96m --output-format=terse --terse-version=3"
# A rate counts until everything is applied; what DRBD has not applied yet when fio ends is at most its send buffer.
measure() { # peer device [control socket of the master]
  for depth in 1 8; do
    late=0
    if [ -z "${3-}" ]; then
      fio $flags --filename="$2" --iodepth=$depth >/run/terse
    else
      late=$(python3 "${0%/*}/applied.py" "$3" fio $flags --filename="$2" --iodepth=$depth 2>/run/terse)
    fi
    # fio(1), terse version 3: field 49 is writes a second; percentiles of writes come after those of reads
    tell "figure $1 $depth $(awk -F';' -v seconds="$seconds" -v late="$late" '$2 ~ /^fio/ {
      for (i = 50; i <= NF; i++) { split($i, part, "="); at[part[1]] = part[2] }
      print $49 * seconds / (seconds + late), at["50.000000%"], at["99.000000%"] }' /run/terse) $late"
  done
}

# ---- DRBD --------------------------------------------------------------------------------------------------------------
setup=/lib/drbd/drbdsetup-84
for i in 0 1; do
  drbdmeta --force $i v08 /dev/ram$i internal create-md >/dev/null 2>&1
  $setup new-resource r$i
  $setup new-minor r$i $i 0
  must "attach $i" $setup attach $i /dev/ram$i /dev/ram$i internal --disk-flushes=no --md-flushes=no
done
one=ipv4:127.0.0.1:7788 other=ipv4:127.0.0.1:7789
connected() { grep -q ' 0: cs:Connected.*UpToDate/UpToDate' /proc/drbd; }
for protocol in C A; do
  $setup connect r0 $one $other --protocol=$protocol
  $setup connect r1 $other $one --protocol=$protocol
  [ $protocol = A ] || $setup primary 0 --force
  tries=0
  until connected || [ $tries = 600 ]; do sleep 0.1; tries=$((tries + 1)); done
  must "DRBD is in sync, protocol $protocol" connected
  measure drbd-$protocol /dev/drbd0
  $setup disconnect $one $other
  $setup disconnect $other $one
done
$setup secondary 0
$setup detach 0
$setup detach 1

# ---- this program --------------------------------------------------------------------------------------------------------
understudy() { "$node" "$main" "$@"; }
id() { understudy identity --state "$1" | grep -o '[0-9a-f]\{64\}'; }
master_id=$(id /run/m) standby_id=$(id /run/s)
# Not by the function: $! would be a shell around it.
"$node" "$main" standby --state /run/s --store /run/store --listen 127.0.0.1:7400 --allow "$master_id" >/dev/null 2>&1 &
for durability in async received; do
  "$node" "$main" master --state /run/m --device /dev/ram2 --export disk --listen unix:/run/nbd.sock --durability $durability \
    --standby "$standby_id@127.0.0.1:7400" >/dev/null 2>&1 &
  master=$!
  tries=0
  until [ -S /run/m/control.sock ] || [ $tries = 300 ]; do sleep 0.1; tries=$((tries + 1)); done
  must "understudy is in sync, $durability" understudy wait disk --for protected --timeout 60s --state /run/m
  nbd-client -unix /run/nbd.sock /dev/nbd0 -N disk -b 4096 >/dev/null 2>&1
  measure guest-$durability /dev/nbd0 /run/m/control.sock
  must 'all of it is applied' understudy wait disk --for drained --timeout 60s --state /run/m
  nbd-client -d /dev/nbd0 >/dev/null 2>&1
  kill $master
  wait $master
done
leave done
