#!/usr/bin/env bash
# A database machine with a swap file and temporary files: what crosses the wire with and without a filter. No root is needed.
#   docs/examples/filter-demo.sh     from a checkout, after scripts/setup; in a scratch folder, some 10 seconds
# debugfs says where the machine's files lie; qemu-io writes there through NBD, as the machine's kernel would.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
understudy="node dist/cli/main.js"

# The machine's disk: ext4 with a database of 16 MiB, a swap file of 64 MiB and temporary files of 32 MiB.
mkdir -p "$work"/tree/{srv/db,var/tmp}
for file in srv/db/data:16 swapfile:64 var/tmp/sort:32; do
  head -c "${file#*:}M" /dev/urandom >"$work/tree/${file%:*}"
done
mke2fs -q -F -m 0 -t ext4 -b 4096 -d "$work/tree" "$work/fresh.img" 192M >/dev/null

# The first block of a file, in bytes; mke2fs lays a file of this size out in long runs.
place() { echo $(($(debugfs -R "bmap $1 0" "$work/fresh.img" 2>/dev/null) * 4096)); }
write() { # FILE MiB: over its first bytes, through NBD
  qemu-io -f raw -c "write -q -P 81 $(place "$1") $2M" "$uri"
}

run() { # NAME FLAGS OF THE MASTER...
  local name=$1 at="$work/${1// /-}" port=$2
  shift 2
  mkdir "$at"
  cp --sparse=always "$work/fresh.img" "$at/disk.img"
  local standby
  standby=$($understudy identity --state "$at/s")
  $understudy standby --state "$at/s" --store "$at/store" --listen "127.0.0.1:$port" \
    --allow "$($understudy identity --state "$at/m")" &>"$at/standby.log" &
  $understudy master --state "$at/m" --device "$at/disk.img" --export vm --listen "unix:$at/nbd.sock" \
    --standby "$standby@127.0.0.1:$port" --metrics "127.0.0.1:$((port + 1))" "$@" &>"$at/master.log" &
  until $understudy status --state "$at/m" &>/dev/null; do
    kill -0 $! || { cat "$at/master.log"; exit 1; }
    sleep 0.1
  done
  $understudy wait vm --for protected --timeout 60s --state "$at/m" >/dev/null
  uri="nbd+unix:///vm?socket=$at/nbd.sock"

  write /srv/db/data 8
  for _ in 1 2; do write /swapfile 24; done
  write /var/tmp/sort 16
  $understudy wait vm --for drained --timeout 60s --state "$at/m" >/dev/null
  echo "== $name"
  curl -s "http://127.0.0.1:$((port + 1))/metrics" |
    grep -E '^understudy_(resync_sent_bytes|sent_bytes_total|filter_rule_saved_bytes_total)' |
    sed -E 's/(volume|group|role|kind)="[^"]*",?//g; s/[{]}//; s/,}/}/'
  $understudy verify vm --state "$at/m" | tail -1
}

run "without a filter" "${PORT:-7500}"
run "with a filter" "$((${PORT:-7500} + 2))" --exclude-files /swapfile --exclude-files '/var/tmp/**'
