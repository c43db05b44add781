/**
 * Between a guest and the master: an NBD server whose every request goes on to the master, and which knows all writes.
 *
 * - After writes it writes a number of its own into the mark, a sector that no file system uses. A copy that shows number
 *   K is the master's history cut behind K and before K + 1, so it is known which writes it has; but for those that were
 *   under way then (model.ts).
 * - When the master is killed the guest notices nothing: what was not answered is sent again to the next one, as
 *   `understudy attach` does it.
 * - It counts the sectors of left-out files that pass, which begin with who wrote them.
 */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { sleep } from '../support/daemon.js'
import {
  CMD,
  type ExportInfo,
  NbdClient,
  NbdEnded,
  NbdViolation,
  OPT,
  type Reply,
  type Request,
} from '../support/nbd-client.js'

const requestMagic = 0x25609513
const handshake = Buffer.from('4e42444d4147494349484156454f50540003', 'hex')

/** A write of the guest. Numbers are of marks. */
export interface Write {
  offset: number
  bytes: number
  /** Undefined: zeroes. */
  data: Buffer | undefined
  /** The newest mark that had been answered when it was sent: a copy that shows an older one does not have it. */
  sentAfter: number
  /** The newest mark that had been sent when it was answered: a copy that shows a newer one has it. */
  doneBefore: number
}

export class Tap {
  readonly writes: Write[] = []
  /** What the guest was answered an error for. */
  readonly errors: string[] = []
  readonly counted = { writtenBytes: 0, leftOutBytes: 0, markBytes: 0 }
  readonly #server: Server
  #client: Promise<NbdClient> | undefined
  #info: ExportInfo | undefined
  #marking = false
  #unmarked = false
  #sentMark = 0
  #doneMark = 0
  #closed = false

  private constructor(
    private readonly master: string,
    private readonly name: string,
    private readonly markAt: number,
    private readonly isLeftOut: (sector: string) => boolean,
  ) {
    this.#server = createServer(socket => {
      new Guest(socket, this).serve().catch(() => socket.destroy())
    })
  }

  /** `isLeftOut` is given the first 40 bytes of a sector. */
  static async open(
    path: string,
    master: string,
    name: string,
    markAt: number,
    isLeftOut: (sector: string) => boolean,
  ): Promise<Tap> {
    const tap = new Tap(master, name, markAt, isLeftOut)
    await once(tap.#server.listen(path), 'listening')
    return tap
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#server.close()
    ;(await this.#client?.catch(() => undefined))?.destroy()
  }

  async info(): Promise<ExportInfo> {
    await this.#connected()
    if (this.#info === undefined) throw new Error('tap: the master said nothing of its export')
    return this.#info
  }

  async pass(request: Request): Promise<Reply> {
    const write = this.#noted(request)
    const reply = await this.#sent(request)
    if (write !== undefined) {
      write.doneBefore = this.#sentMark
      this.#unmarked = true
      if (!this.#marking) void this.#mark()
    }
    return reply
  }

  #noted({ type, offset, length, data }: Request): Write | undefined {
    if (type !== CMD.WRITE && type !== CMD.WRITE_ZEROES) return undefined
    const bytes = data?.length ?? Number(length)
    const write = { offset: Number(offset), bytes, data, sentAfter: this.#doneMark, doneBefore: Infinity }
    this.writes.push(write)
    this.counted.writtenBytes += data?.length ?? 0
    for (let at = 0; data !== undefined && at < bytes; at += 512)
      if (this.isLeftOut(data.toString('latin1', at, at + 40))) this.counted.leftOutBytes += 512
    return write
  }

  async #mark(): Promise<void> {
    this.#marking = true
    while (this.#unmarked && !this.#closed) {
      this.#unmarked = false
      const sector = Buffer.alloc(512)
      sector.writeDoubleBE(++this.#sentMark)
      this.counted.markBytes += sector.length
      await this.#sent({ type: CMD.WRITE, offset: this.markAt, data: sector })
      this.#doneMark = this.#sentMark
    }
    this.#marking = false
  }

  /** The newest one that the master has. */
  get mark(): number {
    return this.#doneMark
  }

  markIn(image: Buffer): number {
    return image.readDoubleBE(this.markAt)
  }

  /** Answered by this master, or by a later one. */
  async #sent(request: Request): Promise<Reply> {
    for (;;) {
      const connected = this.#connected()
      try {
        const reply = await (await connected).request(request)
        if (reply.error !== 0) throw new Error(`the master answers with error ${reply.error} (G1)`)
        return reply
      } catch (error) {
        if (!hasEnded(error) || this.#closed) throw error
        if (this.#client === connected) this.#client = undefined
      }
    }
  }

  #connected(): Promise<NbdClient> {
    this.#client ??= this.#connect()
    return this.#client
  }

  async #connect(): Promise<NbdClient> {
    for (;;) {
      try {
        const client = await NbdClient.connect({ path: this.master })
        this.#info = await client.go(this.name)
        return client
      } catch (error) {
        if (this.#closed) throw error
        await sleep(50)
      }
    }
  }
}

/** Also in the middle of a reply. */
const hasEnded = (error: unknown): boolean =>
  error instanceof NbdEnded || (error instanceof NbdViolation && error.message.startsWith('connection ended'))

/** One connection of a guest's kernel: fixed newstyle, simple replies. */
class Guest {
  #unread: Buffer[] = []
  #bytes = 0
  #wake: (() => void) | undefined
  #ended = false

  constructor(
    private readonly socket: Socket,
    private readonly tap: Tap,
  ) {
    socket.on('data', data => {
      this.#unread.push(data)
      this.#bytes += data.length
      this.#wake?.()
    })
    for (const event of ['error', 'close'])
      socket.on(event, () => {
        this.#ended = true
        this.#wake?.()
      })
  }

  async serve(): Promise<void> {
    this.socket.write(handshake)
    await this.#take(4)
    while (!(await this.#option())) continue
    while (await this.#request()) continue
    this.socket.end()
  }

  /** True: the transmission begins. */
  async #option(): Promise<boolean> {
    const header = await this.#take(16)
    const kind = header.readUInt32BE(8)
    await this.#take(header.readUInt32BE(12))
    const { size, flags } = await this.tap.info()
    const about = Buffer.alloc(12)
    about.writeBigUInt64BE(size, 2)
    about.writeUInt16BE(flags, 10)
    if (kind === OPT.EXPORT_NAME) return (this.socket.write(about.subarray(2)), true)
    if (kind === OPT.GO || kind === OPT.INFO) {
      this.#optionReply(kind, 3, about)
      this.#optionReply(kind, 1)
      return kind === OPT.GO
    }
    this.#optionReply(kind, 0x80000001)
    return false
  }

  #optionReply(kind: number, type: number, data = Buffer.alloc(0)): void {
    const header = Buffer.alloc(20)
    header.writeBigUInt64BE(0x3e889045565a9n)
    for (const [index, word] of [kind, type, data.length].entries()) header.writeUInt32BE(word, 8 + 4 * index)
    this.socket.write(Buffer.concat([header, data]))
  }

  async #request(): Promise<boolean> {
    const header = await this.#take(28)
    if (header.readUInt32BE() !== requestMagic) throw new Error('tap: not a request')
    const type = header.readUInt16BE(6)
    const length = header.readUInt32BE(24)
    if (type === CMD.DISC) return false
    const data = type === CMD.WRITE ? { data: await this.#take(length) } : {}
    const offset = header.readBigUInt64BE(16)
    void this.#answered(header, { type, flags: header.readUInt16BE(4), offset, length, ...data })
    return true
  }

  async #answered(header: Buffer, request: Request): Promise<void> {
    const reply = Buffer.alloc(16)
    reply.writeUInt32BE(0x67446698)
    header.copy(reply, 8, 8, 16)
    try {
      const { data } = await this.tap.pass(request)
      this.socket.write(Buffer.concat([reply, data]))
    } catch (error) {
      this.tap.errors.push(String(error))
      reply.writeUInt32BE(5, 4)
      this.socket.write(reply)
    }
  }

  async #take(bytes: number): Promise<Buffer> {
    while (this.#bytes < bytes) {
      if (this.#ended) throw new Error('the guest is gone')
      await new Promise<void>(resolve => (this.#wake = resolve))
    }
    const all = this.#unread.length === 1 ? this.#unread[0]! : Buffer.concat(this.#unread)
    this.#unread = [all.subarray(bytes)]
    this.#bytes -= bytes
    return all.subarray(0, bytes)
  }
}
