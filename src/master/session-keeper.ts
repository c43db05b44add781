/**
 * Keeps a session to the standby: connects, says hello, hands the welcome on, and begins again when it ends.
 *
 *   connecting --established--> hello sent --welcome--> connected --closed--> away --backoff--> connecting
 *                                    \--refused--> refused --5 s--> connecting
 *
 * Without a transport it waits for the peer to connect: take().
 *
 * Guarantees: at most one session at a time; a standby that accepts and says nothing is left after `welcomeTimeoutMs`;
 * a reason is logged once, not at every attempt. Does not: decide what is sent (attach-decision.ts).
 */
import { describe } from '../core/errors.js'
import type { Clock } from '../core/clock.js'
import type { Logger } from '../core/log.js'
import { formatHostPort, type PeerAddress } from '../core/units.js'
import {
  decodeRefused,
  type Refused,
  decodeWelcome,
  encodeHello,
  encodeRefused,
  type Hello,
  protocol,
  typeOf,
  type Welcome,
} from '../transport/messages.js'
import type { Session, SessionCloseReason, SessionHandler, Transport } from '../transport/transport.js'
import { chooseVersion, ownVersions } from '../transport/versions.js'
import { Backoff, jitter } from '../core/backoff.js'

export type LinkState = 'connecting' | 'connected' | 'away' | 'refused'

export interface KeeperOptions {
  /** Undefined: the peer connects. */
  transport: Transport | undefined
  peer: PeerAddress
  /** This host, for messages. */
  own: { readonly id: string }
  clock: Clock
  random: () => number
  log: Logger
  hello: () => Hello
  /** Attaches the engine. A throw closes the session with its message. */
  welcomed: (session: Session, welcome: Welcome) => void
  /** A session that had been welcomed has ended. */
  lost: () => void
  /** The peer does not take us for its master. */
  refused?: (refused: Refused) => void
  /** Whatever else the peer says, before its welcome or after. A throw ends the session with its message. */
  said?: (session: Session, type: string, message: unknown) => void
}

const welcomeTimeoutMs = 10_000
const backoffLeastMs = 100
/** One packet every two seconds costs nothing, and a standby that comes back is found soon. */
const backoffMostMs = 2_000
/** Neither a refusal nor a wrong key goes away by itself. */
const refusedRetryMs = 5_000
/** A session that lasted so long was a good one: the next attempt is made at once. */
const steadyMs = 5_000

export class SessionKeeper implements SessionHandler {
  state: LinkState = 'connecting'
  /** Why there is no session, for people; '' when there is one. */
  reason = ''
  /** The code of the standby's refusal, while it stands. */
  refusal = ''
  /** Monotonic: when the last session was lost. */
  lostMs = -Infinity
  #session: Session | undefined
  #connectedSince = 0
  #stopped = false
  #cancelTimer: () => void = () => undefined
  #logged = ''
  #paused = false
  #heard: () => void = () => undefined
  /** Resolves when the standby has answered for the first time, whatever it said. */
  readonly heard = new Promise<void>(resolve => (this.#heard = resolve))
  #firstOutcome: () => void = () => undefined
  /** Resolves when the first attempt has had an end, good or bad. */
  readonly firstOutcome = new Promise<void>(resolve => (this.#firstOutcome = resolve))
  readonly #backoff: Backoff

  constructor(private readonly options: KeeperOptions) {
    this.#backoff = new Backoff(backoffLeastMs, backoffMostMs, options.random)
  }

  start(): void {
    this.#connect()
  }

  /** The peer has connected. Another session of it ends. */
  take(session: Session): SessionHandler {
    if (this.#stopped || this.#paused) {
      session.send(encodeRefused('paused', this.reason === '' ? 'the master is stopping' : this.reason))
      return this
    }
    this.restart('replaced by a newer session of the same standby')
    this.#session = session
    this.established(session)
    return this
  }

  /** Without waiting for the time of the next attempt. */
  retryNow(): void {
    if (this.#session === undefined) this.#connect()
  }

  /** Nothing happens without a session. */
  send(message: object): void {
    this.#session?.send(message)
  }

  /** No session until resume(). */
  pause(text: string): void {
    this.#paused = true
    this.#cancelTimer()
    this.restart(text)
    this.#cancelTimer()
    this.state = 'away'
    this.#say(text)
    this.#firstOutcome()
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#say('going on')
    this.#connect()
  }

  /** Ends the session, if there is one, and begins none again. */
  stop(text: string): void {
    this.#stopped = true
    this.#cancelTimer()
    this.#session?.close(text)
    this.#session = undefined
  }

  /** Ends the session such that a new one begins with a new welcome, not before `pauseMs` are over. */
  restart(text: string, pauseMs = 0): void {
    const session = this.#session
    if (session === undefined) return
    session.close(text)
    this.#over(session, text, Math.max(pauseMs, this.#backoff.next()))
  }

  established(session: Session): void {
    if (session !== this.#session) return
    this.#heard()
    this.#wait(welcomeTimeoutMs, () =>
      this.#giveUp(session, `the standby accepted the connection and said nothing for ${welcomeTimeoutMs / 1000} s`),
    )
    session.send(encodeHello(this.options.hello()))
  }

  message(session: Session, message: unknown): void {
    if (session !== this.#session) return
    try {
      const type = typeOf(message)
      if (type === 'refused') this.#refused(session, message)
      else if (type === 'welcome' && this.state !== 'connected') this.#welcomed(session, message)
      else this.options.said?.(session, type, message)
    } catch (error) {
      this.#giveUp(session, describe(error))
    }
  }

  closed(session: Session, reason: SessionCloseReason, text: string): void {
    if (session !== this.#session) return
    const refused = reason === 'peer-not-allowed' || reason === 'refused-by-peer'
    const waitMs = refused ? jitter(refusedRetryMs, this.options.random) : this.#waitAfterLoss()
    this.#over(session, this.#explain(reason, text), waitMs, refused ? 'refused' : 'away')
  }

  #connect(): void {
    this.#cancelTimer()
    const { transport } = this.options
    if (this.#stopped || this.#paused) return
    if (transport === undefined) {
      this.state = 'away'
      if (this.reason === '') this.#say('waiting for the standby to connect')
      this.#firstOutcome()
      return
    }
    try {
      this.#session = transport.connect(this.options.peer, this)
    } catch (error) {
      this.state = 'away'
      this.#say(`connect to the standby at ${this.#address()}: ${describe(error)}`)
      this.#wait(this.#backoff.next(), () => this.#connect())
    }
  }

  #welcomed(session: Session, message: unknown): void {
    const welcome = decodeWelcome(message)
    const own = ownVersions('')
    const choice = chooseVersion(own, {
      protocol: welcome.protocol,
      protocolOldest: welcome.protocol,
      program: welcome.program,
    })
    if ('problem' in choice) {
      throw new Error(
        `the standby (understudy ${welcome.program}) chose version ${welcome.protocol} of the link, this program speaks ${protocol.oldest} to ${protocol.newest}`,
      )
    }
    this.options.welcomed(session, welcome)
    this.#noteRotation(session)
    this.#cancelTimer()
    this.state = 'connected'
    this.reason = ''
    this.refusal = ''
    this.#logged = ''
    this.#connectedSince = this.options.clock.monotonicMs()
    this.#firstOutcome()
  }

  #noteRotation({ peerId, keys }: Session): void {
    if (keys === undefined || keys.keyId === peerId) return
    const todo = `in --standby (standby of the group) put ${keys.keyId} in the place of ${peerId}`
    this.options.log.warn(`the standby at ${this.#address()} has a new id: ${todo}, before its rotation is finished`)
  }

  #refused(session: Session, message: unknown): void {
    const refused = decodeRefused(message)
    const { code, message: text } = refused
    session.close('refused')
    this.options.refused?.(refused)
    this.#over(
      session,
      `the standby at ${this.#address()} refuses: ${text}`,
      jitter(refusedRetryMs, this.options.random),
      'refused',
      code,
    )
  }

  #giveUp(session: Session, why: string): void {
    session.close(why.slice(0, 500))
    this.#over(session, `the standby at ${this.#address()}: ${why}`, this.#backoff.next())
  }

  /** The only place where a session is forgotten. */
  #over(session: Session, reason: string, waitMs: number, state: LinkState = 'away', refusal = ''): void {
    if (session !== this.#session) return
    this.#session = undefined
    const wasConnected = this.state === 'connected'
    this.state = state
    this.refusal = refusal
    this.#say(reason)
    this.#firstOutcome()
    if (wasConnected) {
      this.lostMs = this.options.clock.monotonicMs()
      this.options.lost()
    }
    this.#wait(waitMs, () => this.#connect())
  }

  #waitAfterLoss(): number {
    const lastedMs = this.options.clock.monotonicMs() - this.#connectedSince
    if (this.state === 'connected' && lastedMs >= steadyMs) this.#backoff.reset()
    return this.#backoff.next()
  }

  #explain(reason: SessionCloseReason, text: string): string {
    const standby = `the standby at ${this.#address()}`
    switch (reason) {
      case 'timeout':
        return this.state === 'connected' ? `${standby} is not heard any more` : `${standby} does not answer`
      case 'peer':
        return `${standby} closed the session${text === '' ? '' : `: ${text}`}`
      case 'peer-not-allowed':
        return `at ${this.#address()} answers another key (${text}) than the one configured (${this.options.peer.id}); check --standby`
      case 'refused-by-peer':
        return `${standby} does not allow this host's id; start it with --allow ${this.options.own.id}`
      default:
        return `${standby}: ${text === '' ? 'the connection ended' : text}`
    }
  }

  #say(reason: string): void {
    this.reason = reason
    if (reason === this.#logged) return
    this.#logged = reason
    this.options.log.warn(reason)
  }

  #wait(milliseconds: number, then: () => void): void {
    this.#cancelTimer()
    if (!this.#stopped && !this.#paused) this.#cancelTimer = this.options.clock.after(milliseconds, then)
  }

  #address(): string {
    const { transport, peer } = this.options
    return transport === undefined ? (this.#session?.address ?? 'the other host') : formatHostPort(peer)
  }
}
