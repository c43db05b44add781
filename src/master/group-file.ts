/**
 * STATE/groups/NAME.json: which incarnation of a group runs or ran, and, after a clean stop, what the next start may
 * rely on: the dirty maps and the position of the copy they were kept for.
 *
 * While a master runs the file says clean = false; that is on disk before the first client is served. So after a crash
 * nothing is believed, and everything is compared.
 */
import { join } from 'node:path'

import { readJson } from '../core/atomic-file.js'
import type { KnownCopy } from './attach-decision.js'

export interface CleanStop {
  /** The last record of `incarnation`. */
  sequence: bigint
  known?: KnownCopy
  /** Each volume's dirty map, in the group's order, and what its device looked like. */
  volumes: { uuid: string; device: string; dirtyFile: string; changeMark?: string }[]
  /** When the oldest write that the standby lacks was made, at the latest; absent: it lacks none. */
  dirtySinceMs?: number
}

export interface GroupRecord {
  incarnation: bigint
  /** Of this reign: made with the group. */
  generation: string
  /** By volume uuid: what was left out of replication last, [start, end) pairs. */
  excluded: Record<string, bigint[]>
  clean?: CleanStop
}

export const groupPath = (state: string, group: string): string => join(state, 'groups', `${group}.json`)
export const dirtyMapPath = (state: string, volume: string): string => join(state, 'volumes', `${volume}.dirty`)

export function encodeGroup(record: GroupRecord): object {
  const plain: unknown = JSON.parse(
    JSON.stringify(record, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
  )
  return { version: 1, clean: false, ...(plain as object) }
}

/** Undefined when there is none. What cannot be understood is as good as an unclean stop. */
export function readGroup(state: string, group: string): GroupRecord | undefined {
  const stored = readJson(groupPath(state, group))
  if (stored === undefined) return undefined
  const excluded = asTable(stored['excluded'])
  const record: GroupRecord = {
    incarnation: asBig(stored['incarnation']) ?? 0n,
    generation: typeof stored['generation'] === 'string' ? stored['generation'] : '',
    excluded: Object.fromEntries(Object.entries(excluded).map(([uuid, pairs]) => [uuid, asBigs(pairs) ?? []])),
  }
  const clean = asClean(stored['clean'])
  if (clean !== undefined && record.incarnation !== 0n) record.clean = clean
  return record
}

function asClean(value: unknown): CleanStop | undefined {
  const table = asTable(value)
  const sequence = asBig(table['sequence'])
  const volumes = table['volumes']
  if (sequence === undefined || !Array.isArray(volumes)) return undefined
  const clean: CleanStop = { sequence, volumes: [] }
  for (const item of volumes as unknown[]) {
    const { uuid, device, dirtyFile, changeMark } = asTable(item)
    if (typeof uuid !== 'string' || typeof device !== 'string' || typeof dirtyFile !== 'string') return undefined
    clean.volumes.push({ uuid, device, dirtyFile, ...(typeof changeMark === 'string' ? { changeMark } : {}) })
  }
  const known = asKnown(table['known'])
  if (known !== undefined) clean.known = known
  if (typeof table['dirtySinceMs'] === 'number') clean.dirtySinceMs = table['dirtySinceMs']
  return clean
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
