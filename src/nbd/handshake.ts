/**
 * One connection's handshake: fixed newstyle of doc/proto.md ("Newstyle negotiation"), with the options of
 * extension-ext-header. Guarantees: at most one option's data and one option's replies are held; the next option is read
 * when the replies to the last have left; whatever the client sends, the outcome comes within limits.totalMs.
 * Not here: opening and handing over the socket (server.ts), and TLS itself. STARTTLS ends a negotiation; a new one begins
 * on the secured stream, with nothing agreed but the client flags (proto.md, "TLS versions" and "Server-side requirements").
 *
 *   greeting -> client flags -> option -> option ... -> GO | EXPORT_NAME: agreed
 *                              ^                    |-> ABORT: left      anything unheard-of: HandshakeError
 *                              |                    `-> STARTTLS: secure
 *                              `---- TLS handshake -----'
 */
import type { Duplex } from 'node:stream'
import type { NegotiatedFlags } from '../native/binding.js'
import {
  clientFlag,
  exportNameZeroBytes,
  handshakeFlag,
  info,
  metaContext,
  NBD_MAGIC,
  NBD_OPTS_MAGIC,
  option,
  optionName,
  reply,
  stringBytesMax,
  type MetaContext,
} from './constants.js'
import {
  findExport,
  hasDefaultBlockSizes,
  metaContexts,
  transmissionFlags,
  type ExportSource,
  type NbdExport,
} from './exports.js'
import { OptionRefusal, parseExportName, parseInfoRequest, parseMetaContextRequest } from './options.js'
import {
  HandshakeError,
  infoBlockSize,
  infoExport,
  infoString,
  metaContextReply,
  optionReply,
  serverReply,
  StreamReader,
} from './wire.js'

export interface HandshakeLimits {
  /** From the connection to the last word. */
  totalMs: number
  /** From one option's reply to the end of the next option, and for the client flags. */
  idleMs: number
  /** Option data that is looked at; more is skipped and answered with ERR_TOO_BIG ... */
  payloadBytesMax: number
  /** ... up to here; more ends the connection. */
  discardBytesMax: number
  optionsMax: number
}

export const defaultLimits: HandshakeLimits = {
  totalMs: 30_000,
  idleMs: 10_000,
  payloadBytesMax: 64 << 10,
  discardBytesMax: 1 << 20,
  optionsMax: 1024,
}

export type HandshakeOutcome =
  /** `lastWords` is still to be written: whoever does that hands over the socket when, and only when, it is gone. */
  | { kind: 'agreed'; target: NbdExport; flags: NegotiatedFlags; lastWords: Buffer }
  /** The client said NBD_OPT_ABORT and has its answer. */
  | { kind: 'left' }
  /** `lastWords` is still to be written; then the client begins its TLS handshake. */
  | { kind: 'secure'; client: SecuredClient; lastWords: Buffer }

/** What a client that has gone over to TLS keeps of what it said before. */
export interface SecuredClient {
  noZeroes: boolean
}

/** off: STARTTLS is not supported. on: the client chooses. require: nothing is said before TLS. */
export type TlsPolicy = 'off' | 'on' | 'require'

export interface HandshakeContext {
  exports: ExportSource
  limits: HandshakeLimits
  /** Default: off. */
  tls?: TlsPolicy
  /** True from the moment the daemon stops: options get ERR_SHUTDOWN. */
  shuttingDown?: () => boolean
}

/**
 * Throws HandshakeError. On return nothing listens on the stream any more, and what the client sent ahead is in it.
 * `secured`: the stream is the inside of TLS, and the client goes on where it said STARTTLS.
 */
export async function negotiate(
  stream: Duplex,
  context: HandshakeContext,
  secured?: SecuredClient,
): Promise<HandshakeOutcome> {
  const reader = new StreamReader(stream)
  const handshake = new Handshake(reader, context, secured)
  const deadline = setTimeout(() => handshake.expire(context.limits.totalMs), context.limits.totalMs)
  try {
    return await handshake.run()
  } finally {
    clearTimeout(deadline)
    handshake.stopIdleTimer()
    reader.detach()
  }
}

/** What options have changed so far. */
interface Agreement {
  structuredReplies: boolean
  /** Implies structuredReplies. */
  extendedHeaders: boolean
  /** Ids of metadata contexts, and the canonical name of the export they were selected for. */
  contexts?: { exportName: string; ids: Set<number> }
}

const nothingAgreed = (): Agreement => ({ structuredReplies: false, extendedHeaders: false })

/** What an option leads to: `words` go to the client, and then ... */
type Answer = { kind: 'reply' | 'leave'; words: Buffer } | Extract<HandshakeOutcome, { kind: 'agreed' | 'secure' }>

class Handshake {
  readonly #reader: StreamReader
  readonly #context: HandshakeContext
  #idleTimer: NodeJS.Timeout | undefined
  #stage = 'its flags'

  #noZeroes = false
  readonly #secured: boolean
  readonly #agreement = nothingAgreed()

  constructor(reader: StreamReader, context: HandshakeContext, secured?: SecuredClient) {
    this.#reader = reader
    this.#context = context
    this.#secured = secured !== undefined
    this.#noZeroes = secured?.noZeroes ?? false
  }

  async run(): Promise<HandshakeOutcome> {
    this.#startIdleTimer()
    if (!this.#secured) await this.#greet()
    for (let count = 0; count < this.#context.limits.optionsMax; count++) {
      this.#startIdleTimer()
      const outcome = await this.#nextOption()
      if (outcome !== undefined) return outcome
    }
    throw new HandshakeError(
      'NBD_REFUSED',
      `the client sent ${this.#context.limits.optionsMax} options without choosing an export`,
    )
  }

  expire(milliseconds: number): void {
    const seconds = milliseconds / 1000
    this.#reader.abort(
      new HandshakeError('NBD_TIMEOUT', `the handshake took longer than ${seconds} s; waited for ${this.#stage}`),
    )
  }

  #startIdleTimer(): void {
    clearTimeout(this.#idleTimer)
    this.#idleTimer = setTimeout(() => this.expire(this.#context.limits.idleMs), this.#context.limits.idleMs)
  }

  stopIdleTimer(): void {
    clearTimeout(this.#idleTimer)
  }

  async #greet(): Promise<void> {
    const greeting = Buffer.alloc(18)
    greeting.writeBigUInt64BE(NBD_MAGIC, 0)
    greeting.writeBigUInt64BE(NBD_OPTS_MAGIC, 8)
    greeting.writeUInt16BE(handshakeFlag.FIXED_NEWSTYLE | handshakeFlag.NO_ZEROES, 16)
    await this.#reader.write(greeting)
    const flags = (await this.#reader.read(4)).readUInt32BE()
    const unknown = (flags & ~(clientFlag.C_FIXED_NEWSTYLE | clientFlag.C_NO_ZEROES)) >>> 0
    if (unknown !== 0) throw protocolError(`unknown client flags 0x${unknown.toString(16)}`)
    this.#noZeroes = (flags & clientFlag.C_NO_ZEROES) !== 0
  }

  async #nextOption(): Promise<HandshakeOutcome | undefined> {
    this.#stage = 'an option'
    const header = await this.#reader.read(16)
    const magic = header.readBigUInt64BE(0)
    if (magic !== NBD_OPTS_MAGIC) throw protocolError(`option magic 0x${magic.toString(16)} instead of IHAVEOPT`)
    const code = header.readUInt32BE(8)
    const bytes = header.readUInt32BE(12)
    this.#stage = `the data of ${optionName(code)}`
    const payload = await this.#payload(code, bytes)
    this.#stage = `the client to take the reply to ${optionName(code)}`
    if (code === option.EXPORT_NAME) return this.#exportName(payload)
    const answer = this.#answer(code, payload)
    if (answer.kind === 'agreed' || answer.kind === 'secure') return answer
    await this.#reader.write(answer.words)
    return answer.kind === 'leave' ? { kind: 'left' } : undefined
  }

  /** The option's data; undefined when it was too long to be looked at and has been skipped. */
  async #payload(code: number, bytes: number): Promise<Buffer | undefined> {
    const { payloadBytesMax, discardBytesMax } = this.#context.limits
    if (bytes > discardBytesMax) throw protocolError(`${optionName(code)} announces ${bytes} bytes of data`)
    if (bytes <= payloadBytesMax) return this.#reader.read(bytes)
    await this.#reader.discard(bytes)
    return undefined
  }

  #answer(code: number, payload: Buffer | undefined): Answer {
    // Whatever data comes with it is ignored, as proto.md asks.
    if (code === option.ABORT) return { kind: 'leave', words: optionReply(code, reply.ACK) }
    try {
      if (code === option.STARTTLS) return this.#startTls(payload)
      this.#refuseBeforeTls()
      if (code === option.GO) return this.#go(payload)
      return { kind: 'reply', words: this.#act(code, payload) }
    } catch (error) {
      if (!(error instanceof OptionRefusal)) throw error
      return { kind: 'reply', words: refusal(code, error) }
    }
  }

  /** The replies to an option that does not end the haggling. Throws OptionRefusal. */
  #act(code: number, payload: Buffer | undefined): Buffer {
    this.#refuseWhenStopping()
    switch (code) {
      case option.LIST:
        mustBeEmpty(payload)
        return this.#list()
      case option.STRUCTURED_REPLY:
        mustBeEmpty(payload)
        return this.#structuredReply()
      case option.EXTENDED_HEADERS:
        mustBeEmpty(payload)
        this.#agreement.extendedHeaders = true
        this.#agreement.structuredReplies = true
        return optionReply(code, reply.ACK)
      case option.INFO:
        return this.#describe(code, notTooBig(payload)).words
      case option.LIST_META_CONTEXT:
        return this.#listMetaContext(notTooBig(payload))
      case option.SET_META_CONTEXT:
        // Also a request that fails drops what was selected before.
        delete this.#agreement.contexts
        return this.#setMetaContext(notTooBig(payload))
      default:
        throw unsupported(code)
    }
  }

  /** proto.md, NBD_OPT_STARTTLS: everything but the flags is agreed on anew afterwards. */
  #startTls(payload: Buffer | undefined): Answer {
    if (this.#policy === 'off') throw unsupported(option.STARTTLS)
    mustBeEmpty(payload)
    if (this.#secured) throw new OptionRefusal(reply.ERR_INVALID, 'this connection is secured already')
    this.#refuseWhenStopping()
    // Somebody on the way could have put it there, to be taken for what the client says inside of TLS.
    if (this.#reader.hasMore) throw protocolError('plain data after NBD_OPT_STARTTLS')
    const lastWords = optionReply(option.STARTTLS, reply.ACK)
    return { kind: 'secure', client: { noZeroes: this.#noZeroes }, lastWords }
  }

  get #policy(): TlsPolicy {
    return this.#context.tls ?? 'off'
  }

  /** proto.md, "FORCEDTLS mode". */
  #refuseBeforeTls(): void {
    if (this.#policy === 'require' && !this.#secured)
      throw new OptionRefusal(reply.ERR_TLS_REQD, 'this server talks over TLS only: NBD_OPT_STARTTLS comes first')
  }

  #list(): Buffer {
    const replies = this.#context.exports.list().map(one => serverReply(option.LIST, one.name, clip(one.description)))
    return Buffer.concat([...replies, optionReply(option.LIST, reply.ACK)])
  }

  #structuredReply(): Buffer {
    if (this.#agreement.extendedHeaders) {
      throw new OptionRefusal(
        reply.ERR_EXT_HEADER_REQD,
        'extended headers have been agreed on; they include structured replies',
      )
    }
    this.#agreement.structuredReplies = true
    return optionReply(option.STRUCTURED_REPLY, reply.ACK)
  }

  #go(payload: Buffer | undefined): Answer {
    this.#refuseWhenStopping()
    const { target, words } = this.#describe(option.GO, notTooBig(payload))
    return this.#agreed(target, words)
  }

  /** The replies to INFO and GO are the same; what follows is not. */
  #describe(code: number, payload: Buffer): { target: NbdExport; words: Buffer } {
    const { name, requests } = parseInfoRequest(payload)
    const target = this.#find(name)
    const { blockMin: min, blockPreferred: preferred, blockMax: max } = target.device
    const words = [infoExport(code, target.device.sizeBytes, this.#transmissionFlags(target))]
    if (requests.has(info.NAME)) words.push(infoString(code, info.NAME, target.name))
    if (requests.has(info.DESCRIPTION) && target.description !== '') {
      words.push(infoString(code, info.DESCRIPTION, clip(target.description)))
    }
    if (requests.has(info.BLOCK_SIZE) || !hasDefaultBlockSizes(target.device)) {
      words.push(infoBlockSize(code, { min, preferred, max }))
    }
    words.push(optionReply(code, reply.ACK))
    return { target, words: Buffer.concat(words) }
  }

  /** Cannot be refused but by ending the connection (proto.md, NBD_OPT_EXPORT_NAME). */
  #exportName(payload: Buffer | undefined): HandshakeOutcome {
    const refused = (why: string) => new HandshakeError('NBD_REFUSED', `NBD_OPT_EXPORT_NAME: ${why}`)
    if (this.#agreement.extendedHeaders) throw refused('not allowed after NBD_OPT_EXTENDED_HEADERS')
    try {
      this.#refuseBeforeTls()
      this.#refuseWhenStopping()
      const target = this.#find(parseExportName(notTooBig(payload)))
      const words = Buffer.alloc(this.#noZeroes ? 10 : 10 + exportNameZeroBytes)
      words.writeBigUInt64BE(target.device.sizeBytes, 0)
      words.writeUInt16BE(this.#transmissionFlags(target), 8)
      return this.#agreed(target, words)
    } catch (error) {
      throw error instanceof OptionRefusal ? refused(error.message) : error
    }
  }

  #agreed(target: NbdExport, lastWords: Buffer): Extract<HandshakeOutcome, { kind: 'agreed' }> {
    const { exportName, ids } = this.#agreement.contexts ?? {}
    const selected = ({ id }: MetaContext): number => (exportName === target.name && ids?.has(id) === true ? id : 0)
    const flags: NegotiatedFlags = {
      structuredReplies: this.#agreement.structuredReplies,
      extendedHeaders: this.#agreement.extendedHeaders,
      baseAllocationId: selected(metaContext.allocation),
      replicatedId: selected(metaContext.replicated),
      dirtyId: selected(metaContext.dirty),
      readOnly: target.readOnly || target.device.readOnly,
    }
    return { kind: 'agreed', target, flags, lastWords }
  }

  #listMetaContext(payload: Buffer): Buffer {
    const { name, queries } = parseMetaContextRequest(payload)
    const matches = metaContexts(this.#find(name)).filter(
      context => queries.length === 0 || queries.includes(context.name) || queries.includes(context.namespace),
    )
    const replies = matches.map(context => metaContextReply(option.LIST_META_CONTEXT, 0, context.name))
    return Buffer.concat([...replies, optionReply(option.LIST_META_CONTEXT, reply.ACK)])
  }

  #setMetaContext(payload: Buffer): Buffer {
    if (!this.#agreement.structuredReplies) {
      throw new OptionRefusal(reply.ERR_INVALID, 'metadata contexts need structured replies or extended headers first')
    }
    const { name, queries } = parseMetaContextRequest(payload)
    const target = this.#find(name)
    const selected = metaContexts(target).filter(context => queries.includes(context.name))
    this.#agreement.contexts = { exportName: target.name, ids: new Set(selected.map(({ id }) => id)) }
    const replies = selected.map(context => metaContextReply(option.SET_META_CONTEXT, context.id, context.name))
    return Buffer.concat([...replies, optionReply(option.SET_META_CONTEXT, reply.ACK)])
  }

  #refuseWhenStopping(): void {
    if (this.#context.shuttingDown?.() === true)
      throw new OptionRefusal(reply.ERR_SHUTDOWN, 'this server is being stopped')
  }

  #find(name: string): NbdExport {
    const target = findExport(this.#context.exports, name)
    if (target !== undefined) return target
    const why = name === '' ? 'there is no default export' : `there is no export '${name.slice(0, 256)}'`
    throw new OptionRefusal(reply.ERR_UNKNOWN, `${why}; NBD_OPT_LIST shows what there is`)
  }

  #transmissionFlags(target: NbdExport): number {
    return transmissionFlags(target, this.#agreement.structuredReplies)
  }
}

function unsupported(code: number): OptionRefusal {
  return new OptionRefusal(reply.ERR_UNSUP, `${optionName(code)} is not supported by this server`)
}

function mustBeEmpty(payload: Buffer | undefined): void {
  if (payload?.length !== 0) throw new OptionRefusal(reply.ERR_INVALID, 'this option carries no data')
}

function notTooBig(payload: Buffer | undefined): Buffer {
  if (payload === undefined) throw new OptionRefusal(reply.ERR_TOO_BIG, "the option's data is too long")
  return payload
}

/** A string of the protocol has 4096 bytes at most; cut between characters. */
function clip(text: string): string {
  if (Buffer.byteLength(text) <= stringBytesMax) return text
  return new TextDecoder().decode(Buffer.from(text).subarray(0, stringBytesMax), { stream: true })
}

function refusal(code: number, refused: OptionRefusal): Buffer {
  return optionReply(code, refused.type, Buffer.from(clip(refused.message)))
}

function protocolError(what: string): HandshakeError {
  return new HandshakeError('NBD_PROTOCOL', `not an NBD client, or a broken one: ${what}`)
}
