/**
 * Two hosts on this machine: each with a disk of its own that loses what was not synced when its power is cut, and a
 * network with faults between them.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import {
  Daemon,
  type Owner,
  type Pair,
  freeTcpPort,
  freeUdpPort,
  identityOf,
  scratch,
  sparseFile,
} from '../support/daemon.js'
import { Observer } from '../support/observer.js'
import { PowerHost, type PowerCutReport, powerLibrary } from '../support/power-loss.js'
import { UdpRelay } from '../support/udp-relay.js'
import type { Durability } from './judge.js'

export const volume = 'disk1'
export const peerTimeoutMs = 1000
/** Holds the image, the segments, and not much more: a few seconds of writing fill it when nothing is removed. */
const standbyDiskBytes = 640 << 20

/** What the workload has when nothing is wrong. */
export const connectionsAtRest = 4
/** Small beside the disk that is filled, and so small that epochs end, and go. */
export const historyLimits = '2h,256MiB'

export interface Stage {
  /** Of whatever is started. */
  owner: Owner
  pair: Pair
  observer: Observer
  relay: UdpRelay
  power: { master: PowerHost; standby: PowerHost }
  /** Of the master's next start. */
  durability: Durability
  /** Of the master's next start, besides. */
  masterFlags: string[]
  /** The standby's disk is a file system of this size; undefined: not allowed to make one. */
  standbyDisk: string | undefined
  sizeBytes: number
  /** Whose clients write; but for faults of the roles it is the master. */
  reigning: Side
  /** Where clients find the volume when that side reigns. */
  sockets: Record<Side, string>
}

export type Side = 'master' | 'standby'

export async function setStage(owner: Owner, sizeBytes: number, seed: number): Promise<Stage> {
  const files = scratch(owner)
  const roots = { master: files.path('mh'), standby: files.path('sh') }
  for (const root of Object.values(roots)) mkdirSync(root)
  const standbyDisk = mountSmallDisk(owner, roots.standby)
  const [masterState, standbyState] = [join(roots.master, 'state'), join(roots.standby, 'state')]
  const [masterId, standbyId] = [identityOf(masterState), identityOf(standbyState)]
  const [port, masterMetrics, standbyMetrics] = await Promise.all([freeUdpPort(), freeTcpPort(), freeTcpPort()])
  const relay = await UdpRelay.open(port, seed)
  owner.teardown(() => relay.close())
  const device = await sparseFile(join(roots.master, 'disk.img'), sizeBytes)
  const library = powerLibrary()
  const power = {
    master: new PowerHost(roots.master, files.path('mj'), library),
    standby: new PowerHost(roots.standby, files.path('sj'), library),
  }
  const sockets = { master: files.path('nbd.sock'), standby: files.path('nbd2.sock') }
  const socket = sockets.master
  const stage: Pick<Stage, 'durability' | 'masterFlags' | 'reigning'> = {
    ...{ durability: 'flush', masterFlags: [], reigning: 'master' },
  }
  const masterArgs = (): string[] => [
    ...['master', '--state', masterState, '--device', device, '--export', volume, '--listen', `unix:${socket}`],
    ...['--standby', `${standbyId}@127.0.0.1:${relay.port}`, '--metrics', `127.0.0.1:${masterMetrics}`],
    ...['--durability', stage.durability, '--peer-timeout', `${peerTimeoutMs}ms`, ...stage.masterFlags],
  ]
  const standbyArgs = (): string[] => [
    ...['standby', '--state', standbyState, '--store', join(roots.standby, 'store'), '--listen', `127.0.0.1:${port}`],
    ...['--allow', masterId, '--metrics', `127.0.0.1:${standbyMetrics}`, '--history', historyLimits],
  ]
  const pair: Pair = {
    scratch: files,
    volume,
    device,
    image: join(roots.standby, 'store', volume, 'image.raw'),
    socket,
    uri: `nbd+unix:///${volume}?socket=${socket}`,
    master: new Daemon(owner, 'master', masterState, masterArgs, power.master.env()),
    standby: new Daemon(owner, 'standby', standbyState, standbyArgs, power.standby.env()),
    masterId,
    standbyId,
    standbyAddress: `127.0.0.1:${port}`,
    metrics: { master: masterMetrics, standby: standbyMetrics },
  }
  return Object.assign(stage, {
    owner,
    pair,
    observer: new Observer(pair, sizeBytes, sockets),
    relay,
    power,
    standbyDisk,
    sizeBytes,
    reigning: 'master',
    sockets,
  })
}

/** SIGKILL, and what was not synced is gone, in part or as a whole. */
export async function cutPower(stage: Stage, side: Side, random: () => number): Promise<PowerCutReport> {
  if (stage.pair[side].program.running) await stage.pair[side].kill()
  return stage.power[side].cut(random)
}

function mountSmallDisk(owner: Owner, at: string): string | undefined {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${standbyDiskBytes}`, 'understudy-torture', at], {
      stdio: 'ignore',
    })
  } catch {
    return undefined
  }
  owner.teardown(() => execFileSync('umount', ['-l', at]))
  return at
}
