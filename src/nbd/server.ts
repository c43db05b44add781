/**
 * NBD listeners and the connections that negotiate on them. The addon accepts and gives a duplicate of the descriptor;
 * JavaScript negotiates on it and, in the successful callback of the last write, hands the connection over:
 *
 *   accepted {connection, fd} -> net.Socket -> negotiate -> last write is gone -> adopt(connection, early bytes) -> destroy()
 *                                     ^        |       \-> anything else: close, release(connection)
 *                                     |        `-> STARTTLS: last write is gone -> startTls(connection) -> destroy()
 *                                     `------------------- the plaintext stream <----------'
 *
 * Guarantees: every accepted connection is either adopted or released, once. destroy() sends no FIN, as the addon has its
 * own descriptor. At most negotiatingMax connections negotiate; one more pushes out the one that has been at it longest
 * (an honest client is done in milliseconds), so that stalling clients cannot lock others out. So does one more than the
 * daemon's limit of connections; when all of those are in transmission, the new one is refused.
 */
import { closeSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import { describe, NativeError } from '../core/errors.js'
import { log as rootLog, type Logger } from '../core/log.js'
import type { Addon, AddonEvent, ListenAddress } from '../native/binding.js'
import type { ConnectionLimit } from './connection-limit.js'
import type { ExportSource } from './exports.js'
import {
  defaultLimits,
  negotiate,
  type HandshakeContext,
  type HandshakeLimits,
  type HandshakeOutcome,
} from './handshake.js'
import { HandshakeError, handshakeBufferBytes } from './wire.js'

export type AcceptedEvent = Extract<AddonEvent, { type: 'accepted' }>

/** The part of the addon this needs; tests put their own in its place. */
export type NbdEngine = Pick<Addon, 'listen' | 'closeListener' | 'takeListener' | 'adopt' | 'release' | 'startTls'>

export interface ServerTls {
  required: boolean
  /** The addon's handle; asked for at every handshake, as files may be read again. */
  credentials(): number
}

export interface NbdServerLimits extends HandshakeLimits {
  negotiatingMax: number
  /** How long a client that is done may take to close its side, before it is closed for it. */
  lingerMs: number
  /** For the TLS handshake. */
  tlsMs: number
}

export interface NbdServerOptions {
  engine: NbdEngine
  exports: ExportSource
  log?: Logger
  /** Shared by the servers of a daemon. Default: none. */
  limit?: ConnectionLimit
  /** Default: not offered. */
  tls?: ServerTls
  /** Makes a stream of an accepted descriptor; tests put their own in its place. */
  openSocket?: (fd: number) => Socket
  limits?: Partial<NbdServerLimits>
}

interface Negotiation {
  connection: number
  peer: string
  socket: Socket
  /** '' without TLS. */
  security: string
  /** Set by whoever ends it early, in place of what the socket will say. */
  reason?: HandshakeError
}

/** More lines a second than this about clients that failed would only help somebody fill the disk. */
const failureLinesMax = 10

export class NbdServer {
  readonly #engine: NbdEngine
  readonly #exports: ExportSource
  readonly #log: Logger
  readonly #limits: NbdServerLimits
  /** In the order they came: the first is the oldest. */
  readonly #negotiating = new Map<number, Negotiation>()
  readonly #listeners = new Set<number>()
  readonly #open: (fd: number) => Socket
  readonly #tls: ServerTls | undefined
  readonly #limit: ConnectionLimit | undefined
  readonly #failures: FailureLog
  #stopping = false

  constructor(options: NbdServerOptions) {
    this.#engine = options.engine
    this.#exports = options.exports
    this.#log = options.log ?? rootLog.area('nbd')
    this.#limits = { ...defaultLimits, negotiatingMax: 256, lingerMs: 1000, tlsMs: 10_000, ...options.limits }
    this.#open = options.openSocket ?? openDescriptor
    this.#tls = options.tls
    this.#limit = options.limit
    this.#failures = new FailureLog(this.#log)
  }

  /** Throws NativeError (EADDRINUSE ...). The port is the one in use when 0 was asked for; 0 for unix sockets. */
  listen(address: ListenAddress): { port: number } {
    const text = address.kind === 'unix' ? `unix:${address.path}` : `${address.host}:${address.port}`
    try {
      const { listener, port } = this.#engine.listen(address)
      this.#listeners.add(listener)
      return { port }
    } catch (cause) {
      throw new NativeError(`listen on ${text}`, cause)
    }
  }

  get negotiating(): number {
    return this.#negotiating.size
  }

  /** False: the event is about a listener of somebody else. */
  accepted(event: AcceptedEvent): boolean {
    if (!this.#listeners.has(event.listener)) return false
    const socket = this.#openSocket(event)
    if (socket === undefined) return true
    if (this.#stopping || !this.#makeRoom(event.peer)) {
      socket.destroy()
      this.#release(event.connection)
      return true
    }
    const negotiation: Negotiation = { connection: event.connection, peer: event.peer, socket, security: '' }
    this.#negotiating.set(event.connection, negotiation)
    this.#limit?.entered(event.connection, why => this.#drop(negotiation, new HandshakeError('NBD_REFUSED', why)))
    void this.#serve(negotiation)
    return true
  }

  /** As close(), but the sockets go on listening: the caller's from now on. */
  giveUp(): number[] {
    const sockets = [...this.#listeners].map(listener => this.#engine.takeListener(listener))
    this.close()
    return sockets.filter(fd => fd >= 0)
  }

  /** No new connections; options of those that negotiate are answered with ERR_SHUTDOWN. */
  stopListening(): void {
    if (this.#stopping) return
    this.#stopping = true
    // They stay in the set: events of theirs may still be on the way.
    for (const listener of this.#listeners) this.#engine.closeListener(listener)
  }

  /** stopListening(), and those that negotiate are dropped. Adopted connections are the engine's. */
  close(): void {
    this.stopListening()
    for (const negotiation of this.#negotiating.values()) {
      this.#drop(negotiation, new HandshakeError('NBD_REFUSED', 'this server is being stopped'))
    }
  }

  #openSocket(event: AcceptedEvent): Socket | undefined {
    try {
      const socket = this.#open(event.fd)
      // A stream without an error listener ends the process; whoever waits hears of it through the reader as well.
      socket.on('error', () => undefined)
      return socket
    } catch (error) {
      // The client has gone already, or there is no memory; the descriptor is still ours.
      closeSync(event.fd)
      this.#release(event.connection)
      this.#failures.add(event.peer, describe(error))
      return undefined
    }
  }

  async #serve(negotiation: Negotiation): Promise<void> {
    let adopted = false
    try {
      const context = this.#context()
      let outcome = await negotiate(negotiation.socket, context)
      if (outcome.kind === 'secure') {
        const { client } = outcome
        await this.#secure(negotiation, outcome.lastWords)
        outcome = await negotiate(negotiation.socket, context, client)
      }
      if (outcome.kind === 'agreed') adopted = await this.#handOver(negotiation, outcome)
      else await this.#linger(negotiation.socket)
    } catch (error) {
      this.#report(negotiation, error)
    } finally {
      negotiation.socket.destroy()
      this.#negotiating.delete(negotiation.connection)
      if (!adopted) this.#release(negotiation.connection)
    }
  }

  #context(): HandshakeContext {
    const tls = this.#tls === undefined ? 'off' : this.#tls.required ? 'require' : 'on'
    return { exports: this.#exports, limits: this.#limits, tls, shuttingDown: () => this.#stopping }
  }

  async #handOver(negotiation: Negotiation, outcome: Extract<HandshakeOutcome, { kind: 'agreed' }>): Promise<boolean> {
    const { connection, peer, security } = negotiation
    const { target, flags, lastWords } = outcome
    await this.#lastWords(negotiation, lastWords, `hand over the connection to export '${target.name}'`, early =>
      this.#engine.adopt(connection, target.volume, flags, early),
    )
    this.#limit?.adopted(connection, target.volume)
    const notes = [...(flags.readOnly ? ['read-only'] : []), ...(security === '' ? [] : [security])]
    this.#log.info(`${peer}: connected to export '${target.name}'${notes.length === 0 ? '' : ` (${notes.join('; ')})`}`)
    return true
  }

  /** Puts the inside of TLS in place of the socket. */
  async #secure(negotiation: Negotiation, lastWords: Buffer): Promise<void> {
    const { connection } = negotiation
    const credentials = this.#tls?.credentials() ?? 0
    const { fd, description } = await this.#lastWords(negotiation, lastWords, 'TLS handshake', early => {
      // A rejection is given to whoever awaits it, within this object, so that the hand-over itself stays synchronous.
      const secured = this.#engine.startTls(connection, credentials, early, this.#limits.tlsMs)
      return { settled: secured.catch((cause: unknown) => Promise.reject(tlsFailure(cause))) }
    }).then(({ settled }) => settled)
    if (fd < 0) throw new HandshakeError('NBD_TLS', 'TLS: too many connections are waiting')
    if (negotiation.reason !== undefined) {
      closeSync(fd)
      throw negotiation.reason
    }
    negotiation.socket = this.#open(fd)
    negotiation.socket.on('error', () => undefined)
    negotiation.security = description
  }

  /** Everything from the callback of the write to destroy() is one turn of the event loop: no byte can come in between. */
  #lastWords<T>(negotiation: Negotiation, words: Buffer, action: string, take: (early: Uint8Array) => T): Promise<T> {
    const { socket } = negotiation
    return new Promise((resolve, reject) => {
      const timeout = new HandshakeError('NBD_TIMEOUT', 'the client does not take the last reply')
      const timer = setTimeout(() => this.#drop(negotiation, timeout), this.#limits.idleMs)
      socket.write(words, cause => {
        clearTimeout(timer)
        // With a destroyed stream the callback runs although the bytes are lost.
        if (cause !== null && cause !== undefined) return reject(lost(cause))
        if (socket.destroyed) return reject(lost())
        try {
          socket.pause()
          resolve(take((socket.read() as Buffer | null) ?? new Uint8Array(0)))
        } catch (error) {
          reject(new NativeError(action, error))
        } finally {
          socket.destroy()
        }
      })
    })
  }

  /** After NBD_OPT_ABORT: our FIN, then the client's, so that the acknowledgement is not lost to a reset. */
  #linger(socket: Socket): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, this.#limits.lingerMs)
      const done = () => {
        clearTimeout(timer)
        resolve()
      }
      socket.once('end', done)
      socket.once('close', done)
      socket.end()
      // What it still sends is thrown away.
      socket.resume()
    })
  }

  /** False: the daemon has as many connections as it may. */
  #makeRoom(peer: string): boolean {
    if (this.#limit?.makeRoom() === false) {
      const { max } = this.#limit
      this.#failures.add(peer, `${max} connections are open, which is the most there may be (--max-connections)`)
      return false
    }
    if (this.#negotiating.size < this.#limits.negotiatingMax) return true
    const oldest = this.#negotiating.values().next().value
    if (oldest === undefined) return true
    const why = `${this.#limits.negotiatingMax} clients are negotiating and this one had been at it longest`
    this.#drop(oldest, new HandshakeError('NBD_REFUSED', why))
    return true
  }

  #drop(negotiation: Negotiation, reason: HandshakeError): void {
    negotiation.reason ??= reason
    this.#negotiating.delete(negotiation.connection)
    this.#limit?.left(negotiation.connection)
    // In the TLS handshake the socket is not ours, and this ends it.
    if (negotiation.socket.destroyed) this.#release(negotiation.connection)
    negotiation.socket.destroy()
  }

  #release(connection: number): void {
    this.#limit?.left(connection)
    try {
      this.#engine.release(connection)
    } catch (error) {
      this.#log.error(`release connection ${connection}: ${describe(error)}`)
    }
  }

  /** A client that comes and goes (a port scan, a health check) is no news. */
  #report(negotiation: Negotiation, error: unknown): void {
    const reason = negotiation.reason ?? error
    const text = describe(reason)
    if (reason instanceof HandshakeError && reason.code === 'NBD_CLOSED')
      this.#log.debug(`${negotiation.peer}: ${text}`)
    else this.#failures.add(negotiation.peer, text)
  }
}

/** Says how clients failed, at most failureLinesMax lines a second; counts the rest. */
class FailureLog {
  readonly #log: Logger
  #second = 0
  #lines = 0
  #unsaid = 0

  constructor(log: Logger) {
    this.#log = log
  }

  add(peer: string, why: string): void {
    const second = Math.floor(performance.now() / 1000)
    if (second !== this.#second) {
      if (this.#unsaid > 0) this.#log.warn(`${this.#unsaid} more connections were dropped in the handshake`)
      this.#second = second
      this.#lines = 0
      this.#unsaid = 0
    }
    if (this.#lines >= failureLinesMax) {
      this.#unsaid++
      return
    }
    this.#lines++
    this.#log.warn(`${peer}: connection dropped: ${why}`)
  }
}

/** allowHalfOpen: otherwise node would answer the client's FIN with one of its own, on a socket that is not its own. */
function openDescriptor(fd: number): Socket {
  const options = { fd, readable: true, writable: true, allowHalfOpen: true }
  return new Socket({ ...options, readableHighWaterMark: handshakeBufferBytes } as SocketConstructorOpts)
}

function tlsFailure(cause: unknown): HandshakeError {
  const timedOut = (cause as { code?: unknown }).code === 'ETIMEDOUT'
  return new HandshakeError(timedOut ? 'NBD_TIMEOUT' : 'NBD_TLS', describeNative(cause), { cause })
}

/** The addon's own words: it knows more than the errno. */
const describeNative = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

function lost(cause?: unknown): HandshakeError {
  return new HandshakeError('NBD_CLOSED', 'the client closed the connection during the last reply', { cause })
}
