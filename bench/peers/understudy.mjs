// understudy, as a user starts it: a master alone, or a master and a standby on this machine.
import { createSocket } from 'node:dgram'
import { closeSync, mkdirSync, openSync, truncateSync } from 'node:fs'
import { request } from 'node:http'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { listening, run, start } from '../lib/processes.mjs'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const volume = 'bench'

export async function startAlone(folder, sizeBytes, device) {
  const master = await startMaster(join(folder, 'alone'), sizeBytes, [], device)
  return { uri: master.uri, settled: async () => null, stop: () => master.program.stop() }
}

export async function startReplicated(folder, sizeBytes) {
  const [masterFolder, standbyFolder] = [join(folder, 'replicated'), join(folder, 'standby')]
  const [masterId, standbyId] = [await identity(masterFolder), await identity(standbyFolder)]
  const [port, metricsPort] = [await freeUdpPort(), await freeTcpPort()]
  const standby = start(process.execPath, [
    main, 'standby', '--state', standbyFolder, '--store', join(standbyFolder, 'store'), '--listen', `127.0.0.1:${port}`, '--allow', masterId,
  ]) // prettier-ignore
  await listening(join(standbyFolder, 'control.sock'), standby)
  const master = await startMaster(masterFolder, sizeBytes, [
    '--standby', `${standbyId}@127.0.0.1:${port}`, '--durability', 'async', '--metrics', `127.0.0.1:${metricsPort}`,
  ]) // prettier-ignore
  const peer = {
    uri: master.uri,
    /** Waits until applied = written; returns when that was (wall clock) and how often the pair has detached so far. */
    settled: async () => ({ atMs: await applied(masterFolder), detaches: await detaches(metricsPort) }),
    async stop() {
      await master.program.stop()
      await standby.stop()
    },
  }
  await peer.settled()
  return peer
}

async function startMaster(folder, sizeBytes, more, device = join(folder, 'device.img')) {
  mkdirSync(folder, { recursive: true })
  const socket = join(folder, 'nbd.sock')
  closeSync(openSync(device, 'w'))
  truncateSync(device, sizeBytes)
  const program = start(process.execPath, [
    main, 'master', '--state', folder, '--device', device, '--export', volume, '--listen', `unix:${socket}`, ...more,
  ]) // prettier-ignore
  await listening(socket, program)
  return { program, uri: `nbd+unix:///${volume}?socket=${socket}` }
}

async function identity(state) {
  return (await run(process.execPath, [main, 'identity', '--state', state])).match(/[0-9a-f]{64}/)[0]
}

async function applied(state) {
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(10)) {
    const found = (await status(state)).volumes.find(one => one.name === volume)
    const atMs = Date.now()
    if (found?.state === 'replicating' && found.usable && found.applied === found.written && found.dirtyBytes === 0)
      return atMs
  }
  throw new Error(`understudy: applied = written was not reached within 60 s: ${JSON.stringify(await status(state))}`)
}

function status(state) {
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

async function detaches(port) {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  const samples = text.split('\n').filter(line => line.startsWith('understudy_detaches_total'))
  if (samples.length === 0) throw new Error('understudy: /metrics has no understudy_detaches_total')
  return samples.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

async function freeUdpPort() {
  const socket = createSocket('udp4')
  await new Promise(resolve => socket.bind(0, '127.0.0.1', resolve))
  const { port } = socket.address()
  socket.close()
  return port
}

async function freeTcpPort() {
  const server = createServer()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  server.close()
  return port
}
