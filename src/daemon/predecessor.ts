/**
 * The daemon's half of a takeover: judges who asks, and is what hand-over.ts moves through its phases.
 *
 *   POST /takeover -> judged -> channel to the successor -> `begin` -> hand-over in the background
 */
import { type Clock, sleep, systemClock } from '../core/clock.js'
import { describe, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import { flushDevice } from '../master/clean-stop.js'
import type { Addon } from '../native/binding.js'
import { Conversation } from './conversation.js'
import type { Daemon } from './daemon.js'
import type { Estate } from './estate.js'
import { DeviceFlushes } from './device-flushes.js'
import { handOver, type HandOverOutcome, type Incumbent, type Successor } from './hand-over.js'
import { OtherProcess } from '../core/other-process.js'
import type { TakeoverFigures } from '../metrics/takeover-figures.js'
import { judgeTakeover, type TakeoverReply, type TakeoverRequest } from './takeover-request.js'

export interface PredecessorHost {
  readonly addon: Addon
  readonly log: Logger
  /** The one of this process: another one after renew(). */
  readonly daemon: Daemon
  readonly takeovers: TakeoverFigures
  /** A daemon of the same configuration, with nothing open, in place of the one that has released everything. */
  renew(): Daemon
  leave(code: number, reason: string): void
}

const beginMs = 10_000
/** Of one round; so many, or until one is quick. */
const prepareMs = 30_000
const flushRoundsMax = 3
const quickFlushMs = 50
const settleMs = 3_000
const settlePollMs = 5
const endMs = 5_000

export class Predecessor {
  #handingOver: Promise<HandOverOutcome> | undefined

  constructor(
    private readonly host: PredecessorHost,
    private readonly clock: Clock = systemClock,
  ) {}

  /** Throws SafetyRefusal. Otherwise everything else happens on the channel. */
  offer(request: TakeoverRequest): TakeoverReply {
    const { addon, daemon } = this.host
    judgeTakeover(request, daemon.configuration, {
      leaving: this.#handingOver !== undefined || !daemon.isServing,
      exporting: daemon.copies.list().map(({ volume }) => volume),
      outranked: daemon
        .groups()
        .filter(({ outranked }) => outranked !== undefined)
        .map(({ config }) => config.name),
      owed: daemon
        .groups()
        .filter(({ isOwed }) => isOwed)
        .map(({ config }) => config.name),
    })
    const conversation = new Conversation(addon, addon.channelConnect(request.socket))
    this.host.log.info(`takeover: process ${conversation.peer} (version ${request.version}) asks for everything`)
    this.#handingOver = this.#run(conversation, request.maxStallMs)
    return { pid: process.pid }
  }

  /** Until then nobody knows whose the clients are. */
  async settled(): Promise<void> {
    await this.#handingOver
  }

  async #run(conversation: Conversation, maxStallMs: number): Promise<HandOverOutcome> {
    const { host, clock } = this
    const successor = new ChannelSuccessor(conversation, clock)
    const outcome = await host.daemon.roles.exclusively(async () => {
      try {
        await conversation.hear(beginMs)
      } catch (error) {
        host.log.warn(`takeover: ${describe(error)}`)
        return 'kept'
      }
      const incumbent = new RunningDaemon(host, clock)
      const stalled = (ms: number): void => void (host.takeovers.stallMs = ms)
      return handOver({ incumbent, successor, maxStallMs, clock, log: host.log, stalled })
    })
    if (outcome === 'kept') host.takeovers.ended('given-up')
    conversation.close()
    this.#handingOver = undefined
    if (outcome === 'gone') host.leave(0, `process ${successor.pid} has taken over`)
    if (outcome === 'lost') host.leave(1, 'a takeover that failed could not be undone')
    return outcome
  }
}

/** Incumbent: the daemon of this process. */
class RunningDaemon implements Incumbent {
  readonly #flushes: DeviceFlushes
  /** Of the quickest round of prepare(): which device it waited for, and how long. */
  #quickest = { device: '', ms: Infinity }

  constructor(
    private readonly host: PredecessorHost,
    private readonly clock: Clock,
  ) {
    this.#flushes = new DeviceFlushes(flushDevice, clock)
  }

  get hasClients(): boolean {
    return this.#volumes().length > 0
  }

  /**
   * What the kernel holds of the devices is written while clients go on, and again what they wrote meanwhile, so that
   * little is left for the pause.
   */
  async prepare(): Promise<void> {
    this.#quickest = { device: '', ms: Infinity }
    for (let round = 0; round < flushRoundsMax; round++) {
      if (!(await this.#within(prepareMs, this.#flushes.all(this.#devices()))))
        throw new OperationError('BUSY', `takeover: ${this.#flushingWhat()} takes longer than ${prepareMs / 1000} s`)
      const { slowest } = this.#flushes
      if (slowest.ms < this.#quickest.ms) this.#quickest = slowest
      if (slowest.ms < quickFlushMs) return
    }
  }

  /** A client that takes longer over its handshake than this is dropped. */
  async settle(): Promise<void> {
    const { addon, daemon } = this.host
    addon.pauseListeners(true)
    const began = this.clock.monotonicMs()
    while (daemon.front.negotiating > 0 && this.clock.monotonicMs() - began < settleMs)
      await sleep(this.clock, settlePollMs)
  }

  /** Clients are not made to wait for a flush that is known to take too long. */
  async pause(limitMs: number): Promise<string | undefined> {
    const { device, ms } = this.#quickest
    if (ms > limitMs) return `flushing ${device} (${Math.round(ms)} ms a moment ago)`
    const began = this.clock.monotonicMs()
    const quiet = Promise.all(this.#volumes().map(volume => this.host.addon.pauseClients(volume)))
    if (!(await this.#within(limitMs, quiet)))
      return 'answering what clients have asked for (a slow disk, or replies that wait for a standby)'
    const left = limitMs - (this.clock.monotonicMs() - began)
    return (await this.#within(left, this.#flushes.all(this.#devices()))) ? undefined : this.#flushingWhat()
  }

  resume(): void {
    for (const volume of this.#volumes()) this.host.addon.resumeClients(volume)
    this.host.addon.pauseListeners(false)
  }

  release(): Promise<Estate> {
    return this.host.daemon.release()
  }

  async reopen(estate: Estate): Promise<void> {
    const daemon = this.host.renew()
    await daemon.take(estate)
    await daemon.adopt(estate)
  }

  #flushingWhat(): string {
    return `flushing ${this.#flushes.pending.join(', ')}`
  }

  async #within(limitMs: number, done: Promise<unknown>): Promise<boolean> {
    let cancel = (): void => undefined
    const late = new Promise<boolean>(resolve => (cancel = this.clock.after(limitMs, () => resolve(false))))
    done.catch(() => undefined) // Nobody may be waiting for it any more.
    try {
      return await Promise.race([done.then(() => true), late])
    } finally {
      cancel()
    }
  }

  #devices(): string[] {
    return this.host.daemon.groups().flatMap(({ config }) => config.volumes.map(({ device }) => device))
  }

  #volumes(): number[] {
    return this.host.daemon.groups().flatMap(group => group.exports().map(({ volume }) => volume))
  }
}

/** Successor: the process at the other end of the channel. */
class ChannelSuccessor implements Successor {
  readonly #process: OtherProcess
  /** It said so itself, after it had closed everything. */
  #hasFailed = false

  constructor(
    private readonly conversation: Conversation,
    private readonly clock: Clock,
  ) {
    this.#process = new OtherProcess(conversation.peer)
  }

  get pid(): number {
    return this.#process.pid
  }

  /** Clients whose other end is in this process (TLS), not in its kernel, are not offered: their sessions end with it. */
  offer(estate: Estate, readyMs: number, waitedMs: number): Promise<void> {
    const clients = estate.clients.filter(({ client, attached }) => !client.endsInProcess || attached !== undefined)
    return this.conversation.say({ type: 'estate', estate: { ...estate, clients }, readyMs, waitedMs })
  }

  async ready(limitMs: number): Promise<void> {
    const message = await this.conversation.hear(limitMs)
    if (message.type === 'ready') return
    this.#hasFailed = message.type === 'failed'
    throw new OperationError('TAKEOVER', message.type === 'failed' ? message.why : `it says '${message.type}'`)
  }

  yours(): Promise<void> {
    return this.conversation.say({ type: 'yours' })
  }

  async kept(why: string): Promise<void> {
    await this.conversation.say({ type: 'kept', why }).catch(() => undefined) // It may be what is not there any more.
  }

  async end(): Promise<void> {
    if (!this.#hasFailed) await this.#process.end(this.clock, endMs)
  }
}
