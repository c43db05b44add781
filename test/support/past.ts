/**
 * A client that writes and remembers: what its disk held after each of its steps, behind which record of the master, and
 * when. And how a standby with a history shows such a moment.
 */
import { createHash } from 'node:crypto'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { ExportEvent, ExportRequest } from '../../src/daemon/control-protocol.js'
import { type Pair, sleep } from './daemon.js'
import { seededRandom } from './history.js'
import { CMD, CMD_FLAG, NbdClient } from './nbd-client.js'
import { readAll } from './observer.js'

export interface Past {
  /** Of the last record of the step. */
  sequence: string
  /** After the step and before the next one: ISO 8601. */
  time: string
  content: Buffer
}

const blockBytes = 4096
/** More than the step between two readings of a clock, and than what they differ in. */
const apartMs = 4

export class Writer {
  readonly content: Buffer
  readonly pasts: Past[] = []
  #client: NbdClient | undefined
  readonly #random: () => number

  constructor(
    private readonly pair: Pair,
    sizeBytes: number,
    seed: number,
  ) {
    this.content = Buffer.alloc(sizeBytes)
    this.#random = seededRandom(seed)
  }

  async connect(): Promise<void> {
    this.#client?.destroy()
    this.#client = await NbdClient.attach({ path: this.pair.socket }, this.pair.volume)
  }

  close(): void {
    this.#client?.destroy()
  }

  /** A few writes, zeroes and trims, large and small, some of half a block; the last one is waited for. */
  async step(): Promise<Past> {
    const writes = 1 + this.#below(4)
    for (let count = 0; count < writes; count++) await this.#write()
    if (this.#random() < 0.3) await this.#ask({ type: CMD.FLUSH })
    return this.remember()
  }

  /** The whole disk, so many times over, with lines of text: no two times the same, and easy to compress. */
  async fill(times: number): Promise<Past> {
    for (let time = 0; time < times; time++) {
      this.content.fill(`line ${this.#below(1_000_000)} of a file that is easy to compress\n`)
      await this.#ask({ type: CMD.WRITE, offset: 0, data: this.content })
    }
    return this.remember()
  }

  async remember(): Promise<Past> {
    await sleep(apartMs)
    const time = new Date().toISOString()
    await sleep(apartMs)
    const { written } = await this.pair.master.volume(this.pair.volume)
    const past = { sequence: written, time, content: Buffer.from(this.content) }
    this.pasts.push(past)
    return past
  }

  async #write(): Promise<void> {
    // Most meet in a few blocks, so that much is written over again and again.
    const room = this.#random() < 0.6 ? Math.min(this.content.length, 16 * blockBytes) : this.content.length
    const unit = this.#random() < 0.2 ? 512 : blockBytes
    const length = unit * (1 + this.#below(this.#random() < 0.1 ? 64 : 6))
    const offset = unit * this.#below((room - Math.min(room, length)) / unit + 1)
    const bytes = Math.min(length, this.content.length - offset)
    const flags = this.#random() < 0.1 ? CMD_FLAG.FUA : 0
    if (this.#random() < 0.15) {
      await this.#ask({ type: this.#random() < 0.5 ? CMD.TRIM : CMD.WRITE_ZEROES, flags, offset, length: bytes })
      this.content.fill(0, offset, offset + bytes)
      return
    }
    const data = Buffer.alloc(bytes)
    for (let at = 0; at < bytes; at += 4) data.writeUInt32LE(Math.floor(this.#random() * 2 ** 32), at)
    await this.#ask({ type: CMD.WRITE, flags, offset, data })
    data.copy(this.content, offset)
  }

  async #ask(request: Parameters<NbdClient['request']>[0]): Promise<void> {
    const reply = await this.#client?.request(request)
    if (reply?.error !== 0) throw new Error(`request ${request.type}: error ${reply?.error} ${reply?.message}`)
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit)
  }
}

let exports = 0

/** While the function runs, the standby serves the volume as it was: at the end of a unix socket. */
export async function during<T>(
  pair: Pair,
  at: string,
  use: (socket: string, event: ExportEvent) => Promise<T>,
  writable = false,
): Promise<T> {
  const socket = pair.scratch.path(`at-${++exports}.sock`)
  const request: ExportRequest = {
    ...{ volume: pair.volume, listen: `unix:${socket}`, writable, detach: false, saved: '', at },
  }
  for await (const event of new ControlClient(pair.standby.state).stream<ExportEvent>('/export', request)) {
    const result = await use(socket, event)
    return result // Leaving the loop ends the export.
  }
  throw new Error(`export --at ${at}: the daemon ended it at once`)
}

export const contentAt = (pair: Pair, at: string, sizeBytes: number): Promise<Buffer> =>
  during(pair, at, socket => readAll(socket, pair.volume, sizeBytes))

/** "equal", or where the first byte differs, and which moment it is instead, if any. */
export function compared(found: Buffer, { content }: Past, pasts: readonly Past[]): string {
  if (found.equals(content)) return 'equal'
  const other = pasts.find(past => past.content.equals(found))
  const at = found.findIndex((byte, index) => byte !== content[index])
  const instead = other === undefined ? 'no moment at all' : `the moment ${other.sequence}`
  return `differs from byte ${at} on: it is ${instead} (${createHash('sha256').update(found).digest('hex').slice(0, 8)})`
}
