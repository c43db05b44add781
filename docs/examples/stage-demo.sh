#!/usr/bin/env bash
# A machine whose master is killed goes on stage on the standby's host. No root is needed; some ten seconds.
#   docs/examples/stage-demo.sh     from a checkout, after scripts/setup --test; in a scratch folder
# The machine is a boot sector that says what sector 1 of its disk holds, and ends QEMU: it shows what a guest finds.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$work"' EXIT
understudy="node dist/cli/main.js"
port=${PORT:-7520}

# Reads sector 1 through the BIOS, prints its text on the serial line (test/support/boot-sector.ts has it in words).
truncate -s 1G "$work/disk.img"
printf '%b' '\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfc\xbe\x35\x7c\xb4\x42\xcd\x13\xbe\x00\x7e\xac\x84\xc0\x74\x12\x88\xc4\xba\xfd\x03\xec\xa8\x20\x74\xfb\x88\xe0\xba\xf8\x03\xee\xeb\xe9\x30\xc0\xe6\xf4\xf4\xeb\xfd\x10\x00\x01\x00\x00\x7e\x00\x00\x01' |
  dd of="$work/disk.img" conv=notrunc status=none
printf '\x55\xaa' | dd of="$work/disk.img" bs=1 seek=510 conv=notrunc status=none

standby=$($understudy identity --state "$work/s")
$understudy standby --state "$work/s" --store "$work/store" --listen "127.0.0.1:$port" \
  --allow "$($understudy identity --state "$work/m")" &>"$work/standby.log" &
until $understudy status --state "$work/s" &>/dev/null; do sleep 0.1; done
$understudy master --state "$work/m" --device "$work/disk.img" --export web --listen "unix:$work/nbd.sock" \
  --standby "$standby@127.0.0.1:$port" --peer-timeout 10m &>"$work/master.log" &
master=$!
until $understudy status --state "$work/m" &>/dev/null; do sleep 0.1; done
$understudy wait web --for protected --timeout 60s --state "$work/m" >/dev/null

echo "== a machine is added: image.raw as it is, described for other hypervisors"
$understudy vm add web --group web --memory 64M --firmware bios --qemu-args '-accel tcg' --state "$work/s" | head -1
$understudy vm list --state "$work/s"
ls -s --block-size=1 "$work/store/web" | tail -n +2

echo "== a client writes a counter with fsync; the master is killed"
/usr/bin/python3 - "$work/nbd.sock" "$work/counter" <<'CLIENT' &
import nbd, sys
handle = nbd.NBD()
handle.set_export_name('web')
handle.connect_unix(sys.argv[1])
number = 0
try:
    while True:
        number += 1
        handle.pwrite(f'counter {number}\n'.encode().ljust(512, b'\0'), 512)
        handle.flush()
        with open(sys.argv[2], 'w') as done:
            done.write(f'{number}\n')
except nbd.Error:
    pass
CLIENT
client=$!
until [[ $(cat "$work/counter" 2>/dev/null) -ge 400 ]]; do sleep 0.05; done
kill -KILL "$master"
wait "$client" "$master" 2>/dev/null || true
echo "the last one whose fsync had returned: $(cat "$work/counter")"

echo "== its copy goes on stage"
$understudy promote web --accept-loss --listen "unix:$work/store/.groups/web/nbd.sock" --state "$work/s" | tail -1
"$work/store/.groups/web/machines/web.sh" -display none -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=1 || true
