// How long a standby takes to be a machine's disk: `vm start --print`, from the request on its control socket to a READ
// that returns the last block that was flushed. A new pair each time, the master's side of it in memory:
//
//   1. the applier works: some random writes, applied, and at some moment within the next second synced
//   2. it is held (hold/), and 10,000 more random writes and a flush are received: durable here, and not applied
//   3. the master is killed; the request, and the applier goes on
//
// Or, without `--print`, to the word of a guest: a boot sector that reads it from the disk and says it on the console, both
// of them the last that was written.
//
// The image is sparse, with 128 MiB of data in 32 places, which is what is written over.
import { randomBytes, randomInt } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { sparseFile } from '../lib/files.mjs'
import { put } from '../lib/load.mjs'
import { attach } from '../lib/nbd.mjs'
import { start } from '../lib/processes.mjs'
import { startPair, status } from './understudy.mjs'

const bootCode = new URL('../../test/support/boot-sector.hex', import.meta.url)
const holder = fileURLToPath(new URL('../../build/bench/hold', import.meta.url))
const block = 4096
const writes = { block, depth: 32, regions: 32 }
const regionBytes = 4 << 20 // as the load generator has it
const appliedWrites = 2000
const backlog = 10_000
const readyMs = 60_000
const word = 'the last block that was flushed'
const wordAt = 1 << 20

/** `standbyFlags`: e.g. --cache-size. */
export function startStarting(sizeGiB, ...standbyFlags) {
  return context => rounds(context, { sizeBytes: sizeGiB * 2 ** 30, standbyFlags, write: writeLast, reach: ready })
}

/** Until its guest has spoken. */
export function startSpeaking(sizeGiB) {
  return context =>
    rounds(context, { sizeBytes: sizeGiB * 2 ** 30, standbyFlags: [], write: writeGuest, reach: spoken })
}

function rounds({ folder, folders }, kind) {
  const own = mkdtempSync(join(folder, 'starting-'))
  const memory = mkdtempSync(join(folders.memory, 'starting-'))
  const disk = someData(join(memory, 'disk.img'), kind.sizeBytes)
  const remove = path => rmSync(path, { recursive: true, force: true })
  return {
    ...{ processes: {}, settled: async () => null },
    async measure() {
      const [here, master] = [mkdtempSync(join(own, 'r-')), mkdtempSync(join(memory, 'm-'))]
      try {
        return await measure({ ...kind, folder: here, master, disk })
      } finally {
        remove(here)
        remove(master)
      }
    },
    async stop() {
      remove(own)
      remove(memory)
    },
  }
}

async function measure({ folder, master, disk, sizeBytes, standbyFlags, write, reach }) {
  const place = path => (mkdirSync(dirname(path), { recursive: true }), linkSync(disk, path))
  const pair = await startPair({ folder, sizeBytes, standbyFlags, elsewhere: join(master, 'm') }, 'pair', [], place)
  const standby = join(folder, 'pair', 's')
  try {
    await addMachine(standby)
    await put(pair.target, writes, ['--requests', appliedWrites], randomInt(1e6))
    await pair.settled()
    await sleep(randomInt(600))
    const held = await hold(pair.processes.standby.pid, 'us-applier')
    await put(pair.target, writes, ['--requests', backlog - 1], randomInt(1e6))
    const last = await write(pair.target, sizeBytes)
    process.kill(pair.processes.master.pid, 'SIGKILL')
    await pair.processes.master.ended
    const [before] = (await status(standby)).volumes
    const behind = Number(BigInt(before.durable) - BigInt(before.applied))
    const replaceUs = 1000 * replacing(folder)
    const isReal = behind >= backlog ? {} : { void: `only ${behind} records were not replayed` }
    return { ...isReal, ...(await reach({ standby, held, at: sizeBytes - block, last })), behind, replaceUs }
  } finally {
    process.kill(pair.processes.standby.pid, 'SIGKILL') // Its stop would wait for a peer that is no more.
    await pair.stop()
  }
}

async function ready({ standby, held, at, last }) {
  const beganMs = performance.now()
  const started = post(standby, '/vm/start', { machine: 'web', acceptLoss: true, print: true })
  held.letGo()
  const readMs = await Promise.race([readable(standby, at, last), started.then(() => sleep(readyMs))])
  if (readMs === undefined) throw new Error('the last block that was flushed is not there')
  await started
  return { readyUs: (readMs - beganMs) * 1000, startedUs: (performance.now() - beganMs) * 1000 }
}

async function spoken({ standby, held }) {
  const beganMs = performance.now()
  const started = post(standby, '/vm/start', { machine: 'web', acceptLoss: true })
  held.letGo()
  const saidMs = await Promise.race([
    heard(join(standby, 'store/.groups/bench/running/web/console'), word),
    started.then(() => sleep(readyMs)),
  ])
  const { pid } = await started
  process.kill(pid, 'SIGKILL')
  if (saidMs === undefined) throw new Error('the guest has not spoken')
  return { guestUs: (saidMs - beganMs) * 1000 }
}

/** Sparse; what the load generator will write to holds data. */
function someData(path, sizeBytes) {
  const file = openSync(sparseFile(path, sizeBytes), 'r+')
  const data = randomBytes(regionBytes)
  for (let region = 0; region < writes.regions; region++)
    writeSync(file, data, 0, regionBytes, (sizeBytes / writes.regions) * region)
  closeSync(file)
  return path
}

function addMachine(standby) {
  const machine = { name: 'web', group: 'bench', memoryBytes: 64 << 20, cpus: 1, firmware: 'bios', bus: 'virtio' }
  return post(standby, '/vm/add', { ...machine, qemuArguments: [] })
}

async function hold(pid, thread) {
  const program = start(holder, [String(pid), thread], 'pipe')
  for (const end = Date.now() + 15_000; !program.output().includes('held'); await sleep(1))
    if (!program.running || Date.now() > end) throw new Error(`${thread} cannot be held: ${program.output()}`)
  return { letGo: () => program.input.end() }
}

async function writeLast({ unix, export: name }, sizeBytes) {
  const client = await attach(unix, name)
  const last = randomBytes(block)
  await client.write([sizeBytes - block], last)
  await client.flush()
  client.close()
  return last
}

/** As test/support/boot-sector.ts has it. */
async function writeGuest({ unix, export: name }) {
  const [boot, text] = [Buffer.alloc(block), Buffer.alloc(block)]
  const code = Buffer.from(readFileSync(bootCode, 'latin1').trim(), 'hex')
  code.copy(boot)
  boot.writeBigUInt64LE(BigInt(wordAt / 512), code.length)
  boot.writeUInt16LE(0xaa55, 510)
  text.write(word, 'latin1')
  const client = await attach(unix, name)
  await client.write([0], boot)
  await client.write([wordAt], text)
  await client.flush()
  client.close()
}

/** When the console at a unix socket, which may not be there yet, has said it. */
async function heard(path, text) {
  for (const end = performance.now() + readyMs; performance.now() < end; await sleep(2)) {
    const socket = connect(path)
    socket.setTimeout(readyMs, () => socket.destroy())
    try {
      let said = ''
      for await (const chunk of socket) if ((said += chunk).includes(text)) return performance.now()
    } catch {
      // Nobody listens there yet.
    } finally {
      socket.destroy()
    }
  }
  return undefined
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

/** What the disk takes, in the same minute, to replace one small file durably: the median of five. */
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
  return times.sort((a, b) => a - b)[2]
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
