/**
 * What a master leaves to the process that goes on in its place, beside its files. Those go on saying that it runs, and
 * hold a superset of what may differ: nothing is written, and nothing waits for a disk, until the other one is in force.
 * A crash in between is one of a daemon that runs (group-file.ts: `live`).
 */
import type { Handed } from '../core/handed.js'
import { type CleanStop, decodeClean } from './group-file.js'

export interface HandedGroup {
  incarnation: bigint
  /** As a clean stop would have written it. */
  clean: CleanStop
  /** The maps on disk were kept: `live` in the group's file. */
  kept: boolean
  /** Descriptors of handOverMap(), in the order of the volumes. */
  maps: number[]
}

export function encodeHanded({ maps, ...rest }: HandedGroup): Handed {
  const document: unknown = JSON.parse(
    JSON.stringify(rest, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
  )
  return { document: document as object, maps }
}

/** Undefined: not understood, and the group's files count. */
export function decodeHanded({ document, maps }: Handed): HandedGroup | undefined {
  const { incarnation, clean, kept } = document as Record<string, unknown>
  const decoded = decodeClean(clean)
  if (decoded === undefined || typeof incarnation !== 'string' || maps.length !== decoded.volumes.length)
    return undefined
  return { incarnation: BigInt(incarnation), clean: decoded, kept: kept === true, maps }
}
