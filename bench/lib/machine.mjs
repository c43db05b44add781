// Where a figure was measured: without it a figure means nothing.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { versionOf } from './processes.mjs'

export function machine(scratch) {
  const first = text => text.split('\n')[0]
  return {
    time: new Date().toISOString(),
    processor: os.cpus()[0]?.model ?? 'unknown',
    cores: os.cpus().length,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: os.release(),
    load: os.loadavg().map(value => Number(value.toFixed(2))),
    scratch: `${scratch} (${first(execFileSync('stat', ['-f', '-c', '%T', scratch], { encoding: 'utf8' }))})`,
    versions: {
      node: process.version,
      fio: versionOf('fio'),
      nbdkit: versionOf('nbdkit'),
      qemu: versionOf('qemu-storage-daemon'),
      understudy: JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version,
    },
  }
}

export function describe(facts) {
  const { versions } = facts
  return [
    `${facts.processor}, ${facts.cores} cores, ${facts.memoryGiB} GiB, Linux ${facts.kernel}, load ${facts.load.join(' ')}`,
    `scratch on ${facts.scratch}; ${versions.fio}, ${versions.nbdkit}, ${versions.qemu}, node ${versions.node}`,
  ]
}
