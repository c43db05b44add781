// understudy, as a user starts it: a master alone, or a master and a standby on this machine.
import { mkdirSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freeTcpPort, freeUdpPort, sparseFile } from '../lib/files.mjs'
import { listening, run, start } from '../lib/processes.mjs'
import { plainServer } from './nbdkit.mjs'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const volume = 'bench'
const patienceMs = 180_000

/** A command of the program, running. */
export const understudy = args => start(process.execPath, [main, ...args.map(String)])

/** A command of the program, to its end. */
export const ask = args => run(process.execPath, [main, ...args.map(String)])

/** `device`: an existing path for it; `listen`: other addresses beside its socket. */
export async function startAlone({
  folder,
  sizeBytes,
  name = 'alone',
  device = join(folder, name, 'disk.img'),
  listen = [],
}) {
  const more = listen.flatMap(address => ['--listen', address])
  mkdirSync(join(folder, name), { recursive: true })
  const master = await startMaster(join(folder, name), more, sparseFile(device, sizeBytes))
  return plainServer(master.program, { unix: master.socket, export: volume })
}

export async function startAloneTcp({ folder, sizeBytes }, port) {
  const peer = await startAlone({ folder, sizeBytes, name: 'alone-tcp', listen: [`127.0.0.1:${port}`] })
  return { ...peer, target: { tcp: `127.0.0.1:${port}`, export: volume } }
}

/**
 * `masterFlags`: e.g. --durability, --packet-size; `prepare(path)` makes the device; `store`, and `elsewhere`, the master's
 * folder: if they are not to be beside the standby's state. Ready when the standby's copy is complete.
 */
export async function startPair(
  { folder, sizeBytes, store, elsewhere, standbyFlags = [] },
  name,
  masterFlags,
  prepare = path => sparseFile(path, sizeBytes),
) {
  const [masterFolder, standbyFolder] = [elsewhere ?? join(folder, name, 'm'), join(folder, name, 's')]
  const [masterId, standbyId] = await Promise.all([identity(masterFolder), identity(standbyFolder)])
  const [port, masterMetrics, standbyMetrics] = [await freeUdpPort(), await freeTcpPort(), await freeTcpPort()]
  const standby = understudy([
    'standby', '--state', standbyFolder, '--store', store ?? join(standbyFolder, 'store'), '--listen', `127.0.0.1:${port}`, '--allow', masterId,
    '--transport', 'quic', '--metrics', `127.0.0.1:${standbyMetrics}`, ...standbyFlags,
  ]) // prettier-ignore
  await listening(join(standbyFolder, 'control.sock'), standby)
  prepare(join(masterFolder, 'disk.img'))
  const beganMs = Date.now()
  const master = await startMaster(masterFolder, [
    '--standby', `${standbyId}@127.0.0.1:${port}`, '--metrics', `127.0.0.1:${masterMetrics}`, ...masterFlags,
  ]) // prettier-ignore
  const peer = {
    target: { unix: master.socket, export: volume },
    processes: { master: master.program, standby },
    state: masterFolder,
    standbyState: standbyFolder,
    /** Waits until applied = written; when that was (wall clock), and what may void a measurement. */
    settled: async () => ({
      ...(await applied(masterFolder)),
      detaches: await metric(masterMetrics, 'understudy_detaches_total'),
      fsyncs: await metric(standbyMetrics, 'understudy_standby_fsyncs_total', 'file="segment"'),
    }),
    async stop() {
      await master.program.stop()
      await standby.stop()
    },
  }
  const { atMs } = await peer.settled()
  return { ...peer, initialSeconds: (atMs - beganMs) / 1000 }
}

async function startMaster(folder, more, device = join(folder, 'disk.img')) {
  const socket = join(folder, 'nbd.sock')
  const program = understudy([
    'master', '--state', folder, '--device', device, '--export', volume, '--listen', `unix:${socket}`, ...more,
  ]) // prettier-ignore
  await listening(socket, program)
  await listening(join(folder, 'control.sock'), program)
  return { program, socket }
}

export async function identity(state) {
  return (await ask(['identity', '--state', state])).match(/[0-9a-f]{64}/)[0]
}

async function applied(state) {
  let last
  for (const end = Date.now() + patienceMs; Date.now() < end; await sleep(10)) {
    const { volumes } = await status(state)
    const atMs = Date.now()
    last = volumes.find(one => one.name === volume)
    if (last?.state === 'replicating' && last.usable && last.applied === last.written && last.dirtyBytes === 0)
      return { atMs, logBytes: await settledLog(state, last.logBytes) }
  }
  throw new Error(`understudy: applied = written: not within ${patienceMs / 1000} s: ${JSON.stringify(last)}`)
}

/** The log is empty a moment later: what is acknowledged is given back with the next turn of the engine. */
async function settledLog(state, bytes) {
  for (let tries = 0; bytes > 0 && tries < 20; tries++) {
    await sleep(20)
    bytes = (await status(state)).volumes.find(one => one.name === volume).logBytes
  }
  return bytes
}

export function status(state) {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { socketPath: join(state, 'control.sock'), path: '/status', agent: false },
      async response => {
        let text = ''
        for await (const chunk of response) text += chunk
        resolve(JSON.parse(text))
      },
    )
    outgoing.on('error', reject)
    outgoing.end()
  })
}

/** The sum of a metric's series whose labels contain this. */
async function metric(port, name, labels = '') {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  const samples = text.split('\n').filter(line => line.startsWith(`${name}{`) && line.includes(labels))
  if (samples.length === 0) throw new Error(`understudy: /metrics has no ${name}`)
  return samples.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}
