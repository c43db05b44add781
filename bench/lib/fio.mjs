// A load by fio's nbd engine: a second client, to check our own load generator with, and for patterns that it has not.
import { run } from './processes.mjs'

// The engine comes first: its own options are not known before.
const common = ['--name=load', '--ioengine=nbd', '--randrepeat=0', '--norandommap', '--output-format=json']

const uriOf = ({ unix, export: name = '' }) => `nbd+unix:///${name}?socket=${unix}`

/** Returns { rate, p50Us, p99Us, clientCpuUs }; `more`: flags of fio. */
export async function fio(target, load, sizeBytes, seconds, more = []) {
  const pattern = load.reads ? 'read' : 'write'
  const text = await run('fio', [
    ...common, `--uri=${uriOf(target)}`, `--rw=${load.sequential ? '' : 'rand'}${pattern}`, `--bs=${load.block}`, `--iodepth=${load.depth}`,
    `--size=${sizeBytes}`, '--time_based', `--runtime=${seconds}`, ...more,
  ], seconds + 60) // prettier-ignore
  const job = JSON.parse(text.slice(text.indexOf('{'))).jobs[0]
  if (job.error) throw new Error(`fio: error ${job.error}`)
  const { total_ios: requests, io_bytes: bytes, runtime, clat_ns: latency } = job[pattern]
  const percentile = name => (latency?.percentile?.[name] ?? 0) / 1000
  return {
    rate: ((load.unit === 'bytes' ? bytes : requests) * 1000) / runtime,
    ...{ p50Us: percentile('50.000000'), p99Us: percentile('99.000000') },
    clientCpuUs: ((job.usr_cpu + job.sys_cpu) * 10 * runtime) / requests,
  }
}
