/**
 * STATE/groups/NAME.json: which incarnation of a group runs or ran, and what the next start may rely on.
 *
 *   live    the dirty maps hold whatever may differ from this copy, at every moment, so after a crash too
 *   clean   written at a clean stop, and gone before the first client is served: the maps hold exactly that
 *   neither everything is compared
 *
 * `live` is gone from the disk before the maps stop being kept, and comes back after they are whole again.
 */
import { join } from 'node:path'

import { readJson } from '../core/atomic-file.js'
import { decodeReigns, encodeReigns, firstReign, type Reign } from '../core/reigns.js'
import type { KnownCopy } from './attach-decision.js'

export interface CleanStop {
  /** The last record of `incarnation`. */
  sequence: bigint
  known?: KnownCopy
  /** In the group's order: whose dirty maps these are, and what the devices looked like. */
  volumes: { uuid: string; device: string; changeMark?: string }[]
  /** When the oldest write that the standby lacks was made, at the latest; absent: it lacks none. */
  dirtySinceMs?: number
}

export interface LiveMaps {
  /** Where the copy may stand, oldest position first; the floors in the maps (MapFloor) rule out the earlier ones. */
  known: KnownCopy
  volumes: { uuid: string; device: string }[]
}

export interface GroupRecord {
  incarnation: bigint
  /** Of this reign: the last of the history. */
  generation: string
  history: Reign[]
  /** The operator wants no session (ISO 8601: since). */
  pausedSince?: string
  /** No lease is needed: nobody has a copy that could be promoted, and no standby was asked since (held-lease.ts). */
  leaseWaived?: true
  /** By volume uuid: what was left out of replication last, [start, end) pairs. */
  excluded: Record<string, bigint[]>
  /** By volume uuid, where files are left out: of `excluded`, what is so by ranges; the rest may be more than is left out. */
  fixed?: Record<string, bigint[]>
  /** By volume uuid, where files are left out: the rules and file systems (left-out-record.ts). */
  basis?: Record<string, string>
  live?: LiveMaps
  clean?: CleanStop
  /** In this start of the host's kernel (bootId) the standby had everything that was acknowledged: give-back.ts. */
  paired?: string
}

export const groupPath = (state: string, group: string): string => join(state, 'groups', `${group}.json`)
export const dirtyMapPath = (state: string, volume: string): string => join(state, 'volumes', `${volume}.map`)

export function encodeGroup(record: GroupRecord): object {
  const plain: unknown = JSON.parse(
    JSON.stringify(record, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
  )
  return { version: 1, clean: false, ...(plain as object), history: encodeReigns(record.history) }
}

/** Undefined when there is none. What cannot be understood is as good as an unclean stop. */
export function readGroup(state: string, group: string): GroupRecord | undefined {
  const stored = readJson(groupPath(state, group))
  if (stored === undefined) return undefined
  const rangesOf = (key: string): Record<string, bigint[]> =>
    Object.fromEntries(Object.entries(asTable(stored[key])).map(([uuid, pairs]) => [uuid, asBigs(pairs) ?? []]))
  const generation = typeof stored['generation'] === 'string' ? stored['generation'] : ''
  const record: GroupRecord = {
    incarnation: asBig(stored['incarnation']) ?? 0n,
    generation,
    history: decodeReigns(stored['history']) ?? (generation === '' ? [] : [firstReign(generation, '')]),
    ...(typeof stored['pausedSince'] === 'string' ? { pausedSince: stored['pausedSince'] } : {}),
    ...(stored['leaseWaived'] === true ? { leaseWaived: true as const } : {}),
    excluded: rangesOf('excluded'),
    ...(stored['fixed'] === undefined ? {} : { fixed: rangesOf('fixed') }),
    ...(stored['basis'] === undefined ? {} : { basis: textsOf(stored['basis']) }),
  }
  if (typeof stored['paired'] === 'string') record.paired = stored['paired']
  const clean = decodeClean(stored['clean'])
  if (clean !== undefined && record.incarnation !== 0n) record.clean = clean
  const live = asLive(stored['live'])
  if (live !== undefined && record.incarnation !== 0n) record.live = live
  return record
}

/** Undefined: it is none, or not understood. */
export function decodeClean(value: unknown): CleanStop | undefined {
  const table = asTable(value)
  const sequence = asBig(table['sequence'])
  const volumes = table['volumes']
  if (sequence === undefined || !Array.isArray(volumes)) return undefined
  const clean: CleanStop = { sequence, volumes: [] }
  for (const item of volumes as unknown[]) {
    const { uuid, device, changeMark } = asTable(item)
    if (typeof uuid !== 'string' || typeof device !== 'string') return undefined
    clean.volumes.push({ uuid, device, ...(typeof changeMark === 'string' ? { changeMark } : {}) })
  }
  const known = asKnown(table['known'])
  if (known !== undefined) clean.known = known
  if (typeof table['dirtySinceMs'] === 'number') clean.dirtySinceMs = table['dirtySinceMs']
  return clean
}

function asLive(value: unknown): LiveMaps | undefined {
  const table = asTable(value)
  const known = asKnown(table['known'])
  const volumes = table['volumes']
  if (known === undefined || !Array.isArray(volumes)) return undefined
  const live: LiveMaps = { known, volumes: [] }
  for (const item of volumes as unknown[]) {
    const { uuid, device } = asTable(item)
    if (typeof uuid !== 'string' || typeof device !== 'string') return undefined
    live.volumes.push({ uuid, device })
  }
  return live
}

function asKnown(value: unknown): KnownCopy | undefined {
  const { replicaId, positions } = asTable(value)
  if (typeof replicaId !== 'string' || !Array.isArray(positions)) return undefined
  const known: KnownCopy = { replicaId, positions: [] }
  for (const item of positions as unknown[]) {
    const incarnation = asBig(asTable(item)['incarnation'])
    const durable = asBig(asTable(item)['durable'])
    if (incarnation === undefined || durable === undefined) return undefined
    known.positions.push({ incarnation, durable })
  }
  return known
}

function textsOf(value: unknown): Record<string, string> {
  const entries = Object.entries(asTable(value))
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'))
}

function asTable(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}

function asBig(value: unknown): bigint | undefined {
  return typeof value === 'string' && /^\d{1,20}$/.test(value) ? BigInt(value) : undefined
}

function asBigs(value: unknown): bigint[] | undefined {
  if (!Array.isArray(value)) return undefined
  const numbers = (value as unknown[]).map(asBig)
  return numbers.includes(undefined) ? undefined : (numbers as bigint[])
}
