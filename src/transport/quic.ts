/** Transport over the addon's QUIC endpoint: one UDP socket and one link thread. */
import { describe, NativeError } from '../core/errors.js'
import { formatHostPort, type PeerAddress } from '../core/units.js'
import type { Addon, AddonEvent } from '../native/binding.js'
import type { EventSource } from '../native/events.js'
import type { HostKey, Listening, PeerKeys, Session, SessionHandler, Transport } from './transport.js'

type EndpointAddon = Pick<
  Addon,
  'openEndpoint' | 'setIdentity' | 'closeEndpoint' | 'allow' | 'connect' | 'closeSession' | 'send'
>
type SessionEvent = Extract<AddonEvent, { session: bigint; type: `session-${string}` }>

export interface QuicOptions {
  addon: EndpointAddon
  events: EventSource
  identity: HostKey
  /** A peer that is silent for so long is gone. */
  idleTimeoutMs: number
  packetBytesMax?: number
  /** UDP payload a second of each session it opens; 0: no limit. */
  bytesPerSecondMax?: number
  /** Absent: the endpoint only connects. */
  listening?: Listening
}

export class QuicTransport implements Transport {
  readonly port: number
  readonly #options: QuicOptions
  readonly #endpoint: number
  readonly #sessions = new Map<bigint, { session: QuicSession; handler: SessionHandler }>()
  readonly #unsubscribe: (() => void)[]
  #closed = false

  /** Throws NativeError (EADDRINUSE and the like). */
  constructor(options: QuicOptions) {
    this.#options = options
    const { addon, identity, idleTimeoutMs, packetBytesMax, bytesPerSecondMax, listening } = options
    try {
      const opened = addon.openEndpoint({
        identityPem: identity.pem,
        idleTimeoutMs,
        bytesPerSecondMax: bytesPerSecondMax ?? 0,
        ...(listening === undefined ? {} : { listen: listening.address }),
        ...(packetBytesMax === undefined ? {} : { packetBytesMax }),
      })
      this.#endpoint = opened.endpoint
      this.port = listening === undefined ? 0 : opened.port
    } catch (error) {
      const what = listening === undefined ? 'open a UDP socket' : `listen on UDP ${formatHostPort(listening.address)}`
      throw new NativeError(what, error)
    }
    this.#unsubscribe = [
      options.events.subscribe(event => {
        if (isSessionEvent(event)) this.#handle(event)
      }),
      identity.onChange?.(() => addon.setIdentity(this.#endpoint, identity.pem)) ?? (() => undefined),
    ]
    if (listening !== undefined) this.allow(listening.allow)
  }

  connect(peer: PeerAddress, handler: SessionHandler): Session {
    const id = this.#options.addon.connect(this.#endpoint, peer.host, peer.port, peer.id)
    const session = new QuicSession(this.#options.addon, id, peer.id, formatHostPort(peer))
    this.#sessions.set(id, { session, handler })
    return session
  }

  allow(ids: readonly string[]): void {
    this.#options.addon.allow(this.#endpoint, [...ids])
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const unsubscribe of this.#unsubscribe) unsubscribe()
    for (const { session } of this.#sessions.values()) session.end()
    this.#sessions.clear()
    this.#options.addon.closeEndpoint(this.#endpoint)
  }

  #handle(event: SessionEvent): void {
    if (event.type === 'session-established' && !event.outgoing && event.endpoint === this.#endpoint)
      this.#accept(event)
    const known = this.#sessions.get(event.session)
    if (known === undefined) return this.#rejected(event)
    const { session, handler } = known
    if (event.type === 'session-closed') {
      this.#sessions.delete(event.session)
      session.end()
      handler.closed(session, event.reason, event.text)
    } else if (event.type === 'session-message') {
      if (session.open) handler.message(session, event.message)
    } else if (event.type === 'session-moved') {
      session.moved(event.address)
    } else {
      session.keys = event
      handler.established(session)
    }
  }

  #rejected(event: SessionEvent): void {
    if (event.type !== 'session-closed' || event.outgoing || event.endpoint !== this.#endpoint) return
    this.#options.listening?.rejected(event.reason, event.text)
  }

  #accept(event: Extract<AddonEvent, { type: 'session-established' }>): void {
    const listening = this.#options.listening
    if (listening === undefined) return
    const session = new QuicSession(this.#options.addon, event.session, event.fingerprint, event.address)
    this.#sessions.set(event.session, { session, handler: listening.accept(session) })
  }
}

class QuicSession implements Session {
  open = true
  keys: PeerKeys | undefined

  constructor(
    private readonly addon: Pick<Addon, 'send' | 'closeSession'>,
    readonly id: bigint,
    readonly peerId: string,
    private at: string,
  ) {}

  get address(): string {
    return this.at
  }

  moved(address: string): void {
    this.at = address
  }

  send(message: object): void {
    if (!this.open) return
    try {
      this.addon.send(this.id, message)
    } catch (error) {
      // It has ended natively, and the event is on its way; or the message is too long, which its peer is told.
      this.close(`send: ${describe(error)}`)
    }
  }

  close(text: string): void {
    if (!this.open) return
    this.open = false
    try {
      this.addon.closeSession(this.id, text)
    } catch {
      // It has ended natively, and `closed` is on its way.
    }
  }

  end(): void {
    this.open = false
  }
}

function isSessionEvent(event: AddonEvent): event is SessionEvent {
  return event.type.startsWith('session-')
}
