/**
 * STORE/.groups/GROUP/replica.json: whose copy this is. It is on disk before the first record is taken, so that a copy
 * can never be mistaken for another volume's.
 */
import { readJson } from '../core/atomic-file.js'
import { OperationError } from '../core/errors.js'
import { decodeReigns, encodeReigns, firstReign, type Position, type Reign } from '../core/reigns.js'
import type { Point } from '../native/binding.js'
import type { LeftOut } from '../transport/messages.js'

export interface ReplicaVolume {
  name: string
  uuid: string
  sizeBytes: bigint
  /** The device that is the image; absent: STORE/NAME/image.raw. */
  device?: string
  /** What the master does not replicate: [start, end) pairs. */
  excluded?: bigint[]
  /** Where the master left out files the image may have zeroes, and nobody here knows where. */
  filesLeftOut?: true
}

/** The image was a master's device before it was this copy. Until the first step is complete it is neither. */
export interface Origin {
  /** The last reign that wrote to it. */
  reign: string
  /** The last record of that reign; absent: not known, so that only the operator can decide that it goes. */
  position?: Position
  /** What may not be in the history that goes on: [start, end) pairs by volume. Absent: all of it. */
  suspects?: Record<string, bigint[]>
  /** The operator has decided: what only this side has was saved, and may go. */
  accepted: boolean
  /** The master gave the reign away to its standby, which was to take over at once. */
  switchover: boolean
  /** The master's history, once one has said hello: this copy's as soon as the first step is complete. */
  next?: Lineage
}

export interface Lineage {
  generation: string
  history: Reign[]
}

/** This side has become the master; nothing of the old one is taken any more. */
export interface Promotion {
  /** ISO 8601 */
  time: string
  generation: string
  /** The images have everything and the log is done with: from here on only clients write to them. */
  sealed: boolean
  /** Its master's files are made: from here on they are what counts. */
  begun: boolean
  /** Where the images are served, as typed; absent: nowhere. */
  listen?: string
  /** Not of everything that was here, but of what was here at this moment: until `sealed` the images may be anything. */
  asOf?: Point
}

export interface ReplicaRecord {
  group: string
  /** The master's id. */
  masterId: string
  /** Of this copy: another one after the store was emptied. */
  replicaId: string
  generation: string
  /** Of the history that this copy has: the master's. */
  history: Reign[]
  durability: string
  /** False: the image files may not all be there yet (a crash while they were made). */
  imagesMade: boolean
  /** Of the leases that may have been granted to the master; on disk before the first; absent: none. */
  leaseMs?: number
  volumes: ReplicaVolume[]
  promotion?: Promotion
  origin?: Origin
  /** The master has ceased to be one, and this was its last record. */
  final?: Position
  /** The operator wants no session (ISO 8601: since). */
  pausedSince?: string
  /** Somebody else has written to an image while no daemon had it (ISO 8601: seen), and the operator has not decided yet. */
  writtenSince?: string
}

export function encodeReplica(record: ReplicaRecord): object {
  const plain: unknown = JSON.parse(
    JSON.stringify(record, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
  )
  return { version: 1, ...(plain as object), history: encodeReigns(record.history) }
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
  const origin = decodeOrigin(stored['origin'])
  const final = decodePosition(stored['final'])
  const generation = textOr(stored['generation'], '')
  return {
    group,
    masterId,
    replicaId,
    generation,
    history: decodeReigns(stored['history']) ?? [firstReign(generation, '')],
    durability: textOr(stored['durability'], 'flush'),
    imagesMade: imagesMade === true,
    volumes: decoded,
    ...(typeof stored['leaseMs'] === 'number' ? { leaseMs: stored['leaseMs'] } : {}),
    ...(promotion === undefined ? {} : { promotion }),
    ...(origin === undefined ? {} : { origin }),
    ...(final === undefined ? {} : { final }),
    ...(typeof stored['pausedSince'] === 'string' ? { pausedSince: stored['pausedSince'] } : {}),
    ...(typeof stored['writtenSince'] === 'string' ? { writtenSince: stored['writtenSince'] } : {}),
  }
}

function decodeVolume(value: unknown): ReplicaVolume | undefined {
  const { name, uuid, sizeBytes, device, excluded, filesLeftOut } = asTable(value)
  if (typeof name !== 'string' || typeof uuid !== 'string' || !isDigits(sizeBytes)) return undefined
  const ranges = asBigs(excluded)
  return {
    ...{ name, uuid, sizeBytes: BigInt(sizeBytes) },
    ...(typeof device === 'string' ? { device } : {}),
    ...(ranges === undefined ? {} : { excluded: ranges }),
    ...(filesLeftOut === true ? { filesLeftOut } : {}),
  }
}

/** What a master says that it leaves out. */
export function leftOutOf({ excluded, filesLeftOut }: Omit<LeftOut[number], 'name'>): Partial<ReplicaVolume> {
  return { ...(excluded.length > 0 ? { excluded } : {}), ...(filesLeftOut ? { filesLeftOut } : {}) }
}

function decodePosition(value: unknown): Position | undefined {
  const { incarnation, sequence } = asTable(value)
  return isDigits(incarnation) && isDigits(sequence)
    ? { incarnation: BigInt(incarnation), sequence: BigInt(sequence) }
    : undefined
}

/** What cannot be read of it makes more be compared, and less be allowed. */
function decodeOrigin(value: unknown): Origin | undefined {
  if (value === undefined) return undefined
  const { reign, position, suspects, accepted, switchover, next } = asTable(value)
  const history = decodeReigns(asTable(next)['history'])
  const last = decodePosition(position)
  const lists = Object.entries(asTable(suspects)).map(([name, ranges]) => [name, asBigs(ranges)] as const)
  const whole = suspects !== undefined && lists.every(([, ranges]) => ranges !== undefined)
  return {
    reign: textOr(reign, ''),
    ...(last === undefined ? {} : { position: last }),
    ...(whole ? { suspects: Object.fromEntries(lists) as Record<string, bigint[]> } : {}),
    accepted: accepted === true,
    switchover: switchover === true,
    ...(history === undefined ? {} : { next: { generation: textOr(asTable(next)['generation'], ''), history } }),
  }
}

function asBigs(value: unknown): bigint[] | undefined {
  if (!Array.isArray(value) || !value.every(isDigits)) return undefined
  return value.map(BigInt)
}

/**
 * A promotion that cannot be read in full is one all the same: the old master must stay out. Without its moment nobody knows
 * what the images are.
 */
function decodePromotion(value: unknown): Promotion | undefined {
  if (value === undefined) return undefined
  const { time, generation, sealed, begun, listen, asOf } = asTable(value)
  const point = decodePoint(asOf)
  if (asOf !== undefined && point === undefined && sealed !== true)
    throw new OperationError(
      'DAMAGED_FILE',
      `read replica.json: the moment of its promotion is damaged; restore the file`,
    )
  return {
    time: textOr(time, ''),
    generation: textOr(generation, ''),
    sealed: sealed === true,
    begun: begun === true,
    ...(typeof listen === 'string' ? { listen } : {}),
    ...(point === undefined ? {} : { asOf: point }),
  }
}

function decodePoint(value: unknown): Point | undefined {
  const position = decodePosition(value)
  const { timeNs } = asTable(value)
  return position === undefined || !isDigits(timeNs) ? undefined : { ...position, timeNs: BigInt(timeNs) }
}

const textOr = (value: unknown, otherwise: string): string => (typeof value === 'string' ? value : otherwise)
const isDigits = (value: unknown): value is string => typeof value === 'string' && /^\d{1,20}$/.test(value)
const asTable = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
