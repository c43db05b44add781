/** A server's tunnels: each proven client gets a UDP socket of its own towards the QUIC endpoint. */
import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { isIPv6 } from 'node:net'

import type { HostPort } from '../../core/units.js'
import { newChallenge, provenIds } from './challenge.js'
import { loadLibrary, tunnelPath, type WebTransportServer, type WebTransportSession } from './library.js'
import { FrameStream, pump } from './pump.js'
import type { TunnelEnd, TunnelIdentity } from './tunnel-messages.js'

const provingMs = 10_000
const idleMs = 60_000
const tunnelsMax = 256
const unprovenMax = 16
const windowBytes = 8 << 20

export interface IncomingOptions {
  address: HostPort
  target: HostPort
  identity: TunnelIdentity
  rejected: (reason: TunnelEnd, text: string) => void
}

export class IncomingTunnels {
  #allowed = new Set<string>()
  #tunnels = 0
  #unproven = 0
  readonly #open = new Map<WebTransportSession, string>()

  private constructor(private readonly options: IncomingOptions) {}

  /** Throws when the address is not to be had. */
  static async listen(options: IncomingOptions): Promise<{ tunnels: IncomingTunnels; port: number }> {
    const tunnels = new IncomingTunnels(options)
    const { Http2Server } = await loadLibrary()
    const server = new Http2Server({
      host: options.address.host,
      port: options.address.port,
      // The package asks for one; it is for HTTP/3.
      secret: randomBytes(16).toString('hex'),
      cert: options.identity.certificatePem,
      privKey: options.identity.pem,
      initialStreamFlowControlWindow: windowBytes,
      initialSessionFlowControlWindow: windowBytes,
    })
    server.startServer()
    await server.ready
    void tunnels.#accept(server)
    return { tunnels, port: server.address()?.port ?? 0 }
  }

  /** Tunnels of ids that are not among them end. */
  allow(ids: readonly string[]): void {
    this.#allowed = new Set(ids)
    for (const [session, id] of this.#open) if (!this.#allowed.has(id)) session.close()
  }

  async #accept(server: WebTransportServer): Promise<void> {
    const reader = server.sessionStream(tunnelPath).getReader()
    for (;;) {
      const { value: session, done } = await reader.read()
      if (done) return
      session.closed.catch(() => undefined)
      if (this.#tunnels >= tunnelsMax || this.#unproven >= unprovenMax) {
        session.close()
        continue
      }
      this.#tunnels++
      void this.#serve(session)
        .catch(() => undefined) // its end is the client's matter: the link says what became of the session
        .finally(() => {
          this.#tunnels--
          this.#open.delete(session)
          session.close()
        })
    }
  }

  async #serve(session: WebTransportSession): Promise<void> {
    const frames = await this.#prove(session)
    if (frames === undefined) return
    const { host, port } = this.options.target
    const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4')
    try {
      await pump(frames, socket, idleMs, { address: host, port })
    } finally {
      socket.close()
    }
  }

  /** Undefined: the client is turned away. */
  async #prove(session: WebTransportSession): Promise<FrameStream | undefined> {
    this.#unproven++
    const timer = setTimeout(() => session.close(), provingMs)
    try {
      await session.ready
      const { value: stream } = await session.incomingBidirectionalStreams.getReader().read()
      if (stream === undefined) return undefined
      const frames = new FrameStream(stream)
      await frames.readJson()
      const challenge = newChallenge(this.options.identity.endorsement)
      await frames.writeJson(challenge)
      const ids = provenIds(await frames.readJson(), challenge, this.options.identity.id)
      const id = ids.find(proven => this.#allowed.has(proven))
      if (id !== undefined) {
        this.#open.set(session, id)
        await frames.writeJson({ welcome: true })
        return frames
      }
      this.options.rejected(
        ids.length === 0 ? 'protocol' : 'peer-not-allowed',
        ids[0] ?? 'a tunnel without a proof of its key',
      )
      await frames.writeJson({ refused: true })
      // The answer must leave before the session is closed.
      await Promise.race([frames.read(), new Promise(resolve => setTimeout(resolve, 1000))])
      return undefined
    } finally {
      clearTimeout(timer)
      this.#unproven--
    }
  }
}
