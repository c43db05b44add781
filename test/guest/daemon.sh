# Sourced by the init scripts of guests in which the daemon itself runs: the guest's disk is its volume, and the guest's
# kernel its client. `main` (the program) and `node` come from the kernel's command line.
must 'the nbd module loads' insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=2
export TMPDIR=/run  # and not a tmpfs on /tmp: the program may lie there

understudy() { "$node" "$main" "$@"; }

cat >/run/understudy.toml <<END
state = "/run/state"
[nbd]
listen = ["unix:/run/nbd.sock"]
[[group]]
name = "disk1"
[[group.volume]]
export = "disk1"
device = "/dev/ubda"
END

# Starts it in the background; returns when it says that it is ready.
start_daemon() {
  : >/run/daemon.out
  "$node" "$main" run --config /run/understudy.toml "$@" >/run/daemon.out 2>>/run/daemon.log &
  daemon=$!
  while ! grep -q ready /run/daemon.out; do
    kill -0 $daemon 2>/dev/null || { cat /run/daemon.log; leave failed; }
    sleep 0.1
  done
}

# What has to be seen from the outside: the exit code, and what was said, on one line.
try() {
  said=$(understudy "$@" --state /run/state 2>&1)
  tell "exit $? of $1: $said"
}

# Threads on the data path that allocate without I/O and are throttled by their own disk alone (linux/sched.h).
tell_guard() {
  for task in /proc/$daemon/task/*; do
    read -r name <$task/comm
    read -r stat <$task/stat
    set -- ${stat##*) }
    case $name in us-engine | us-worker) tell "thread $name $(($7 & 0x180000))" ;; esac
  done
  while read -r name value; do [ "$name" = VmLck: ] && tell "$name $value"; done </proc/$daemon/status
}
