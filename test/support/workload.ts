/**
 * Clients that write at random and keep the history of it (history.ts): several connections, several requests in
 * flight on each, overlapping on purpose, with FUA, FLUSH, zeroes and trims among them. What they choose follows from
 * the seed; when the replies come does not, so a seed repeats the pressure, not the interleaving.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { blockBytes, seededRandom } from './history.js'
import type { History, HistoryFlush, HistoryWrite } from './history.js'
import { CMD, CMD_FLAG, NbdClient } from './nbd-client.js'
import type { Address, Reply } from './nbd-client.js'
import { SLOWER } from './patience.js'

export interface WorkloadOptions {
  history: History
  address: Address
  exportName: string
  seed: number
  connections?: number
  depth?: number
  /** Where on the device the history's first block is. */
  firstByte?: number
  /** All clients together: a bound for what a history grows to while a test waits for something. */
  writesPerSecond?: number
  /** Of one write; most are far shorter. */
  blocksMax?: number
  /** After a lost connection: try again until the export is there (a restarted master), instead of ending. */
  reconnect?: boolean
}

export class Workload {
  /** Replies with an error, in words; a healthy device gives none. */
  readonly errors: string[] = []
  readonly connections = { made: 0, alive: 0 }
  readonly #options: Required<WorkloadOptions>
  readonly #random: () => number
  #clients: Promise<void>[] = []
  #stopping = false
  #began = 0
  /** Writes of the histories before this one. */
  #before = 0
  #history: History
  #outstanding = 0
  #paused: Promise<void> | undefined
  #resume: () => void = () => undefined

  constructor(options: WorkloadOptions) {
    this.#options = {
      connections: 3,
      depth: 8,
      firstByte: 0,
      writesPerSecond: 2000,
      blocksMax: 8,
      reconnect: false,
      ...options,
    }
    this.#history = options.history
    this.#random = seededRandom(options.seed)
  }

  start(): void {
    this.#began = Date.now()
    this.#clients = Array.from({ length: this.#options.connections }, () => this.#client())
  }

  /** Resolves when every request has its reply or its connection is dead. */
  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all(this.#clients)
  }

  /** Writes submitted so far. */
  get submitted(): number {
    return this.#before + this.#history.writes.length
  }

  /** Until so many writes were submitted from now on, or the time is over. */
  async written(count: number, milliseconds = 20_000): Promise<void> {
    const target = this.submitted + count
    for (const end = performance.now() + milliseconds * SLOWER; this.submitted < target; await sleep(5)) {
      if (performance.now() > end)
        throw new Error(`only ${this.submitted + count - target} of ${count} writes in ${milliseconds} ms`)
    }
  }

  /** No request is sent any more; resolves when every one that was has its reply or a dead connection. */
  async pause(): Promise<void> {
    this.#paused ??= new Promise(resolve => (this.#resume = resolve))
    while (this.#outstanding > 0) await sleep(2)
  }

  /** Goes on; with a history of its own from here, and at another address, if they are given (only after pause()). */
  resume(history?: History, address: Address = this.#options.address): void {
    if (history !== undefined) {
      this.#before += this.#history.writes.length
      this.#history = history
    }
    this.#options.address = address
    this.#paused = undefined
    this.#resume()
  }

  async #client(): Promise<void> {
    do {
      const client = await this.#attach()
      if (client === undefined) return
      this.connections.made++
      this.connections.alive++
      await Promise.all(Array.from({ length: this.#options.depth }, () => this.#requests(client)))
      client.destroy()
      this.connections.alive--
    } while (this.#options.reconnect && !this.#stopping)
  }

  async #attach(): Promise<NbdClient | undefined> {
    while (!this.#stopping) {
      try {
        return await NbdClient.attach(this.#options.address, this.#options.exportName)
      } catch (error) {
        if (!this.#options.reconnect) throw error
        await sleep(20)
      }
    }
    return undefined
  }

  /** One request after the other until the connection is dead or the workload stops. */
  async #requests(client: NbdClient): Promise<void> {
    for (let alive = true; alive && !this.#stopping;) {
      if (this.#paused !== undefined) await this.#paused
      else if (this.#aheadMs() > 0) await sleep(this.#aheadMs())
      else alive = this.#random() < 0.02 ? await this.#flush(client) : await this.#write(client)
    }
  }

  /** Until the next write is due, in whole milliseconds: whoever waits sleeps once, and not again and again. */
  #aheadMs(): number {
    const due = ((this.submitted - 100) * 1000) / this.#options.writesPerSecond
    return Math.ceil(due - (Date.now() - this.#began))
  }

  #flush(client: NbdClient): Promise<boolean> {
    return this.#settle(this.#history.submitFlush(), () => client.flush())
  }

  #write(client: NbdClient): Promise<boolean> {
    const history = this.#history
    const random = this.#random
    const count = 1 + Math.floor(random() ** 3 * this.#options.blocksMax)
    // Most writes meet in a few blocks, so that order matters; the rest keeps the cut wide.
    const room = random() < 0.6 ? Math.min(24, history.blocks) : history.blocks
    const first = Math.floor(random() * (room - count + 1))
    const fua = random() < 0.05
    const kind = random() < 0.05 ? 'zero' : 'data'
    const type = kind === 'data' ? CMD.WRITE : random() < 0.5 ? CMD.TRIM : CMD.WRITE_ZEROES
    const range = {
      offset: this.#options.firstByte + first * blockBytes,
      length: count * blockBytes,
      flags: fua ? CMD_FLAG.FUA : 0,
    }
    const write = history.submitWrite(kind, first, count, fua)
    return this.#settle(write, () =>
      client.request({ type, ...range, ...(kind === 'data' && { data: history.payload(write) }) }),
    )
  }

  /** False when the connection is dead. */
  async #settle(operation: HistoryWrite | HistoryFlush, send: () => Promise<Reply>): Promise<boolean> {
    const history = this.#history
    let reply: Reply
    this.#outstanding++
    try {
      reply = await send()
    } catch {
      history.end(operation, 'lost')
      return false
    } finally {
      this.#outstanding--
    }
    history.end(operation, reply.error === 0 ? 'acknowledged' : 'failed')
    if (reply.error !== 0) this.errors.push(`error ${reply.error} ${reply.message}`)
    return true
  }
}
