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
import { handOver, type HandOverOutcome, type Incumbent, type Successor } from './hand-over.js'
import { OtherProcess } from './other-process.js'
import { judgeTakeover, type TakeoverReply, type TakeoverRequest } from './takeover-request.js'

export interface PredecessorHost {
  readonly addon: Addon
  readonly log: Logger
  /** The one of this process: another one after renew(). */
  readonly daemon: Daemon
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
    })
    const conversation = new Conversation(addon, addon.channelConnect(request.socket))
    this.host.log.info(`takeover: process ${conversation.peer} (version ${request.version}) asks for everything`)
    this.#handingOver = this.#run(conversation)
    return { pid: process.pid }
  }

  /** Until then nobody knows whose the clients are. */
  async settled(): Promise<void> {
    await this.#handingOver
  }

  async #run(conversation: Conversation): Promise<HandOverOutcome> {
    const { host, clock } = this
    const successor = new ChannelSuccessor(conversation, clock)
    const outcome = await host.daemon.roles.exclusively(async () => {
      try {
        await conversation.hear(beginMs)
      } catch (error) {
        host.log.warn(`takeover: ${describe(error)}`)
        return 'kept'
      }
      return handOver({ incumbent: new RunningDaemon(host, clock), successor, clock, log: host.log })
    })
    conversation.close()
    this.#handingOver = undefined
    if (outcome === 'gone') host.leave(0, `process ${successor.pid} has taken over`)
    if (outcome === 'lost') host.leave(1, 'a takeover that failed could not be undone')
    return outcome
  }
}

/** Incumbent: the daemon of this process. */
class RunningDaemon implements Incumbent {
  constructor(
    private readonly host: PredecessorHost,
    private readonly clock: Clock,
  ) {}

  /**
   * What the kernel holds of the devices is written while clients go on, and again what they wrote meanwhile, so that
   * little is left for the pause.
   */
  async prepare(): Promise<void> {
    const devices = this.host.daemon.groups().flatMap(({ config }) => config.volumes.map(({ device }) => device))
    for (let round = 0; round < flushRoundsMax; round++) {
      const began = this.clock.monotonicMs()
      const flushed = Promise.all(devices.map(flushDevice)).then(() => true)
      if (!(await Promise.race([flushed, sleep(this.clock, prepareMs).then(() => false)])))
        throw new OperationError('BUSY', `takeover: the devices were not flushed within ${prepareMs / 1000} s`)
      if (this.clock.monotonicMs() - began < quickFlushMs) return
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

  pause(limitMs: number): Promise<boolean> {
    const quiet = Promise.all(this.#volumes().map(volume => this.host.addon.pauseClients(volume))).then(() => true)
    return Promise.race([quiet, sleep(this.clock, limitMs).then(() => false)])
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

  #volumes(): number[] {
    return this.host.daemon.groups().flatMap(group => group.exports().map(({ volume }) => volume))
  }
}

/** Successor: the process at the other end of the channel. */
class ChannelSuccessor implements Successor {
  readonly #process: OtherProcess

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
  offer(estate: Estate): Promise<void> {
    const clients = estate.clients.filter(({ client, attached }) => !client.endsInProcess || attached !== undefined)
    return this.conversation.say({ type: 'estate', estate: { ...estate, clients } })
  }

  async ready(limitMs: number): Promise<void> {
    const message = await this.conversation.hear(limitMs)
    if (message.type === 'ready') return
    throw new OperationError('TAKEOVER', message.type === 'failed' ? message.why : `it says '${message.type}'`)
  }

  yours(): Promise<void> {
    return this.conversation.say({ type: 'yours' })
  }

  async kept(why: string): Promise<void> {
    await this.conversation.say({ type: 'kept', why }).catch(() => undefined) // It may be what is not there any more.
  }

  async end(): Promise<void> {
    await this.#process.end(this.clock, endMs)
  }
}
