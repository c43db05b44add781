/**
 * A raw, strict NBD client for tests: it can say anything, also what no client should, and takes nothing from a server
 * that doc/proto.md does not allow (wrong magic, reply style, cookie, offset, overlapping or missing data, bytes nobody
 * asked for). Its numbers are its own, from the specification, not from src/. Every wait has a limit.
 */
import { once } from 'node:events'
import net from 'node:net'
import { SLOWER } from './patience.js'

export type Address = { path: string } | { host: string; port: number }

export const OPT = { EXPORT_NAME: 1, ABORT: 2, LIST: 3, PEEK_EXPORT: 4, STARTTLS: 5, INFO: 6, GO: 7, STRUCTURED_REPLY: 8, LIST_META_CONTEXT: 9, SET_META_CONTEXT: 10, EXTENDED_HEADERS: 11 } as const // prettier-ignore
export const REP = { ACK: 1, SERVER: 2, INFO: 3, META_CONTEXT: 4, ERR_UNSUP: 0x80000001, ERR_POLICY: 0x80000002, ERR_INVALID: 0x80000003, ERR_TLS_REQD: 0x80000005, ERR_UNKNOWN: 0x80000006, ERR_SHUTDOWN: 0x80000007, ERR_BLOCK_SIZE_REQD: 0x80000008, ERR_TOO_BIG: 0x80000009, ERR_EXT_HEADER_REQD: 0x8000000a } as const // prettier-ignore
export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const
export const FLAG = { HAS_FLAGS: 1, READ_ONLY: 2, SEND_FLUSH: 4, SEND_FUA: 8, ROTATIONAL: 16, SEND_TRIM: 32, SEND_WRITE_ZEROES: 64, SEND_DF: 128, CAN_MULTI_CONN: 256, SEND_CACHE: 1024, SEND_FAST_ZERO: 2048 } as const // prettier-ignore
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const
export const CMD_FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const
export const ERR = { NONE: 0, EPERM: 1, EIO: 5, ENOMEM: 12, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75, ENOTSUP: 95, ESHUTDOWN: 108 } as const // prettier-ignore
const CHUNK = { NONE: 0, OFFSET_DATA: 1, OFFSET_HOLE: 2, BLOCK_STATUS: 5, BLOCK_STATUS_EXT: 6, ERROR: 0x8001, ERROR_OFFSET: 0x8002 } as const // prettier-ignore
export { CHUNK }

const NBDMAGIC = 0x4e42444d41474943n
const IHAVEOPT = 0x49484156454f5054n
const REPLY_MAGIC = 0x3e889045565a9n
const waitMs = 15_000
const replyBytesMax = 40 << 20

export interface OptionReply {
  type: number
  data: Buffer
}

export interface ExportInfo {
  size: bigint
  flags: number
  name?: string
  description?: string
  block?: { min: number; preferred: number; max: number }
  /** As they came, without the final ACK. */
  infos: number[]
}

export interface Request {
  type: number
  flags?: number
  offset?: bigint | number
  length?: bigint | number
  /** Payload; its length is the request's unless `length` says otherwise. */
  data?: Buffer
  cookie?: bigint
}

export interface Extent {
  length: bigint
  flags: bigint
}

export interface Reply {
  cookie: bigint
  /** 0 or NBD_E*. The first one, when several chunks carry one. */
  error: number
  message: string
  /** Of a READ without error. */
  data: Buffer
  /** Chunk types in their order; [] for a simple reply. */
  chunks: number[]
  /** Per context id. */
  extents: Map<number, Extent[]>
  /** Position among all replies of this connection. */
  order: number
}

interface Pending extends Required<Pick<Request, 'type'>> {
  flags: number
  offset: bigint
  length: bigint
  reply: Reply
  covered: [start: bigint, end: bigint][]
  resolve: (reply: Reply) => void
  reject: (error: Error) => void
}

/** The server did what the protocol does not allow. */
export class NbdViolation extends Error {}

/** The connection ended, with requests unanswered. */
export class NbdEnded extends Error {}

export class NbdClient {
  readonly socket: net.Socket
  /** The style replies and requests have from now on; options set it. */
  style: 'simple' | 'structured' | 'extended' = 'simple'
  contexts = new Map<number, string>()
  noZeroes = true

  #received: Buffer[] = []
  #receivedBytes = 0
  #ended = false
  #error: Error | undefined
  #wake: (() => void) | undefined
  #pending = new Map<bigint, Pending>()
  #nextCookie = 1n
  #order = 0
  #failure: Error | undefined
  #violation: Error | undefined
  #pumping = false
  /** Resolves when the server has ended the connection; tells how. */
  readonly closed: Promise<{ reset: boolean }>

  constructor(socket: net.Socket) {
    this.socket = socket
    socket.on('data', data => {
      this.#received.push(data)
      this.#receivedBytes += data.length
      this.#wake?.()
    })
    socket.on('error', error => {
      this.#error = error
      this.#ended = true
      this.#wake?.()
    })
    this.closed = new Promise(resolve => {
      const end = () => {
        this.#ended = true
        this.#wake?.()
        resolve({ reset: this.#error !== undefined })
      }
      socket.on('end', end)
      socket.on('close', end)
    })
  }

  static async open(address: Address): Promise<NbdClient> {
    const socket = net.connect({ ...address, allowHalfOpen: true } as net.NetConnectOpts)
    await once(socket, 'connect')
    socket.setNoDelay(true)
    return new NbdClient(socket)
  }

  /** Greeted, with both client flags. */
  static async connect(address: Address): Promise<NbdClient> {
    const client = await NbdClient.open(address)
    await client.greet()
    return client
  }

  /** Ready to send requests to an export, negotiated as asked. */
  static async attach(
    address: Address,
    name: string,
    how: { style?: NbdClient['style']; contexts?: string[] } = {},
  ): Promise<NbdClient> {
    const client = await NbdClient.connect(address)
    if (how.style === 'structured') await client.structuredReply()
    if (how.style === 'extended') await client.extendedHeaders()
    if (how.contexts !== undefined) await client.setMetaContext(name, how.contexts)
    await client.go(name)
    return client
  }

  destroy(): void {
    this.socket.destroy()
  }

  // ---- bytes ---------------------------------------------------------------------------------------------------

  send(data: Buffer): void {
    if (!this.socket.destroyed) this.socket.write(data)
  }

  get unread(): number {
    return this.#receivedBytes
  }

  async receive(bytes: number, milliseconds = waitMs): Promise<Buffer> {
    const limit = performance.now() + milliseconds * SLOWER
    while (this.#receivedBytes < bytes) {
      if (this.#ended)
        throw new NbdViolation(`connection ended after ${this.#receivedBytes} of ${bytes} bytes`, {
          cause: this.#error,
        })
      const left = limit - performance.now()
      if (left <= 0) throw new NbdViolation(`only ${this.#receivedBytes} of ${bytes} bytes after ${milliseconds} ms`)
      await this.#more(left)
    }
    return this.#take(bytes)
  }

  /** The server ends the connection, and sends nothing before that. */
  async receiveEnd(milliseconds = waitMs): Promise<{ reset: boolean }> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      const limit = milliseconds * SLOWER
      timer = setTimeout(() => reject(new NbdViolation(`connection still open after ${limit} ms`)), limit)
    })
    try {
      const how = await Promise.race([this.closed, late])
      if (this.#receivedBytes > 0) throw new NbdViolation(`${this.#receivedBytes} unexpected bytes before the end`)
      if (this.#violation !== undefined) throw this.#violation
      return how
    } finally {
      clearTimeout(timer)
    }
  }

  /** Nothing comes for so long, and the connection stays open. */
  async silence(milliseconds: number): Promise<void> {
    await new Promise(resolve => setTimeout(resolve, milliseconds))
    if (this.#receivedBytes > 0) throw new NbdViolation(`${this.#receivedBytes} unexpected bytes`)
    if (this.#ended) throw new NbdViolation('the server ended the connection')
  }

  #more(milliseconds: number): Promise<void> {
    return new Promise(resolve => {
      const done = (): void => {
        clearTimeout(timer)
        this.#wake = undefined
        resolve()
      }
      const timer = setTimeout(done, milliseconds)
      this.#wake = done
    })
  }

  #take(bytes: number): Buffer {
    const parts: Buffer[] = []
    for (let left = bytes; left > 0;) {
      const first = this.#received[0]!
      const part = first.subarray(0, left)
      parts.push(part)
      left -= part.length
      if (part.length === first.length) this.#received.shift()
      else this.#received[0] = first.subarray(part.length)
    }
    this.#receivedBytes -= bytes
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts)
  }

  // ---- haggling ------------------------------------------------------------------------------------------------

  async greet(clientFlags = 3): Promise<number> {
    const greeting = await this.receive(18)
    expect(greeting.readBigUInt64BE(0) === NBDMAGIC, 'NBDMAGIC')
    expect(greeting.readBigUInt64BE(8) === IHAVEOPT, 'IHAVEOPT')
    const flags = greeting.readUInt16BE(16)
    expect((flags & ~3) === 0, `handshake flags 0x${flags.toString(16)}`)
    this.noZeroes = (clientFlags & 2) !== 0
    this.send(uint32(clientFlags))
    return flags
  }

  /** `announced`: the length in the header, when it is to be a lie. */
  sendOption(option: number, data: Buffer = Buffer.alloc(0), announced = data.length): void {
    const header = Buffer.alloc(16)
    header.writeBigUInt64BE(IHAVEOPT, 0)
    header.writeUInt32BE(option, 8)
    header.writeUInt32BE(announced, 12)
    this.send(Buffer.concat([header, data]))
  }

  async receiveReply(option: number): Promise<OptionReply> {
    const header = await this.receive(20)
    expect(header.readBigUInt64BE(0) === REPLY_MAGIC, 'magic of an option reply')
    expect(header.readUInt32BE(8) === option, `a reply to option ${header.readUInt32BE(8)} instead of ${option}`)
    const type = header.readUInt32BE(12)
    const bytes = header.readUInt32BE(16)
    expect(bytes <= 64 << 10, `an option reply of ${bytes} bytes`)
    if (type === REP.ACK) expect(bytes === 0, 'an ACK without data')
    return { type, data: await this.receive(bytes) }
  }

  /** All replies up to and with the final one. */
  async option(option: number, data?: Buffer): Promise<OptionReply[]> {
    this.sendOption(option, data)
    return this.receiveReplies(option)
  }

  async receiveReplies(option: number): Promise<OptionReply[]> {
    const replies: OptionReply[] = []
    for (;;) {
      const reply = await this.receiveReply(option)
      replies.push(reply)
      if (reply.type === REP.ACK || reply.type >= 0x80000000) return replies
    }
  }

  /** The final reply's type, for options that have only one. */
  async ask(option: number, data?: Buffer): Promise<number> {
    const replies = await this.option(option, data)
    expect(replies.length === 1, `one reply to option ${option}, not ${replies.length}`)
    return replies[0]!.type
  }

  async structuredReply(): Promise<void> {
    expect((await this.ask(OPT.STRUCTURED_REPLY)) === REP.ACK, 'ACK to STRUCTURED_REPLY')
    this.style = 'structured'
  }

  async extendedHeaders(): Promise<void> {
    expect((await this.ask(OPT.EXTENDED_HEADERS)) === REP.ACK, 'ACK to EXTENDED_HEADERS')
    this.style = 'extended'
  }

  async list(): Promise<{ name: string; description: string }[]> {
    const replies = await this.option(OPT.LIST)
    expect(replies.at(-1)!.type === REP.ACK, 'ACK after the list')
    return replies.slice(0, -1).map(({ type, data }) => {
      expect(type === REP.SERVER, 'SERVER in the list')
      const bytes = data.readUInt32BE(0)
      expect(bytes <= data.length - 4, 'length of a name in the list')
      return { name: data.toString('utf8', 4, 4 + bytes), description: data.toString('utf8', 4 + bytes) }
    })
  }

  async metaContexts(
    option: number,
    name: string,
    queries: string[],
  ): Promise<{ type: number; contexts: Map<string, number> }> {
    const replies = await this.option(option, metaPayload(name, queries))
    const contexts = new Map<string, number>()
    for (const { type, data } of replies.slice(0, -1)) {
      expect(type === REP.META_CONTEXT, 'META_CONTEXT')
      const context = data.toString('utf8', 4)
      expect(!contexts.has(context), `context ${context} once`)
      contexts.set(context, data.readUInt32BE(0))
    }
    return { type: replies.at(-1)!.type, contexts }
  }

  async setMetaContext(name: string, queries: string[]): Promise<Map<string, number>> {
    const { type, contexts } = await this.metaContexts(OPT.SET_META_CONTEXT, name, queries)
    expect(type === REP.ACK, 'ACK to SET_META_CONTEXT')
    this.contexts = new Map([...contexts].map(([context, id]) => [id, context]))
    expect(this.contexts.size === contexts.size, 'unique context ids')
    return contexts
  }

  async info(name: string, requests: number[] = []): Promise<ExportInfo> {
    return exportInfo(await this.option(OPT.INFO, infoPayload(name, requests)))
  }

  async go(name: string, requests: number[] = []): Promise<ExportInfo> {
    const info = exportInfo(await this.option(OPT.GO, infoPayload(name, requests)))
    this.#pump()
    return info
  }

  /** The replies to a GO that was sent by hand. */
  async finishGo(): Promise<ExportInfo> {
    const info = exportInfo(await this.receiveReplies(OPT.GO))
    this.#pump()
    return info
  }

  async exportName(name: string): Promise<ExportInfo> {
    this.sendOption(OPT.EXPORT_NAME, Buffer.from(name))
    const answer = await this.receive(this.noZeroes ? 10 : 134)
    expect(
      answer.subarray(10).every(byte => byte === 0),
      '124 zeroes',
    )
    this.#pump()
    return { size: answer.readBigUInt64BE(0), flags: answer.readUInt16BE(8), infos: [] }
  }

  // ---- transmission --------------------------------------------------------------------------------------------

  /** The bytes of a request in this connection's style. PAYLOAD_LEN is set where extended headers ask for it. */
  encode(request: Request, cookie: bigint): Buffer {
    const data = request.data ?? Buffer.alloc(0)
    const length = BigInt(request.length ?? data.length)
    let flags = request.flags ?? 0
    const extended = this.style === 'extended'
    if (extended && request.data !== undefined) flags |= CMD_FLAG.PAYLOAD_LEN
    const header = Buffer.alloc(extended ? 32 : 28)
    header.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513, 0)
    header.writeUInt16BE(flags, 4)
    header.writeUInt16BE(request.type, 6)
    header.writeBigUInt64BE(cookie, 8)
    header.writeBigUInt64BE(BigInt(request.offset ?? 0), 16)
    if (extended) header.writeBigUInt64BE(length, 24)
    else header.writeUInt32BE(Number(length), 24)
    return Buffer.concat([header, data])
  }

  /** Sends and waits; any number may be on the way at once. */
  request(request: Request): Promise<Reply> {
    const { data, reply } = this.prepare(request)
    this.send(data)
    return reply
  }

  /** For sending several in one go, or in pieces: the bytes, and the reply to come. */
  prepare(request: Request): { data: Buffer; reply: Promise<Reply> } {
    const cookie = request.cookie ?? this.#nextCookie++
    const data = this.encode(request, cookie)
    const reply = new Promise<Reply>((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure)
      this.#pending.set(cookie, {
        type: request.type,
        flags: request.flags ?? 0,
        offset: BigInt(request.offset ?? 0),
        length: BigInt(request.length ?? request.data?.length ?? 0),
        reply: { cookie, error: 0, message: '', data: Buffer.alloc(0), chunks: [], extents: new Map(), order: 0 },
        covered: [],
        resolve,
        reject,
      })
      this.#wake?.()
    })
    reply.catch(() => undefined)
    return { data, reply }
  }

  read(offset: bigint | number, length: number, flags = 0): Promise<Reply> {
    return this.request({ type: CMD.READ, flags, offset, length })
  }

  write(offset: bigint | number, data: Buffer, flags = 0): Promise<Reply> {
    return this.request({ type: CMD.WRITE, flags, offset, data })
  }

  flush(): Promise<Reply> {
    return this.request({ type: CMD.FLUSH })
  }

  /** DISC, then the server's end of the connection, clean and without a reply. */
  async disconnect(): Promise<void> {
    this.send(this.encode({ type: CMD.DISC }, 0n))
    const { reset } = await this.receiveEnd()
    this.destroy()
    expect(!reset, 'a clean end after DISC')
  }

  #pump(): void {
    if (this.#pumping) return
    this.#pumping = true
    void this.#readReplies().catch((error: unknown) => {
      this.#failure = error instanceof Error ? error : new Error(String(error))
      if (!(error instanceof NbdEnded)) this.#violation = this.#failure
      for (const pending of this.#pending.values()) pending.reject(this.#failure)
      this.#pending.clear()
    })
  }

  async #readReplies(): Promise<void> {
    for (;;) {
      // Idle is no failure; the end of the connection is one for those that wait.
      while (this.#receivedBytes < 4) {
        if (this.#ended)
          throw new NbdEnded(`the server ended the connection; ${this.#pending.size} requests unanswered`)
        await this.#more(waitMs)
      }
      const magic = (await this.receive(4)).readUInt32BE()
      if (this.style === 'extended') {
        expect(magic === 0x6e8a278c, `extended reply magic, not 0x${magic.toString(16)}`)
        await this.#chunk(true)
      } else if (magic === 0x67446698) {
        await this.#simple()
      } else {
        expect(
          this.style === 'structured' && magic === 0x668e33ef,
          `reply magic 0x${magic.toString(16)} (${this.style})`,
        )
        await this.#chunk(false)
      }
    }
  }

  #find(cookie: bigint): Pending {
    const pending = this.#pending.get(cookie)
    if (pending === undefined) throw new NbdViolation(`a reply with cookie ${cookie}, which is not in flight`)
    return pending
  }

  #finish(pending: Pending): void {
    this.#pending.delete(pending.reply.cookie)
    pending.reply.order = this.#order++
    pending.resolve(pending.reply)
  }

  async #simple(): Promise<void> {
    const header = await this.receive(12)
    const pending = this.#find(header.readBigUInt64BE(4))
    pending.reply.error = header.readUInt32BE(0)
    expectError(pending.reply.error)
    expect(this.style === 'simple' || pending.type !== CMD.READ, 'no simple reply to READ with structured replies')
    expect(pending.type !== CMD.BLOCK_STATUS || pending.reply.error !== 0, 'no simple success of BLOCK_STATUS')
    if (pending.type === CMD.READ && pending.reply.error === 0)
      pending.reply.data = await this.receive(Number(pending.length), 60_000)
    this.#finish(pending)
  }

  async #chunk(extended: boolean): Promise<void> {
    const header = await this.receive(extended ? 28 : 16)
    const flags = header.readUInt16BE(0)
    const type = header.readUInt16BE(2)
    const pending = this.#find(header.readBigUInt64BE(4))
    const bytes = extended ? Number(header.readBigUInt64BE(20)) : header.readUInt32BE(12)
    if (extended) expect(header.readBigUInt64BE(12) === pending.offset, "the request's offset in an extended reply")
    expect((flags & ~1) === 0, `chunk flags 0x${flags.toString(16)}`)
    expect(bytes <= replyBytesMax, `a chunk of ${bytes} bytes`)
    const payload = await this.receive(bytes, 60_000)
    pending.reply.chunks.push(type)
    this.#applyChunk(pending, type, payload, (flags & 1) !== 0)
    if ((flags & 1) === 0) return
    if (pending.type === CMD.READ && pending.reply.error === 0) expectCovered(pending)
    if (pending.type === CMD.BLOCK_STATUS && pending.reply.error === 0) {
      expect(pending.reply.extents.size === this.contexts.size, 'one chunk of extents for each context')
    }
    this.#finish(pending)
  }

  #applyChunk(pending: Pending, type: number, payload: Buffer, done: boolean): void {
    const { reply } = pending
    switch (type) {
      case CHUNK.NONE:
        expect(done && payload.length === 0, 'NONE is empty and the last chunk')
        return
      case CHUNK.OFFSET_DATA:
        expect(payload.length >= 9, 'OFFSET_DATA has data')
        return placeData(pending, payload.readBigUInt64BE(0), payload.subarray(8))
      case CHUNK.OFFSET_HOLE:
        expect(payload.length === 12 && payload.readUInt32BE(8) > 0, 'OFFSET_HOLE has 12 bytes and a size')
        return placeData(pending, payload.readBigUInt64BE(0), Buffer.alloc(payload.readUInt32BE(8)))
      case CHUNK.BLOCK_STATUS:
      case CHUNK.BLOCK_STATUS_EXT: {
        const { id, extents } = parseExtents(type, payload, this.style)
        expect(pending.type === CMD.BLOCK_STATUS, 'extents only for BLOCK_STATUS')
        expect(this.contexts.has(id) && !reply.extents.has(id), `context ${id} was selected, and comes once`)
        expectExtents(pending, extents)
        reply.extents.set(id, extents)
        return
      }
      case CHUNK.ERROR:
      case CHUNK.ERROR_OFFSET: {
        expect(payload.length >= (type === CHUNK.ERROR ? 6 : 14), 'length of an error chunk')
        const error = payload.readUInt32BE(0)
        const bytes = payload.readUInt16BE(4)
        expect(error !== 0 && bytes <= payload.length - 6 && bytes <= 4096, 'an error and the length of its message')
        expectError(error)
        if (reply.error === 0) reply.error = error
        reply.message ||= payload.toString('utf8', 6, 6 + bytes)
        return
      }
      default:
        throw new NbdViolation(`chunk type ${type}`)
    }
  }
}

function placeData(pending: Pending, offset: bigint, data: Buffer): void {
  const end = offset + BigInt(data.length)
  expect(pending.type === CMD.READ, 'content only for READ')
  expect(offset >= pending.offset && end <= pending.offset + pending.length, 'content within the request')
  expect(
    pending.covered.every(([from, to]) => end <= from || offset >= to),
    'content without overlap',
  )
  if ((pending.flags & CMD_FLAG.DF) !== 0) expect(pending.covered.length === 0, 'one content chunk with DF')
  pending.covered.push([offset, end])
  if (pending.reply.data.length === 0) pending.reply.data = Buffer.alloc(Number(pending.length))
  data.copy(pending.reply.data, Number(offset - pending.offset))
}

function expectCovered(pending: Pending): void {
  const bytes = pending.covered.reduce((sum, [from, to]) => sum + (to - from), 0n)
  expect(bytes === pending.length, `content for all of the ${pending.length} bytes, not ${bytes}`)
}

function parseExtents(type: number, payload: Buffer, style: NbdClient['style']): { id: number; extents: Extent[] } {
  expect((type === CHUNK.BLOCK_STATUS_EXT) === (style === 'extended'), 'the style of extents that was negotiated')
  const [head, each] = type === CHUNK.BLOCK_STATUS ? [4, 8] : [8, 16]
  expect(payload.length > head && (payload.length - head) % each === 0, 'length of a chunk of extents')
  const count = (payload.length - head) / each
  if (type === CHUNK.BLOCK_STATUS_EXT) expect(payload.readUInt32BE(4) === count, 'the count of extents')
  const extents = Array.from({ length: count }, (_, index) => {
    const at = head + index * each
    if (each === 8) return { length: BigInt(payload.readUInt32BE(at)), flags: BigInt(payload.readUInt32BE(at + 4)) }
    return { length: payload.readBigUInt64BE(at), flags: payload.readBigUInt64BE(at + 8) }
  })
  return { id: payload.readUInt32BE(0), extents }
}

function expectExtents(pending: Pending, extents: Extent[]): void {
  expect(
    extents.every(extent => extent.length > 0n),
    'extents are not empty',
  )
  const beforeLast = extents.slice(0, -1).reduce((sum, extent) => sum + extent.length, 0n)
  expect(beforeLast < pending.length, 'only the last extent reaches beyond the request')
  if ((pending.flags & CMD_FLAG.REQ_ONE) !== 0) {
    expect(extents.length === 1 && extents[0]!.length <= pending.length, 'REQ_ONE: one extent, not longer than asked')
  }
}

function expectError(error: number): void {
  expect(Object.values<number>(ERR).includes(error), `error ${error} is one of the protocol`)
}

function expect(condition: boolean, what: string): void {
  if (!condition) throw new NbdViolation(`the server broke the protocol; expected: ${what}`)
}

export function exportInfo(replies: OptionReply[]): ExportInfo {
  const last = replies.at(-1)!
  expect(last.type === REP.ACK, `ACK, not 0x${last.type.toString(16)} ${last.data.toString()}`)
  const found: ExportInfo = { size: -1n, flags: 0, infos: [] }
  for (const { type, data } of replies.slice(0, -1)) {
    expect(type === REP.INFO && data.length >= 2, 'INFO before the ACK')
    const kind = data.readUInt16BE(0)
    expect(!found.infos.includes(kind), `information ${kind} once`)
    found.infos.push(kind)
    if (kind === INFO.EXPORT) {
      expect(data.length === 12, 'NBD_INFO_EXPORT has 12 bytes')
      found.size = data.readBigUInt64BE(2)
      found.flags = data.readUInt16BE(10)
    }
    if (kind === INFO.NAME) found.name = data.toString('utf8', 2)
    if (kind === INFO.DESCRIPTION) found.description = data.toString('utf8', 2)
    if (kind === INFO.BLOCK_SIZE) {
      expect(data.length === 14, 'NBD_INFO_BLOCK_SIZE has 14 bytes')
      found.block = { min: data.readUInt32BE(2), preferred: data.readUInt32BE(6), max: data.readUInt32BE(10) }
    }
  }
  expect(found.size >= 0n && (found.flags & FLAG.HAS_FLAGS) !== 0, 'NBD_INFO_EXPORT with HAS_FLAGS')
  return found
}

export function uint16(value: number): Buffer {
  const data = Buffer.alloc(2)
  data.writeUInt16BE(value)
  return data
}

export function uint32(value: number): Buffer {
  const data = Buffer.alloc(4)
  data.writeUInt32BE(value)
  return data
}

const counted = (text: string | Buffer) => Buffer.concat([uint32(Buffer.from(text).length), Buffer.from(text)])

export function infoPayload(name: string | Buffer, requests: number[] = []): Buffer {
  return Buffer.concat([counted(name), uint16(requests.length), ...requests.map(uint16)])
}

export function metaPayload(name: string, queries: string[]): Buffer {
  return Buffer.concat([counted(name), uint32(queries.length), ...queries.map(counted)])
}
