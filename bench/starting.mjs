#!/usr/bin/env node
// How long a standby takes to be a machine's disk: `vm start --print`, from the request on the control socket to a READ
// that returns the last block that was flushed. A new pair each round: 10,000 random writes and a flush, the master is
// killed, the request follows at once, so that it meets what has not been replayed.
import { randomBytes, randomInt } from 'node:crypto'
import { closeSync, fsyncSync, mkdtempSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { attach } from './lib/nbd.mjs'
import { startPair, status } from './peers/understudy.mjs'

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '30' },
    sizes: { type: 'string', default: '1,4,16' },
    writes: { type: 'string', default: '10000' },
    disk: { type: 'string', default: '/var/tmp' },
  },
})
const block = 4096
const readyMs = 60_000

const parent = mkdtempSync(join(options.disk, 'us-starting-'))
process.on('exit', () => rmSync(parent, { recursive: true, force: true }))

console.log(
  'image | rounds | request to ready p50 / p95 / p99 / most | not yet replayed, median | replacing a file, median',
)
for (const gibibytes of options.sizes.split(',').map(Number)) {
  const found = []
  for (let round = 0; round < Number(options.rounds); round++) {
    const folder = mkdtempSync(join(parent, 'r-'))
    found.push(await measure(folder, gibibytes * 2 ** 30))
    rmSync(folder, { recursive: true, force: true })
  }
  const [ready, behind, replace] = ['readyMs', 'behind', 'replaceMs'].map(key => found.map(one => one[key]))
  const times = [50, 95, 99, 100].map(percent => at(ready, percent).toFixed(1)).join(' / ')
  console.log(`${gibibytes} GiB | ${ready.length} | ${times} ms | ${at(behind, 50)} | ${at(replace, 50).toFixed(1)} ms`)
}

async function measure(folder, sizeBytes) {
  const pair = await startPair({ folder, sizeBytes }, 'pair', [])
  const standby = join(folder, 'pair', 's')
  try {
    const memoryBytes = 64 << 20
    const machine = { name: 'web', group: 'bench', memoryBytes, cpus: 1, firmware: 'bios', bus: 'virtio' }
    await post(standby, '/vm/add', { ...machine, qemuArguments: [] })
    const client = await attach(pair.target.unix, pair.target.export)
    const offsets = Array.from({ length: Number(options.writes) }, () => randomInt(sizeBytes / block - 1) * block)
    const last = randomBytes(block)
    await client.write(offsets, randomBytes(block))
    await client.write([sizeBytes - block], last)
    await client.flush()
    process.kill(pair.processes.master.pid, 'SIGKILL')
    await pair.processes.master.ended
    client.close()
    const [before] = (await status(standby)).volumes
    const replaceMs = replacing(folder)
    const beganMs = performance.now()
    const started = post(standby, '/vm/start', { machine: 'web', acceptLoss: true, print: true })
    const ready = await Promise.race([readable(standby, sizeBytes - block, last), started.then(() => sleep(readyMs))])
    if (ready === undefined) throw new Error('the last block that was flushed is not there')
    await started
    return { readyMs: ready - beganMs, behind: Number(BigInt(before.received) - BigInt(before.applied)), replaceMs }
  } finally {
    process.kill(pair.processes.standby.pid, 'SIGKILL') // Its stop would wait for a peer that is no more.
    await pair.stop()
  }
}

/** When it is. */
async function readable(standby, offset, expected) {
  for (const end = performance.now() + readyMs; performance.now() < end; await sleep(0.5)) {
    const client = await attach(join(standby, 'store/.groups/bench/nbd.sock'), 'bench').catch(() => undefined)
    const data = await client?.read(offset, block)
    client?.close()
    if (data?.equals(expected)) return performance.now()
  }
  return undefined
}

/** What the disk takes, in the same minute, to replace one small file durably. */
function replacing(folder) {
  const times = Array.from({ length: 5 }, () => {
    const beganMs = performance.now()
    const path = join(folder, 'replaced')
    const file = openSync(`${path}.new`, 'w')
    writeSync(file, 'x'.repeat(1000))
    fsyncSync(file)
    closeSync(file)
    renameSync(`${path}.new`, path)
    const directory = openSync(folder, 'r')
    fsyncSync(directory)
    closeSync(directory)
    return performance.now() - beganMs
  })
  return at(times, 50)
}

function at(values, percent) {
  return values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil((values.length * percent) / 100) - 1)]
}

function post(state, path, body) {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' }
    const outgoing = request({ socketPath: join(state, 'control.sock'), path, method: 'POST', headers, agent: false })
    outgoing.on('error', reject)
    outgoing.on('response', async response => {
      let text = ''
      for await (const chunk of response) text += chunk
      if (response.statusCode === 200) resolve(JSON.parse(text))
      else reject(new Error(`${path}: ${text}`))
    })
    outgoing.end(JSON.stringify(body))
  })
}
