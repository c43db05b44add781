// One load through fio's nbd engine.
import { run } from './processes.mjs'

/** What is measured: pattern, block size, requests in flight. */
export const loads = [
  { name: '4 KiB random, depth 32', pattern: 'randwrite', block: '4k', depth: 32, unit: 'iops' },
  { name: '4 KiB random, depth 1', pattern: 'randwrite', block: '4k', depth: 1, unit: 'iops' },
  { name: '1 MiB sequential, depth 8', pattern: 'write', block: '1m', depth: 8, unit: 'bytes' },
]

// The engine comes first: its own options are not known before.
const common = ['--name=load', '--ioengine=nbd', '--randrepeat=0', '--norandommap', '--output-format=json']

/** fio tells when it prints its report, not when it wrote last: up to this long before (seen with nbdkit's log: 12 ms). */
const reportDelayMs = 15

/** Returns { bytes, operations, beganMs, seconds, p50us, p99us }: beganMs is wall-clock time, rather too early. */
export async function fio(uri, load, sizeBytes, seconds) {
  const text = await run('fio', [
    ...common, `--uri=${uri}`, `--rw=${load.pattern}`, `--bs=${load.block}`, `--iodepth=${load.depth}`,
    `--size=${sizeBytes}`, '--time_based', `--runtime=${seconds}`, ...(load.more ?? []),
  ], seconds + 60) // prettier-ignore
  return parse(text)
}

/** Writes everything once, so that no measurement pays for allocating pages. */
export async function fill(uri, sizeBytes) {
  parse(await run('fio', [...common, `--uri=${uri}`, '--rw=write', '--bs=1m', '--iodepth=8', `--size=${sizeBytes}`]))
}

function parse(text) {
  const document = JSON.parse(text.slice(text.indexOf('{')))
  const job = document.jobs[0]
  if (job.error) throw new Error(`fio: error ${job.error}`)
  const { write } = job
  const percentile = write.clat_ns?.percentile ?? {}
  return {
    bytes: write.io_bytes,
    operations: write.total_ios,
    beganMs: document.timestamp_ms - write.runtime - reportDelayMs,
    seconds: write.runtime / 1000,
    p50us: (percentile['50.000000'] ?? 0) / 1000,
    p99us: (percentile['99.000000'] ?? 0) / 1000,
  }
}
