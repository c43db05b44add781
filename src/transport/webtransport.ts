/**
 * Transport for networks without UDP: QUIC's packets in a tunnel (tunnel/README.md). A session is one of QUIC's, so
 * everything said of those holds; it is begun when the tunnel is, and ends with it.
 */
import { formatHostPort, type PeerAddress } from '../core/units.js'
import type { Addon } from '../native/binding.js'
import { QuicTransport, type QuicOptions } from './quic.js'
import type { PeerKeys, Session, SessionCloseReason, SessionHandler, Transport } from './transport.js'
import { TunnelWorker } from './tunnel/tunnel-worker.js'
import { tunnelIdentity } from './tunnel-identity.js'
import type { FromWorker } from './tunnel/tunnel-messages.js'

type TunnelAddon = QuicOptions['addon'] & Pick<Addon, 'identityCertificate' | 'identityFingerprint'>

export class WebTransportTransport implements Transport {
  readonly port = 0
  readonly #quic: QuicTransport
  readonly #worker: TunnelWorker
  readonly #tunnels = new Map<number, TunnelledSession>()
  readonly #unsubscribe: (() => void) | undefined
  #lastTunnel = 0

  constructor(options: Omit<QuicOptions, 'addon' | 'listening'> & { addon: TunnelAddon }) {
    this.#quic = new QuicTransport(options)
    this.#worker = new TunnelWorker(
      () => tunnelIdentity(options.addon, options.identity.pem),
      message => this.#heard(message),
      why => this.#died(why),
    )
    this.#unsubscribe = options.identity.onChange?.(() => this.#worker.renewIdentity())
  }

  connect(peer: PeerAddress, handler: SessionHandler): Session {
    const tunnel = ++this.#lastTunnel
    const session = new TunnelledSession(peer, handler, () => this.#worker.tell({ type: 'close', tunnel }))
    this.#tunnels.set(tunnel, session)
    this.#worker.tell({ type: 'open', tunnel, peer })
    return session
  }

  allow(): void {
    // Nobody connects to us.
  }

  close(): void {
    this.#unsubscribe?.()
    this.#tunnels.clear()
    void this.#worker.stop()
    this.#quic.close()
  }

  #heard(message: FromWorker): void {
    if (message.type === 'opened') {
      this.#tunnels.get(message.tunnel)?.begin(this.#quic, message.port)
    } else if (message.type === 'ended') {
      const session = this.#tunnels.get(message.tunnel)
      this.#tunnels.delete(message.tunnel)
      session?.end(message.reason, message.text)
    }
  }

  #died(why: string): void {
    const tunnels = [...this.#tunnels.values()]
    this.#tunnels.clear()
    for (const session of tunnels) session.end('protocol', why)
  }
}

/** What the handler knows: a session that exists before QUIC's does. `closed` comes once, from whichever ends first. */
class TunnelledSession implements Session {
  readonly peerId: string
  readonly address: string
  #inner: Session | undefined
  #over = false

  constructor(
    private readonly peer: PeerAddress,
    private readonly handler: SessionHandler,
    private readonly closeTunnel: () => void,
  ) {
    this.peerId = peer.id
    this.address = formatHostPort(peer)
  }

  /** 0 before QUIC's session has begun; nobody attaches to it before that is established. */
  get id(): bigint {
    return this.#inner?.id ?? 0n
  }

  begin(quic: Transport, port: number): void {
    if (this.#over) return this.closeTunnel()
    this.#inner = quic.connect(
      { id: this.peer.id, host: '127.0.0.1', port },
      {
        established: () => this.handler.established(this),
        message: (_, message) => this.handler.message(this, message),
        closed: (_, reason, text) => {
          this.closeTunnel()
          this.#close(reason, text)
        },
      },
    )
  }

  end(reason: SessionCloseReason, text: string): void {
    this.#inner?.close('the tunnel has ended')
    this.#close(reason, text)
  }

  get keys(): PeerKeys | undefined {
    return this.#inner?.keys
  }

  send(message: object): void {
    this.#inner?.send(message)
  }

  close(text: string): void {
    if (this.#inner !== undefined) return this.#inner.close(text)
    this.closeTunnel()
    // As QUIC does: `closed` comes after this has returned.
    setImmediate(() => this.#close('local', text))
  }

  #close(reason: SessionCloseReason, text: string): void {
    if (this.#over) return
    this.#over = true
    this.handler.closed(this, reason, text)
  }
}
