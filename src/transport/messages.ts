/**
 * What the two TypeScript halves of a session say to each other, as JSON frames:
 *
 *   master                                standby
 *   hello (who, which volumes)  ------->  judges it; makes or finds the replica, routes the session's records to it
 *                               <-------  welcome (where its history stands) or refused (why)
 *   attaches the engine, records flow
 *   abdicate (my last record)   ------->  notes it, and takes over if asked to
 *                               <-------  noted
 *   left-out (a changed filter) ------->  notes it
 *   mark (a labelled moment)    ------->  notes it once it has the records before it, if it keeps a history
 *                               <-------  marked (or why not)
 *
 * Whoever was configured with the other's address connects. Is it the standby by now, it says `follow` first, and the
 * other side says hello. A copy that was a master's device before says `suspects` before its welcome: where it may differ.
 *
 * 64-bit numbers are decimal strings. A peer is not believed: every field is checked for type and bounds here. Fields
 * that are not known are ignored, so that a newer peer may say more.
 */
import { UnderstudyError } from '../core/errors.js'
import { leaseMsMax } from '../core/lease.js'
import { decodeReigns, encodePosition, encodeReigns, firstReign, type Position, type Reign } from '../core/reigns.js'

/** Versions of the link this program speaks. N talks to N - 1; the standby is upgraded first. */
export const protocol = { newest: 1, oldest: 1 } as const

export interface HelloVolume {
  name: string
  uuid: string
  sizeBytes: bigint
  /** Bytes: the master device's sector. */
  blockMin: number
  /** What is not replicated: [start, end) pairs. */
  excluded: bigint[]
  /** Files are left out by rules, or were: beyond `excluded` the copy may have zeroes where this side has data. */
  filesLeftOut: boolean
}

export interface Hello {
  protocol: number
  protocolOldest: number
  program: string
  group: string
  incarnation: bigint
  generation: string
  /** All reigns up to this one. */
  history: Reign[]
  /** The operator has decided that this reign of the peer's goes: it saves what only it has, and follows. */
  discard: string
  durability: string
  /** Of the lease it will ask for, again and again; 0: none. */
  leaseMs: number
  /** How the records are to come; whoever does not know it leaves it out of its welcome. */
  compress: string
  hostname: string
  volumes: HelloVolume[]
}

export interface Welcome {
  protocol: number
  program: string
  /** Identifies this copy: made anew when the standby starts one from nothing. */
  replicaId: string
  /** Position of the last record the standby has; incarnation 0: it never had one. */
  incarnation: bigint
  received: bigint
  /** The images were made by the standby and never held anything: they read as zeroes. */
  fresh: boolean
  /** The images are no cut: unusable until a step is applied. */
  initial: boolean
  /** The name under which a new master knows what was the old one's device: "ID:REIGN"; '' for other copies. */
  alias: string
  /** Of the leases that will be granted; 0: none. What the standby has on disk. */
  leaseMs: number
  /** The standby can tell what its copy holds, not only a hash of it (frames 8 and 9). */
  givesBack: boolean
  /** How it expects the records: what the hello asked for, or 'off'. */
  compress: string
  /** It keeps earlier moments, and so notes marks. */
  keepsHistory: boolean
}

/** The sender was configured with our address, and has a copy: be its master. */
export interface Follow {
  protocol: number
  protocolOldest: number
  program: string
  group: string
  history: Reign[]
}

/** Part of where the sender's copy may differ: [start, end) pairs of one volume. */
export interface Suspects {
  volume: string
  ranges: bigint[]
}

export interface Abdicate {
  position: Position
  /** Take over at once. Otherwise: you may, whenever you are told to. */
  takeOver: boolean
}

/** The moment after the record at `position` is to have a name on the standby. */
export interface Mark {
  /** Chosen by the sender; the answer has it, too. */
  id: number
  /** What makes it: 'mark', by hand; 'clean-stop'. */
  kind: string
  label: string
  position: Position
  /** By the master's clock, as the records' times. */
  timeNs: bigint
}

export interface Marked {
  id: number
  /** Why it was not noted; '': it was. */
  problem: string
}

/** What is left out of each volume, if it is not what the hello said any more. */
export type LeftOut = Pick<HelloVolume, 'name' | 'excluded' | 'filesLeftOut'>[]

/**
 * bad-hello and protocol: a defect or a version; other-*, size, sector: another volume; promoted: it took over, and knows
 * our reign; diverged: neither side's history continues the other's; not-master: it has been asked to be one, and is not.
 */
export type RefusalCode =
  | 'bad-hello'
  | 'protocol'
  | 'other-master'
  | 'other-volume'
  | 'size'
  | 'sector'
  | 'promoted'
  | 'diverged'
  | 'not-master'
  | 'paused'
  | 'failed'
  | 'stopping'

export interface Refused {
  code: string
  message: string
  /** Of the side that refuses; empty when it does not matter. */
  history: Reign[]
  /** The operator there has decided: save what only you have, and follow. */
  yield: boolean
}

/** A message that breaks the rules above. */
export class MessageError extends UnderstudyError {
  constructor(message: string) {
    super('BAD_MESSAGE', message)
  }
}

const textMax = 1000
const nameMax = 200
const volumesMax = 64
/** Numbers of a list of ranges: a message has at most 64 KiB. */
const rangesMax = 2000
const idMax = 0x7fffffff
const sequenceMax = (1n << 63n) - 1n
const incarnationMax = (1n << 64n) - 1n

export function encodeHello(hello: Hello): object {
  const volumes = hello.volumes.map(volume => ({
    ...volume,
    sizeBytes: String(volume.sizeBytes),
    excluded: volume.excluded.slice(0, rangesMax).map(String),
  }))
  const history = encodeReigns(hello.history)
  return { type: 'hello', ...hello, incarnation: String(hello.incarnation), history, volumes }
}

export function encodeWelcome(welcome: Welcome): object {
  return { type: 'welcome', ...welcome, incarnation: String(welcome.incarnation), received: String(welcome.received) }
}

export function encodeRefused(
  code: RefusalCode,
  message: string,
  history: readonly Reign[] = [],
  mustYield = false,
): object {
  return { type: 'refused', code, message: message.slice(0, textMax), history: encodeReigns(history), yield: mustYield }
}

export function encodeFollow(follow: Follow): object {
  return { type: 'follow', ...follow, history: encodeReigns(follow.history) }
}

/** In as many messages as it takes. */
export function encodeSuspects(volume: string, ranges: readonly bigint[]): object[] {
  const messages: object[] = []
  for (let at = 0; at < ranges.length; at += rangesMax)
    messages.push({ type: 'suspects', volume, ranges: ranges.slice(at, at + rangesMax).map(String) })
  return messages
}

export function encodeAbdicate({ position, takeOver }: Abdicate): object {
  return { type: 'abdicate', takeOver, ...encodePosition(position) }
}

export function encodeMark({ id, kind, label, position, timeNs }: Mark): object {
  return { type: 'mark', id, kind, label, ...encodePosition(position), timeNs: String(timeNs) }
}

export function encodeMarked({ id, problem }: Marked): object {
  return { type: 'marked', id, problem: problem.slice(0, textMax) }
}

export function encodeLeftOut(volumes: Readonly<LeftOut>): object {
  const listed = volumes.map(({ name, excluded, filesLeftOut }) => ({
    name,
    excluded: excluded.slice(0, rangesMax).map(String),
    filesLeftOut,
  }))
  return { type: 'left-out', volumes: listed }
}

/** '' for what is no message at all. */
export function typeOf(message: unknown): string {
  const type = (message as { type?: unknown } | null | undefined)?.type
  return typeof type === 'string' ? type : ''
}

export function decodeHello(message: unknown): Hello {
  const fields = new Fields(message, 'hello')
  return {
    protocol: fields.integer('protocol', 1, 0xffff),
    protocolOldest: fields.integer('protocolOldest', 1, 0xffff),
    program: fields.text('program', nameMax),
    group: fields.text('group', nameMax),
    incarnation: fields.big('incarnation', 1n, incarnationMax),
    generation: fields.text('generation', nameMax),
    history: historyOf(fields) ?? [firstReign(fields.text('generation', nameMax), '')],
    discard: fields.optionalText('discard', nameMax),
    durability: fields.text('durability', nameMax),
    leaseMs: fields.optionalInteger('leaseMs', leaseMsMax),
    compress: fields.optionalText('compress', nameMax),
    hostname: fields.text('hostname', textMax),
    volumes: fields.list('volumes', volumesMax).map(item => decodeVolume(item)),
  }
}

/** The versions alone: what a hello of any version says in the same way. */
export function decodeVersions(message: unknown): { protocol: number; protocolOldest: number; program: string } {
  const fields = new Fields(message, 'hello')
  return {
    protocol: fields.integer('protocol', 1, 0xffff),
    protocolOldest: fields.integer('protocolOldest', 1, 0xffff),
    program: fields.text('program', nameMax),
  }
}

function decodeVolume(item: unknown): HelloVolume {
  const fields = new Fields(item, 'hello: volume')
  return {
    name: fields.text('name', nameMax),
    uuid: fields.text('uuid', nameMax),
    sizeBytes: fields.big('sizeBytes', 1n, sequenceMax),
    blockMin: fields.integer('blockMin', 1, 1 << 20),
    excluded: fields.bigs('excluded', rangesMax),
    filesLeftOut: fields.optional('filesLeftOut') === true,
  }
}

export function decodeWelcome(message: unknown): Welcome {
  const fields = new Fields(message, 'welcome')
  return {
    protocol: fields.integer('protocol', 1, 0xffff),
    program: fields.text('program', nameMax),
    replicaId: fields.text('replicaId', nameMax),
    incarnation: fields.big('incarnation', 0n, incarnationMax),
    received: fields.big('received', 0n, sequenceMax),
    fresh: fields.boolean('fresh'),
    initial: fields.boolean('initial'),
    alias: fields.optionalText('alias', nameMax),
    leaseMs: fields.optionalInteger('leaseMs', leaseMsMax),
    givesBack: fields.optional('givesBack') === true,
    compress: fields.optionalText('compress', nameMax),
    keepsHistory: fields.optional('keepsHistory') === true,
  }
}

export function decodeRefused(message: unknown): Refused {
  const fields = new Fields(message, 'refused')
  return {
    code: fields.text('code', nameMax),
    message: fields.text('message', textMax),
    history: historyOf(fields) ?? [],
    yield: fields.optional('yield') === true,
  }
}

export function decodeFollow(message: unknown): Follow {
  const fields = new Fields(message, 'follow')
  return {
    protocol: fields.integer('protocol', 1, 0xffff),
    protocolOldest: fields.integer('protocolOldest', 1, 0xffff),
    program: fields.text('program', nameMax),
    group: fields.text('group', nameMax),
    history: historyOf(fields) ?? [],
  }
}

export function decodeSuspects(message: unknown): Suspects {
  const fields = new Fields(message, 'suspects')
  return { volume: fields.text('volume', nameMax), ranges: fields.bigs('ranges', rangesMax) }
}

export function decodeAbdicate(message: unknown): Abdicate {
  const fields = new Fields(message, 'abdicate')
  return { position: positionOf(fields), takeOver: fields.boolean('takeOver') }
}

export function decodeMark(message: unknown): Mark {
  const fields = new Fields(message, 'mark')
  return {
    id: fields.integer('id', 1, idMax),
    kind: fields.text('kind', nameMax),
    label: fields.text('label', nameMax),
    position: positionOf(fields),
    timeNs: fields.big('timeNs', 0n, sequenceMax),
  }
}

export function decodeMarked(message: unknown): Marked {
  const fields = new Fields(message, 'marked')
  return { id: fields.integer('id', 1, idMax), problem: fields.text('problem', textMax) }
}

function positionOf(fields: Fields): Position {
  return {
    incarnation: fields.big('incarnation', 0n, incarnationMax),
    sequence: fields.big('sequence', 0n, sequenceMax),
  }
}

export function decodeLeftOut(message: unknown): LeftOut {
  return new Fields(message, 'left-out').list('volumes', volumesMax).map(item => {
    const fields = new Fields(item, 'left-out: volume')
    return {
      name: fields.text('name', nameMax),
      excluded: fields.bigs('excluded', rangesMax),
      filesLeftOut: fields.optional('filesLeftOut') === true,
    }
  })
}

/** Undefined when it is missing: an older program's. */
function historyOf(fields: Fields): Reign[] | undefined {
  const value = fields.optional('history')
  if (value === undefined) return undefined
  const history = decodeReigns(value)
  if (history === undefined) throw new MessageError("message: 'history' must be a list of reigns")
  return history
}

class Fields {
  readonly #values: Record<string, unknown>

  constructor(
    message: unknown,
    private readonly what: string,
  ) {
    if (typeof message !== 'object' || message === null) throw new MessageError(`${what}: it is no JSON object`)
    this.#values = message as Record<string, unknown>
  }

  text(name: string, charactersMax: number): string {
    const value = this.#get(name)
    if (typeof value === 'string' && value.length <= charactersMax) return value
    throw this.#wrong(name, `text of at most ${charactersMax} characters`)
  }

  integer(name: string, least: number, most: number): number {
    const value = this.#get(name)
    if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return value
    throw this.#wrong(name, `a whole number from ${least} to ${most}`)
  }

  big(name: string, least: bigint, most: bigint): bigint {
    const value = this.#get(name)
    if (typeof value === 'string' && /^\d{1,20}$/.test(value)) {
      const number = BigInt(value)
      if (number >= least && number <= most) return number
    }
    throw this.#wrong(name, `decimal digits, ${least} to ${most}`)
  }

  boolean(name: string): boolean {
    const value = this.#get(name)
    if (typeof value === 'boolean') return value
    throw this.#wrong(name, 'true or false')
  }

  /** '' when it is missing. */
  optionalText(name: string, charactersMax: number): string {
    return this.#get(name) === undefined ? '' : this.text(name, charactersMax)
  }

  /** 0 when it is missing. */
  optionalInteger(name: string, most: number): number {
    return this.#get(name) === undefined ? 0 : this.integer(name, 0, most)
  }

  optional(name: string): unknown {
    return this.#get(name)
  }

  /** Empty when it is missing. */
  bigs(name: string, lengthMax: number): bigint[] {
    const value = this.#get(name) ?? []
    if (!Array.isArray(value) || value.length > lengthMax) throw this.#wrong(name, `a list of at most ${lengthMax}`)
    return (value as unknown[]).map(item => {
      if (typeof item === 'string' && /^\d{1,20}$/.test(item) && BigInt(item) <= sequenceMax) return BigInt(item)
      throw this.#wrong(name, 'a list of decimal digits')
    })
  }

  list(name: string, lengthMax: number): unknown[] {
    const value = this.#get(name)
    if (Array.isArray(value) && value.length >= 1 && value.length <= lengthMax) return value as unknown[]
    throw this.#wrong(name, `a list of 1 to ${lengthMax}`)
  }

  #get(name: string): unknown {
    return Object.hasOwn(this.#values, name) ? this.#values[name] : undefined
  }

  #wrong(name: string, wanted: string): MessageError {
    return new MessageError(`${this.what}: '${name}' must be ${wanted}`)
  }
}
