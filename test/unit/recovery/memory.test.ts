import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Test, test } from 'tap'

import { cacheProblem, readMemory, reserveBytes } from '../../../src/recovery/memory.js'

const [MiB, GiB] = [2 ** 20, 2 ** 30]
const host = {
  'proc/meminfo': 'MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n',
  'proc/self/status': 'Name:\tnode\nCapEff:\t0000000000000000\n',
  'proc/self/limits': 'Max locked memory         8388608              8388608              bytes     \n',
}

function root(t: Test, files: Record<string, string>): string {
  const folder = t.testdir({})
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  return folder
}

test('what may be locked: RLIMIT_MEMLOCK, or all with CAP_IPC_LOCK', async t => {
  t.match(readMemory(root(t, host)), { lockableBytes: 8 * MiB, totalBytes: 16 * GiB, availableBytes: 8 * GiB })
  const capable = { ...host, 'proc/self/status': 'CapEff:\t000001ffffffffff\n' }
  t.equal(readMemory(root(t, capable)).lockableBytes, Infinity)
  const unlimited = {
    ...host,
    'proc/self/limits': 'Max locked memory         unlimited            unlimited            bytes     \n',
  }
  t.equal(readMemory(root(t, unlimited)).lockableBytes, Infinity)
})

test('the memory cgroup with the least counts, its page cache as free (v2)', async t => {
  const files = {
    ...host,
    'proc/self/cgroup': '0::/system.slice/understudy.service\n',
    'sys/fs/cgroup/system.slice/understudy.service/memory.max': 'max\n',
    'sys/fs/cgroup/system.slice/memory.max': `${4 * GiB}\n`,
    'sys/fs/cgroup/system.slice/memory.current': `${3 * GiB}\n`,
    'sys/fs/cgroup/system.slice/memory.stat': `anon 5\ninactive_file ${GiB / 2}\nactive_file ${GiB / 4}\n`,
  }
  t.match(readMemory(root(t, files)), { totalBytes: 4 * GiB, availableBytes: 1.75 * GiB })
})

test('the memory cgroup of version 1', async t => {
  const files = {
    ...host,
    'proc/self/cgroup': '5:cpu,cpuacct:/\n4:memory:/box\n0::/\n',
    'sys/fs/cgroup/memory/box/memory.limit_in_bytes': `${2 * GiB}\n`,
    'sys/fs/cgroup/memory/box/memory.usage_in_bytes': `${GiB}\n`,
    'sys/fs/cgroup/memory/box/memory.stat': `inactive_file 7\ntotal_inactive_file ${GiB / 4}\ntotal_active_file 0\n`,
  }
  t.match(readMemory(root(t, files)), { totalBytes: 2 * GiB, availableBytes: 1.25 * GiB })
})

test('where there is no /proc nothing is known to be missing', async t => {
  t.match(readMemory(root(t, {})), { totalBytes: Infinity, availableBytes: Infinity })
  t.ok(readMemory().totalBytes > 64 * MiB, 'this host has some')
})

test('a cache that cannot be had says how much is missing, and of what', async t => {
  const memory = { lockableBytes: 8 * MiB, totalBytes: 16 * GiB, availableBytes: GiB }
  t.match(
    cacheProblem(GiB, memory),
    'no memory for a cache of 1 GiB: this process may lock 8 MiB (RLIMIT_MEMLOCK), 1016 MiB are missing; raise it (LimitMEMLOCK= of the systemd unit',
  )
  t.equal(reserveBytes(memory), GiB)
  t.match(
    cacheProblem(20 * GiB, { ...memory, lockableBytes: Infinity }),
    /no memory for a cache of 20 GiB: this host.* has 16 GiB, of which 15 GiB may be locked; 5 GiB are missing/,
  )
  t.equal(cacheProblem(15 * GiB, { ...memory, lockableBytes: Infinity }), '')
})
