// Where a figure was measured: without it a figure means nothing.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { cpuSeconds, versionOf } from './processes.mjs'

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

/** What all processors have done so far, and what this program and all that it has started have taken of it; in seconds. */
export function busyTime() {
  const fields = readFileSync('/proc/stat', 'utf8').split('\n')[0].split(/ +/).slice(1, 9).map(Number)
  const [user, nice, system, idle, ioWait, interrupts, softInterrupts, stolen] = fields
  const busy = (user + nice + system + interrupts + softInterrupts + stolen) / 100
  return { busy, whole: busy + (idle + ioWait) / 100, own: cpuSeconds(process.pid) }
}

/** The share of the processors that others had between two looks: 0 on a quiet machine. */
export function shareOfOthers(before, after) {
  const whole = after.whole - before.whole
  const others = after.busy - before.busy - (after.own - before.own)
  return whole > 0 ? Math.max(0, others / whole) : 0
}
