/**
 * Reaches the master of a group of which this host was the master before, and asks to be its standby: the configured
 * address is the other host's, whoever reigns. Connects, says `follow`, hands the hello on, and begins again when the
 * session ends.
 */
import { Backoff } from '../core/backoff.js'
import type { Clock } from '../core/clock.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Reign } from '../core/reigns.js'
import { formatHostPort, type PeerAddress } from '../core/units.js'
import { version } from '../core/version.js'
import { decodeRefused, encodeFollow, protocol, type Refused, typeOf } from '../transport/messages.js'
import type { Session, SessionCloseReason, SessionHandler, Transport } from '../transport/transport.js'

export interface FollowOptions {
  group: string
  peer: PeerAddress
  transport: Transport
  clock: Clock
  log: Logger
  history: () => readonly Reign[]
  /** The master's hello; `ended` resolves when its session has ended. */
  greet: (session: Session, ended: Promise<void>, hello: unknown) => void
  /** Any other message of the master's. */
  said: (session: Session, message: unknown) => void
  refused: (refused: Refused) => void
}

const answerMs = 10_000
const refusedRetryMs = 1_000

export class Follow implements SessionHandler {
  /** Why there is no session; '' when there is one. */
  reason = 'connecting to the other host'
  #session: Session | undefined
  #ended: () => void = () => undefined
  #stopped = false
  #cancelTimer: () => void = () => undefined
  #logged = ''
  readonly #backoff = new Backoff(100, 2_000, Math.random)

  constructor(private readonly options: FollowOptions) {
    this.#connect()
  }

  stop(text: string): void {
    this.#stopped = true
    this.#cancelTimer()
    this.#session?.close(text)
    this.options.transport.close()
    this.#ended()
  }

  established(session: Session): void {
    const { group, history } = this.options
    const versions = { protocol: protocol.newest, protocolOldest: protocol.oldest, program: version }
    session.send(encodeFollow({ ...versions, group, history: [...history()] }))
    this.#wait(answerMs, () => session.close(`no hello within ${answerMs / 1000} s`))
  }

  message(session: Session, message: unknown): void {
    const type = typeOf(message)
    if (type === 'hello') {
      this.#cancelTimer()
      this.reason = ''
      this.#logged = ''
      this.#backoff.reset()
      this.options.greet(session, new Promise(resolve => (this.#ended = resolve)), message)
    } else if (type === 'refused') {
      this.#refused(session, message)
    } else {
      this.options.said(session, message)
    }
  }

  closed(_session: Session, reason: SessionCloseReason, text: string): void {
    if (this.#session === undefined || this.#stopped) return
    this.#session = undefined
    this.#ended()
    if (this.reason === '' || !this.reason.includes('refuses'))
      this.#say(`the other host at ${this.#address()} is not reached (${reason}${text === '' ? '' : `: ${text}`})`)
    this.#wait(this.#backoff.next(), () => this.#connect())
  }

  #connect(): void {
    if (this.#stopped) return
    try {
      this.#session = this.options.transport.connect(this.options.peer, this)
    } catch (error) {
      this.#say(`connect to ${this.#address()}: ${describe(error)}`)
      this.#wait(this.#backoff.next(), () => this.#connect())
    }
  }

  #refused(session: Session, message: unknown): void {
    let refused: Refused
    try {
      refused = decodeRefused(message)
    } catch (error) {
      return session.close(describe(error).slice(0, 500))
    }
    this.#session = undefined
    session.close('refused')
    this.#say(`the other host at ${this.#address()} refuses: ${refused.message}`)
    this.#wait(refusedRetryMs, () => this.#connect())
    this.options.refused(refused)
  }

  #say(reason: string): void {
    this.reason = reason
    if (reason === this.#logged) return
    this.#logged = reason
    this.options.log.warn(`group ${this.options.group}: ${reason}`)
  }

  #wait(milliseconds: number, then: () => void): void {
    this.#cancelTimer()
    if (!this.#stopped) this.#cancelTimer = this.options.clock.after(milliseconds, then)
  }

  #address(): string {
    return formatHostPort(this.options.peer)
  }
}
