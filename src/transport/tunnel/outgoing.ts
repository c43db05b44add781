/** A client's tunnel: from a UDP port on the loopback interface to a standby's QUIC endpoint. */
import { createHash, X509Certificate } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'node:tls'

import { formatHostPort, type PeerAddress } from '../../core/units.js'
import { formerIdOf, idOfCertificate } from '../../core/endorsement.js'
import { answerChallenge, type Challenge } from './challenge.js'
import { loadLibrary, tunnelPath, type WebTransportSession } from './library.js'
import { FrameStream, pump } from './pump.js'
import type { TunnelEnd, TunnelIdentity } from './tunnel-messages.js'

const handshakeMs = 10_000
const idleMs = 60_000
const doorMs = 250
const doorTries = 20

export class TunnelError extends Error {
  constructor(
    readonly reason: TunnelEnd,
    message: string,
  ) {
    super(message)
  }
}

/** Calls `opened` when packets pass, and throws (TunnelError) when it has ended. */
export async function runTunnel(
  peer: PeerAddress,
  identity: TunnelIdentity,
  stop: AbortSignal,
  opened: (port: number) => void,
): Promise<never> {
  const limit = AbortSignal.timeout(handshakeMs)
  const aborted = rejectWhen(stop, () => new TunnelError('peer', 'the tunnel was closed'))
  const late = rejectWhen(limit, () => new TunnelError('timeout', `no tunnel within ${handshakeMs / 1000} s`))
  const certificate = await Promise.race([answeringCertificate(peer, stop), aborted, late])
  const { WebTransport } = await loadLibrary()
  const session = new WebTransport(`https://${formatHostPort(peer)}${tunnelPath}`, {
    forceReliable: true, // HTTP/2
    serverCertificateHashes: [{ algorithm: 'sha-256', value: createHash('sha256').update(certificate.raw).digest() }],
  })
  session.closed.catch(() => undefined)
  const socket = createSocket('udp4')
  try {
    const frames = await Promise.race([introduce(session, identity, peer, idOfCertificate(certificate)), aborted, late])
    const port = await bindLoopback(socket)
    opened(port)
    return await Promise.race([pump(frames, socket, idleMs), aborted])
  } finally {
    socket.close()
    session.close()
  }
}

async function introduce(
  session: WebTransportSession,
  { pem }: TunnelIdentity,
  peer: PeerAddress,
  answering: string,
): Promise<FrameStream> {
  await session.ready
  const stream = new FrameStream(await session.createBidirectionalStream())
  // The server does not know of the stream before something comes on it.
  await stream.writeJson({ hello: 'understudy tunnel' })
  const challenge = await stream.readJson()
  if (
    answering !== peer.id &&
    formerIdOf((challenge as Partial<Challenge> | undefined)?.endorsement, answering) !== peer.id
  )
    throw new TunnelError('peer-not-allowed', answering)
  await stream.writeJson(answerChallenge(challenge, pem, answering))
  const verdict = (await stream.readJson()) as { welcome?: unknown } | undefined
  if (verdict?.welcome !== true) throw new TunnelError('refused-by-peer', 'the standby does not allow this key')
  return stream
}

/**
 * What answers there. The session is then made to that very certificate, and to its key if that is the one that is
 * expected, or endorsed by it: the package knows hashes of certificates, we pin keys.
 */
async function answeringCertificate(peer: PeerAddress, stop: AbortSignal): Promise<X509Certificate> {
  for (let tries = 0, turnedAway = false; ; tries++) {
    try {
      return await shownCertificate(peer)
    } catch (error) {
      // A door that was closed turns the first one away, and opens (tunnel-door.ts): nobody listens for a moment then.
      const { code, message } = error as NodeJS.ErrnoException
      turnedAway ||= code === 'ECONNRESET'
      if (turnedAway && tries < doorTries && !stop.aborted) {
        await sleep(doorMs)
        continue
      }
      const refused = code === 'ECONNREFUSED' ? ': nothing listens there (TCP)' : ''
      throw error instanceof TunnelError ? error : new TunnelError('timeout', `${message}${refused}`)
    }
  }
}

async function shownCertificate(peer: PeerAddress): Promise<X509Certificate> {
  const raw = await new Promise<Buffer>((resolve, reject) => {
    const socket = connect({ host: peer.host, port: peer.port, rejectUnauthorized: false, timeout: handshakeMs })
    socket.once('secureConnect', () => {
      resolve(socket.getPeerCertificate().raw)
      socket.destroy()
    })
    socket.once('timeout', () => socket.destroy(new TunnelError('timeout', 'no answer')))
    socket.once('error', reject)
  })
  return new X509Certificate(raw)
}

function bindLoopback(socket: Socket): Promise<number> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(0, '127.0.0.1', () => {
      socket.off('error', reject)
      resolve(socket.address().port)
    })
  })
}

function rejectWhen(signal: AbortSignal, error: () => Error): Promise<never> {
  const promise = new Promise<never>((_, reject) => {
    if (signal.aborted) reject(error())
    signal.addEventListener('abort', () => reject(error()), { once: true })
  })
  promise.catch(() => undefined)
  return promise
}
