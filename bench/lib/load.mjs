// One measurement of one peer: our load generator (load/), the server's CPU, and, of a replicating peer, the time until
// all of it was applied.
import { fileURLToPath } from 'node:url'
import { cpuSeconds, run } from './processes.mjs'
import { secondsUntilApplied, voidReason } from './void.mjs'

const program = fileURLToPath(new URL('../../build/bench/load', import.meta.url))

/** Where a peer serves NBD: { unix } or { tcp: 'HOST:PORT' }, and { export } or, a connection each, { exports }. */
function placeOf(target) {
  const where = target.unix === undefined ? ['--tcp', target.tcp] : ['--unix', target.unix]
  const names = target.exports ?? [target.export ?? '']
  return [...where, ...names.flatMap(name => ['--export', name])]
}

function flagsOf(load, target) {
  const connections = load.connections ?? target.exports?.length ?? 1
  const flags = ['--block', load.block, '--depth', load.depth, '--connections', connections]
  if (load.sequential) flags.push('--sequential')
  if (load.reads) flags.push('--reads', load.reads, '--verify')
  if (load.flushEvery) flags.push('--flush-every', load.flushEvery)
  if (load.regions) flags.push('--regions', load.regions)
  return flags.map(String)
}

/** Runs the load generator; `amount` is ['--seconds', N] or ['--requests', N]. */
export async function put(target, load, amount, seed = 1, limitSeconds = 900) {
  const args = [...placeOf(target), ...flagsOf(load, target), ...amount.map(String), '--seed', String(seed)]
  return JSON.parse(await run(program, args, limitSeconds))
}

/**
 * Writes everything once, so that no measurement pays for allocating pages. On a disk in pieces of 4 KiB: ext4 keeps what
 * was written at once as one folio in the page cache, and a small write into a large folio costs three to six times as
 * much, its sync half as much again. A block device has no large ones; a file that was written in small pieces neither.
 */
export async function fill(target, sizeBytes, place) {
  const block = fillBlocks[place]
  await put(target, { block, depth: 8, sequential: true }, ['--requests', sizeBytes / block])
}

const fillBlocks = { memory: 1 << 20, disk: 4096 }

/**
 * A peer is { target, processes: { name: pid }, settled() }. settled() waits until applied = written and says
 * { atMs, detaches, logBytes }; null of what does not replicate, or has done so when it answers.
 */
export async function measureLoad(peer, load, seconds, seed) {
  const before = await peer.settled()
  const cpuBefore = cpuOf(peer)
  const found = await put(peer.target, load, ['--seconds', seconds], seed)
  const after = await peer.settled()
  const cpuAfter = cpuOf(peer)
  const took = secondsUntilApplied(found, after)
  const amount = load.unit === 'bytes' ? found.bytes : found.requests
  const perRequest = name => ((cpuAfter[name] - cpuBefore[name]) * 1e6) / found.requests
  const names = Object.keys(cpuBefore)
  return {
    void: voidReason(before, after),
    ...(after !== null && load.reads !== 100 && { waited: waitedFor(before, after) }),
    rate: amount / took,
    clientRate: amount / found.seconds,
    seconds: took,
    ...latencies(found),
    cpuUs: names.reduce((sum, name) => sum + perRequest(name), 0),
    ...Object.fromEntries(names.map(name => [`${name}CpuUs`, perRequest(name)])),
    clientCpuUs: (found.cpuSeconds * 1e6) / found.requests,
    ...(after?.fsyncs !== undefined && { writesPerFsync: found.writes / Math.max(1, after.fsyncs - before.fsyncs) }),
  }
}

/** What voids a measurement, or does not, in the result: anybody may look. */
const waitedFor = (before, after) => ({
  detaches: after.detaches - before.detaches,
  logBytesBefore: before.logBytes,
  logBytesAfter: after.logBytes,
})

function latencies({ latencyUs, flushUs }) {
  const { p50, p95, p99, p999, max } = latencyUs
  const sample = { p50Us: p50, p95Us: p95, p99Us: p99, p999Us: p999, maxUs: max, tail: p99 / p50 }
  if (flushUs.count === 0) return sample
  return { ...sample, flushP50Us: flushUs.p50, flushP99Us: flushUs.p99 }
}

const cpuOf = peer =>
  Object.fromEntries(Object.entries(peer.processes).map(([name, program]) => [name, cpuSeconds(program.pid)]))
