// Where a figure was measured: without it a figure means nothing.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { versionOf } from './processes.mjs'

export function machine(scratch, disk) {
  const first = text => text.split('\n')[0]
  const fileSystem = path => `${path} (${first(execFileSync('stat', ['-f', '-c', '%T', path], { encoding: 'utf8' }))})`
  return {
    time: new Date().toISOString(),
    processor: os.cpus()[0]?.model ?? 'unknown',
    cores: os.cpus().length,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: os.release(),
    load: os.loadavg().map(value => Number(value.toFixed(2))),
    commit: first(
      spawnSync('git', ['describe', '--always', '--dirty', '--abbrev=10'], { encoding: 'utf8' }).stdout ?? '',
    ),
    scratch: fileSystem(scratch),
    disk: fileSystem(disk),
    versions: {
      node: `node ${process.version}`,
      nbdkit: versionOf('nbdkit'),
      qemu: versionOf('qemu-storage-daemon'),
      nbdServer: `nbd-server ${/version ([0-9.]+)/.exec(versionOf('nbd-server', ['-V']))?.[1] ?? ''}`,
      understudy:
        'understudy ' + JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version,
    },
  }
}

export function describe(facts) {
  const { versions } = facts
  return [
    `${facts.processor}, ${facts.cores} cores, ${facts.memoryGiB} GiB, Linux ${facts.kernel}, load ${facts.load.join(' ')}`,
    `memory: ${facts.scratch}, disk: ${facts.disk}; ${Object.values(versions).join(', ')}`,
  ]
}
