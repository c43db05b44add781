/**
 * STORE/.groups/GROUP/replica.json: whose copy this is. It is on disk before the first record is taken, so that a copy
 * can never be mistaken for another volume's.
 */
import { readJson } from '../core/atomic-file.js'
import { OperationError } from '../core/errors.js'

export interface ReplicaVolume {
  name: string
  uuid: string
  sizeBytes: bigint
  /** The block device that is the image; absent: STORE/NAME/image.raw. */
  device?: string
}

/** This side has become the master; nothing of the old one is taken any more. */
export interface Promotion {
  /** ISO 8601 */
  time: string
  generation: string
  /** The images have everything and the log is done with: from here on only clients write to them. */
  sealed: boolean
  /** Of the last start as a master. */
  incarnation: bigint
  /** Where the images are served, as typed; absent: nowhere. */
  listen?: string
}

export interface ReplicaRecord {
  group: string
  /** The master's id. */
  masterId: string
  /** Of this copy: another one after the store was emptied. */
  replicaId: string
  generation: string
  durability: string
  /** False: the image files may not all be there yet (a crash while they were made). */
  imagesMade: boolean
  volumes: ReplicaVolume[]
  promotion?: Promotion
}

export function encodeReplica(record: ReplicaRecord): object {
  const plain: unknown = JSON.parse(
    JSON.stringify(record, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
  )
  return { version: 1, ...(plain as object) }
}

/** Undefined when there is none. */
export function readReplica(path: string): ReplicaRecord | undefined {
  const stored = readJson(path)
  if (stored === undefined) return undefined
  const { group, masterId, replicaId, volumes, imagesMade } = stored
  const decoded = Array.isArray(volumes) ? (volumes as unknown[]).map(decodeVolume) : []
  const whole = decoded.length > 0 && decoded.every(volume => volume !== undefined)
  if (!whole || typeof group !== 'string' || typeof masterId !== 'string' || typeof replicaId !== 'string') {
    throw new OperationError(
      'DAMAGED_FILE',
      `read ${path}: group, masterId, replicaId or a volume is missing; restore the file, or remove its folder and the images to begin anew`,
    )
  }
  const promotion = decodePromotion(stored['promotion'])
  return {
    group,
    masterId,
    replicaId,
    generation: textOr(stored['generation'], ''),
    durability: textOr(stored['durability'], 'flush'),
    imagesMade: imagesMade === true,
    volumes: decoded,
    ...(promotion === undefined ? {} : { promotion }),
  }
}

function decodeVolume(value: unknown): ReplicaVolume | undefined {
  const { name, uuid, sizeBytes, device } = asTable(value)
  if (typeof name !== 'string' || typeof uuid !== 'string' || !isDigits(sizeBytes)) return undefined
  return { name, uuid, sizeBytes: BigInt(sizeBytes), ...(typeof device === 'string' ? { device } : {}) }
}

/** A promotion that cannot be read in full is one all the same: the old master must stay out. */
function decodePromotion(value: unknown): Promotion | undefined {
  if (value === undefined) return undefined
  const { time, generation, sealed, incarnation, listen } = asTable(value)
  return {
    time: textOr(time, ''),
    generation: textOr(generation, ''),
    sealed: sealed === true,
    incarnation: isDigits(incarnation) ? BigInt(incarnation) : 0n,
    ...(typeof listen === 'string' ? { listen } : {}),
  }
}

const textOr = (value: unknown, otherwise: string): string => (typeof value === 'string' ? value : otherwise)
const isDigits = (value: unknown): value is string => typeof value === 'string' && /^\d{1,20}$/.test(value)
const asTable = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
