// One daemon of many volumes, alone or with a standby; and volumes of any size. What they cost when nobody uses them, and
// what a write costs beside them.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freeUdpPort, sparseFile } from '../lib/files.mjs'
import { put } from '../lib/load.mjs'
import { cpuSecondsOfThreads, listening, memoryMiB } from '../lib/processes.mjs'
import { plainServer } from './nbdkit.mjs'
import { identity, startAlone, status, understudy } from './understudy.mjs'

const volumeBytes = 16 << 20
const names = count => Array.from({ length: count }, (_, index) => `v${index}`)

/** `used`: how many of them a load goes to, a connection each. */
export async function startVolumes({ folder }, count, used) {
  const own = join(folder, `volumes-${count}-${used}`)
  const program = await startDaemon(own, groupsOf(own, count))
  const peer = plainServer(program, { unix: join(own, 'nbd.sock'), exports: names(used) })
  await put(peer.target, { block: 1 << 20, depth: 1 }, ['--requests', (used * 2 * volumeBytes) / 2 ** 20])
  return { ...peer, filled: true }
}

/** A volume of any size, of which 64 regions, evenly spaced, are used. */
export async function startSize({ folder }, name, sizeBytes) {
  const peer = await startAlone({ folder, sizeBytes, name })
  await put(peer.target, { block: 64 << 10, depth: 8, regions: 64 }, ['--requests', 20_000])
  return { ...peer, filled: true }
}

/** Master and standby of so many volumes that nobody uses. */
export async function startIdle({ folder }, count) {
  const [master, standby] = [join(folder, 'idle-m'), join(folder, 'idle-s')]
  const [masterId, standbyId] = await Promise.all([identity(master), identity(standby)])
  const port = await freeUdpPort()
  const receiving = [
    '[standby]',
    `store = "${standby}/store"`,
    `listen = "127.0.0.1:${port}"`,
    `allow = ["${masterId}"]`,
  ]
  const programs = {
    standby: await startDaemon(standby, receiving),
    master: await startDaemon(master, groupsOf(master, count, `${standbyId}@127.0.0.1:${port}`)),
  }
  await allProtected(master)
  return {
    processes: programs,
    settled: async () => null,
    measure: (_load, seconds) => idle(programs, Math.max(4, seconds)),
    async stop() {
      await programs.master.stop()
      await programs.standby.stop()
    },
  }
}

async function allProtected(state) {
  for (const end = Date.now() + 120_000; Date.now() < end; await sleep(100))
    if ((await status(state)).volumes.every(one => one.protected)) return
  throw new Error('understudy: not all volumes were protected within 120 s')
}

async function idle({ master, standby }, seconds) {
  const cpu = () => [master, standby].map(({ pid }) => cpuSecondsOfThreads(pid))
  const [before, beganMs] = [cpu(), performance.now()]
  await sleep(seconds * 1000)
  const took = (performance.now() - beganMs) / 1000
  const [masterPercent, standbyPercent] = cpu().map((value, index) => ((value - before[index]) * 100) / took)
  const [masterMiB, standbyMiB] = [master, standby].map(({ pid }) => memoryMiB(pid))
  return { masterPercent, standbyPercent, masterMiB, standbyMiB }
}

function groupsOf(folder, count, standby) {
  mkdirSync(folder, { recursive: true })
  return [
    ...['[nbd]', `listen = ["unix:${folder}/nbd.sock"]`],
    ...names(count).flatMap(name => [
      '[[group]]',
      ...(standby === undefined ? [] : [`standby = "${standby}"`]),
      ...['[[group.volume]]', `export = "${name}"`, `device = "${sparseFile(join(folder, name), volumeBytes)}"`],
    ]),
  ]
}

async function startDaemon(folder, lines) {
  mkdirSync(folder, { recursive: true })
  const config = join(folder, 'understudy.toml')
  writeFileSync(config, [`state = "${folder}"`, ...lines, ''].join('\n'))
  const program = understudy(['run', '--config', config])
  await listening(join(folder, 'control.sock'), program, 60)
  return program
}
