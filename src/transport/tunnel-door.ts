/**
 * A standby's door for tunnels: TCP, at the address of its QUIC endpoint, in front of that endpoint.
 *
 *   closed --open()--> waiting --somebody connects--> listening (the worker) --it dies--> waiting
 *
 * While nobody has knocked there is only a socket: the worker costs memory that a standby without tunnels should not pay.
 * The first client is turned away by that, and comes again. A taken port is reported, and the daemon goes on without.
 */
import { createServer, type Server } from 'node:net'

import { describe } from '../core/errors.js'
import { formatHostPort, type HostPort, type PeerAddress } from '../core/units.js'
import type { Addon, SessionCloseReason } from '../native/binding.js'
import { certificateRenewMs, tunnelIdentity } from './tunnel-identity.js'
import type { HostKey, Session, SessionHandler, Transport } from './transport.js'
import type { FromWorker } from './tunnel/tunnel-messages.js'
import { TunnelWorker } from './tunnel/tunnel-worker.js'

interface TunnelDoorOptions {
  addon: Pick<Addon, 'identityCertificate' | 'identityFingerprint'>
  identity: HostKey
  /** TCP; its port is the QUIC endpoint's. */
  address: HostPort
  allowed: readonly string[]
  log: { info: (text: string) => void; warn: (text: string) => void }
  rejected: (reason: SessionCloseReason, text: string) => void
}

class TunnelDoor {
  #server: Server | undefined
  #allowed: string[]
  #closed = false
  readonly #worker: TunnelWorker
  readonly #renewal: NodeJS.Timeout
  readonly #unsubscribe: (() => void) | undefined

  constructor(private readonly options: TunnelDoorOptions) {
    this.#allowed = [...options.allowed]
    this.#worker = new TunnelWorker(
      () => tunnelIdentity(options.addon, options.identity.pem),
      message => this.#heard(message),
      why => this.#again(`tunnels: ${why}; they can be opened again`),
    )
    // Tunnels end with the certificate, and their masters reconnect.
    this.#renewal = setInterval(() => this.#renew(), certificateRenewMs)
    this.#renewal.unref()
    this.#unsubscribe = options.identity.onChange?.(() => this.#renew())
    this.#wait()
  }

  allow(ids: readonly string[]): void {
    this.#allowed = [...ids]
    if (this.#worker.running) this.#worker.tell({ type: 'allow', allowed: this.#allowed })
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#renewal)
    this.#unsubscribe?.()
    this.#server?.close()
    void this.#worker.stop()
  }

  #renew(): void {
    if (!this.#worker.running) return
    // Its port is taken until it has ended.
    void this.#worker.stop().then(() => this.#again('tunnels: a new certificate; masters reconnect'))
  }

  #again(why: string): void {
    if (this.#closed) return
    this.options.log.warn(why)
    this.#wait()
  }

  #wait(): void {
    const { address, log } = this.options
    const server = createServer(socket => {
      socket.destroy()
      if (this.#server !== server) return
      this.#server = undefined
      server.close(() => this.#listen())
    })
    this.#server = server
    server.on('error', error =>
      log.warn(
        `tunnels: listen on TCP ${formatHostPort(address)}: ${describe(error)}; --transport webtransport cannot reach this standby`,
      ),
    )
    server.listen({ host: address.host, port: address.port })
  }

  #listen(): void {
    if (this.#closed) return
    const { address } = this.options
    // QUIC has the UDP port of this number.
    const target = { host: loopbackOf(address.host), port: address.port }
    this.#worker.tell({ type: 'listen', address, target, allowed: this.#allowed })
  }

  #heard(message: FromWorker): void {
    const { address, log } = this.options
    if (message.type === 'listening') {
      log.info(`tunnels: listening on TCP ${formatHostPort(address)} (WebTransport over HTTP/2)`)
    } else if (message.type === 'listen-failed') {
      void this.#worker.stop()
      log.warn(`tunnels: listen on TCP ${formatHostPort(address)}: ${message.message}`)
    } else if (message.type === 'rejected') {
      this.options.rejected(message.reason, message.text)
    }
  }
}

/** A QUIC endpoint, and the door in front of it. */
export class ReachableByTunnel implements Transport {
  readonly port: number
  readonly #door: TunnelDoor

  constructor(
    private readonly quic: Transport,
    options: TunnelDoorOptions,
  ) {
    this.port = quic.port
    this.#door = new TunnelDoor(options)
  }

  connect(peer: PeerAddress, handler: SessionHandler): Session {
    return this.quic.connect(peer, handler)
  }

  allow(ids: readonly string[]): void {
    this.quic.allow(ids)
    this.#door.allow(ids)
  }

  close(): void {
    this.#door.close()
    this.quic.close()
  }
}

function loopbackOf(host: string): string {
  if (host === '0.0.0.0' || host === '') return '127.0.0.1'
  return host === '::' ? '::1' : host
}
