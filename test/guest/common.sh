# Sourced by the guests' init scripts: a minimal system over the host's file system, which is read-only in here.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir /run/disk
cd /

# Every line that the test reads has a mark in front; the kernel and the tools may say what they like beside it.
tell() { echo "GUEST: $*"; }

leave() {
  tell "end $1"
  echo o >/proc/sysrq-trigger
  sleep 5
  poweroff -f
}

must() { # what, command...: goes on or ends the guest
  what=$1
  shift
  if "$@"; then tell "ok $what"; else
    tell "failed $what"
    leave failed
  fi
}

# What is in the mounted file system: types, modes, sizes, names, link targets; then the hash of every file.
list_disk() {
  cd /run/disk
  find . -xdev ! -type d -printf 'ENTRY: %y %m %s %p %l\n' | sort
  find . -xdev -type d -printf 'ENTRY: %y %m %p\n' | sort
  find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum | sed 's/^/HASH: /'
  cd /
}
