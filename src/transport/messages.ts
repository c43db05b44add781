/**
 * What the two TypeScript halves of a session say to each other, as JSON frames:
 *
 *   master                                standby
 *   hello (who, which volumes)  ------->  judges it; makes or finds the replica, routes the session's records to it
 *                               <-------  welcome (where its history stands) or refused (why)
 *   attaches the engine, records flow
 *
 * 64-bit numbers are decimal strings. A peer is not believed: every field is checked for type and bounds here. Fields
 * that are not known are ignored, so that a newer peer may say more.
 */
import { UnderstudyError } from '../core/errors.js'

/** Versions of the link this program speaks. N talks to N - 1; the standby is upgraded first. */
export const protocol = { newest: 1, oldest: 1 } as const

export interface HelloVolume {
  name: string
  uuid: string
  sizeBytes: bigint
  /** Bytes: the master device's sector. */
  blockMin: number
}

export interface Hello {
  protocol: number
  protocolOldest: number
  program: string
  group: string
  incarnation: bigint
  generation: string
  durability: string
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
}

/** bad-hello and protocol: a defect or a version; other-*, size, sector: another volume; promoted: it took over. */
export type RefusalCode =
  'bad-hello' | 'protocol' | 'other-master' | 'other-volume' | 'size' | 'sector' | 'promoted' | 'failed' | 'stopping'

export interface Refused {
  code: string
  message: string
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
const sequenceMax = (1n << 63n) - 1n
const incarnationMax = (1n << 64n) - 1n

export function encodeHello(hello: Hello): object {
  const volumes = hello.volumes.map(volume => ({ ...volume, sizeBytes: String(volume.sizeBytes) }))
  return { type: 'hello', ...hello, incarnation: String(hello.incarnation), volumes }
}

export function encodeWelcome(welcome: Welcome): object {
  return { type: 'welcome', ...welcome, incarnation: String(welcome.incarnation), received: String(welcome.received) }
}

export function encodeRefused(code: RefusalCode, message: string): object {
  return { type: 'refused', code, message: message.slice(0, textMax) }
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
    durability: fields.text('durability', nameMax),
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
  }
}

export function decodeRefused(message: unknown): Refused {
  const fields = new Fields(message, 'refused')
  return { code: fields.text('code', nameMax), message: fields.text('message', textMax) }
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
