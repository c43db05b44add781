/**
 * Generations: the reigns of a group's masters, oldest first. Both sides keep the list. A promotion adds one: who reigned
 * before, and at which position of that reign (the fork) the new one began. Ids are random, so that one id names one reign.
 */
export interface Reign {
  /** 16 hexadecimal digits. */
  id: string
  /** '' of the first. */
  parent: string
  /** The last record of the parent's that belongs to this history as well; zeroes of the first. */
  fork: Position
  /** ISO 8601, for people. */
  since: string
}

export interface Position {
  incarnation: bigint
  sequence: bigint
}

/** 'ancestor': a's last reign is one of b's, and b went on. */
export type Relation = 'same' | 'ancestor' | 'descendant' | 'diverged'

export function relationOf(a: readonly Reign[], b: readonly Reign[]): Relation {
  const [lastA, lastB] = [a.at(-1)?.id, b.at(-1)?.id]
  if (lastA === lastB) return 'same'
  if (lastA === undefined || b.some(({ id }) => id === lastA)) return 'ancestor'
  if (lastB === undefined || a.some(({ id }) => id === lastB)) return 'descendant'
  return 'diverged'
}

/** Where `history` went on from the reign `id`: its next one's fork. Undefined: it did not. */
export function forkFrom(history: readonly Reign[], id: string): Position | undefined {
  return history.find(({ parent }) => parent === id)?.fork
}

/** Everything up to `position` is in what went on at `fork`. */
export function isBefore(position: Position, fork: Position): boolean {
  return position.incarnation === fork.incarnation && position.sequence <= fork.sequence
}

/** `history` went on from the reign `id`, and has everything of it up to `position`; undefined: how far that was is not known. */
export function contains(history: readonly Reign[], id: string, position: Position | undefined): boolean {
  const fork = forkFrom(history, id)
  return fork !== undefined && position !== undefined && isBefore(position, fork)
}

export function firstReign(id: string, since: string): Reign {
  return { id, parent: '', fork: { incarnation: 0n, sequence: 0n }, since }
}

export function nextReign(history: readonly Reign[], id: string, fork: Position, since: string): Reign {
  return { id, parent: history.at(-1)?.id ?? '', fork, since }
}

/** The name of a copy that was a master's own device, by the last reign that wrote to it; both sides make it. */
export const aliasOf = (hostId: string, reign: string): string => `${hostId}:${reign}`

/** Two names of the same device: a reign has one host, whose id may be another since (it rotated its key). */
export function isSameAlias(a: string, b: string): boolean {
  const [reignA, reignB] = [a, b].map(alias => /^[^:]*:(.+)$/.exec(alias)?.[1])
  return reignA !== undefined && reignA === reignB
}

/** One line for people: which reigns one side has that the other has not. */
export function describeReigns(history: readonly Reign[]): string {
  return history.map(({ id, since }) => `${id} (since ${since === '' ? 'an unknown time' : since})`).join(', then ')
}

/** As it is sent, stored and told: numbers of 64 bits are decimal. */
export const encodePosition = ({ incarnation, sequence }: Position): { incarnation: string; sequence: string } => ({
  incarnation: String(incarnation),
  sequence: String(sequence),
})

/** What is sent and stored is cut to the newest: older ones no peer still has. */
export const reignsMax = 200

export function encodeReigns(history: readonly Reign[]): object[] {
  return history.slice(-reignsMax).map(({ id, parent, fork, since }) => ({
    ...{ id, parent, since },
    fork: encodePosition(fork),
  }))
}

/** Undefined: it is no list of reigns. */
export function decodeReigns(value: unknown): Reign[] | undefined {
  if (!Array.isArray(value) || value.length > reignsMax) return undefined
  const reigns = (value as unknown[]).map(decodeReign)
  return reigns.includes(undefined) ? undefined : (reigns as Reign[])
}

function decodeReign(value: unknown): Reign | undefined {
  const { id, parent, fork, since } = asTable(value)
  const { incarnation, sequence } = asTable(fork)
  if (!isShort(id) || !isShort(parent) || !isShort(since) || !isDigits(incarnation) || !isDigits(sequence))
    return undefined
  return { id, parent, since, fork: { incarnation: BigInt(incarnation), sequence: BigInt(sequence) } }
}

const isShort = (value: unknown): value is string => typeof value === 'string' && value.length <= 64
const isDigits = (value: unknown): value is string => typeof value === 'string' && /^\d{1,20}$/.test(value)
const asTable = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
