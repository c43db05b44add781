/**
 * What the metrics are made of: the volumes' status and the addon's counter pages, each read once per scrape. Native
 * threads go on writing meanwhile, so that figures of one scrape are microseconds apart, not of one moment.
 *
 * The daemon implements MetricsSource; nothing here keeps state, and nothing runs between scrapes.
 */
import type { Role, VolumeStatus } from '../core/status-types.js'
import type { Counters, CounterReader } from '../native/counters.js'
import type { ErrorCounts } from './error-counts.js'
import type { RecoveryFigures } from '../recovery/recovery.js'
import type { TakeoverFigures } from './takeover-figures.js'

/** A volume that NBD clients can reach: `page` is OpenedGroup.volumes[i].counterPage. */
export interface VolumePage {
  volume: string
  group: string
  /** 'standby' for an export of the standby's copy. Pages with the same three names are added up (several exports). */
  role: Role
  page: number
}

/** A group in the role of master: `page` is OpenedGroup.counterPage. Groups opened for exports are not listed. */
export interface GroupPage {
  group: string
  page: number
}

export const guardStates = ['off', 'partial', 'on'] as const

/** Volumes that are devices of this host's own kernel, and native/core/memory-guard.h. */
export interface AttachmentFigures {
  devices: { volume: string; device: string; connected: boolean; reconnects: number }[]
  guard: (typeof guardStates)[number]
}

/** What of a standby's copies is kept in memory; zeroes without --cache-size. */
export interface CacheFigures {
  sizeBytes: number
  lockedBytes: number
  /** What is to be kept and has no place. */
  missingBytes: number
  evictions: number
}

/** A group in the role of standby: `page` is openReplica().counterPage. */
export interface ReplicaPage {
  group: string
  page: number
}

/**
 * Everything a scrape asks the daemon. Called on the JavaScript thread, synchronously, once per scrape; whatever is
 * listed must be open (its page belongs to it). A throw becomes HTTP 500 with its message.
 */
export interface MetricsSource {
  /** package.json's version. */
  readonly version: string
  readonly counters: Pick<CounterReader, 'read'>
  /** Errors seen by the daemon: pass every AddonEvent to its observe(). */
  readonly errors: ErrorCounts
  readonly takeovers: TakeoverFigures
  /** What `status` shows, both roles. */
  volumes(): readonly VolumeStatus[]
  volumePages(): readonly VolumePage[]
  groupPages(): readonly GroupPage[]
  replicaPages(): readonly ReplicaPage[]
  attachments(): AttachmentFigures
  cache(): CacheFigures
  recovery(): RecoveryFigures
}

export interface VolumeSnapshot {
  volume: string
  group: string
  role: Role
  counters: Counters
}

export interface GroupSnapshot {
  group: string
  role: Role
  counters: Counters
}

export interface Snapshot {
  version: string
  errors: ErrorCounts
  takeovers: TakeoverFigures
  attachments: AttachmentFigures
  cache: CacheFigures
  recovery: RecoveryFigures
  volumes: readonly VolumeStatus[]
  /** Of each group the first volume's status: for what volumes of a group share. */
  groupStatus: readonly VolumeStatus[]
  clients: readonly VolumeSnapshot[]
  masters: readonly GroupSnapshot[]
  standbys: readonly GroupSnapshot[]
}

export function takeSnapshot(source: MetricsSource): Snapshot {
  const volumes = source.volumes()
  return {
    version: source.version,
    errors: source.errors,
    takeovers: source.takeovers,
    attachments: source.attachments(),
    cache: source.cache(),
    recovery: source.recovery(),
    volumes,
    groupStatus: firstOfEachGroup(volumes),
    clients: readVolumes(source),
    masters: source
      .groupPages()
      .map(({ group, page }) => ({ group, role: 'master', counters: source.counters.read('group', page) })),
    standbys: source
      .replicaPages()
      .map(({ group, page }) => ({ group, role: 'standby', counters: source.counters.read('replica', page) })),
  }
}

/** A counter of a page as a number; exact up to 2^53. A counter the addon does not have reads as 0 (see counter-names.ts). */
export function counter(counters: Counters, name: string): number {
  return Number(counters[name] ?? 0n)
}

function firstOfEachGroup(volumes: readonly VolumeStatus[]): VolumeStatus[] {
  const first = new Map<string, VolumeStatus>()
  for (const volume of volumes) {
    const key = `${volume.role} ${volume.group}`
    if (!first.has(key)) first.set(key, volume)
  }
  return [...first.values()]
}

function readVolumes(source: MetricsSource): VolumeSnapshot[] {
  const merged = new Map<string, VolumeSnapshot>()
  for (const { volume, group, role, page } of source.volumePages()) {
    const counters = source.counters.read('volume', page)
    const key = JSON.stringify([volume, group, role])
    const seen = merged.get(key)
    merged.set(key, { volume, group, role, counters: seen === undefined ? counters : sum(seen.counters, counters) })
  }
  return [...merged.values()]
}

function sum(a: Counters, b: Counters): Counters {
  const total: Counters = { ...a }
  for (const [name, value] of Object.entries(b)) total[name] = (total[name] ?? 0n) + value
  return total
}
