/**
 * What a role needs of the network: authenticated sessions between hosts that carry JSON messages between the
 * TypeScript halves. Records travel beside them, natively, once the engine has been told of the session.
 *
 * Guarantees: a session's peer is known by its id (G6); for each session `closed` is the last call, and it comes even
 * when the session was never established. Does not: reconnect, or judge what a message says.
 */
import type { HostPort, PeerAddress } from '../core/units.js'
import type { SessionCloseReason } from '../native/binding.js'

export type { SessionCloseReason } from '../native/binding.js'

/** This host's key; it may be rotated, which new sessions learn of. */
export interface HostKey {
  readonly pem: string
  onChange?(listener: () => void): () => void
}

/** What a peer has proven: the id of its key and, while it rotates that, the one before ('': none). */
export interface PeerKeys {
  keyId: string
  formerId: string
}

export interface Session {
  /** The engine's handle. */
  readonly id: bigint
  /** The peer's id; of an outgoing session the one that was asked for. */
  readonly peerId: string
  /** Once established. */
  readonly keys?: PeerKeys | undefined
  /** HOST:PORT, where the peer is seen now. */
  readonly address: string
  /** Queues a message of at most 64 KiB of JSON. Nothing happens when the session is closed already. */
  send(message: object): void
  /** The peer is told `text`. */
  close(text: string): void
}

export interface SessionHandler {
  /** The handshake is complete. A standby may still refuse a master's key: only its first message proves that it did not. */
  established(session: Session): void
  message(session: Session, message: unknown): void
  closed(session: Session, reason: SessionCloseReason, text: string): void
}

export interface Transport {
  /** Where it listens; 0 when it only connects. */
  readonly port: number
  connect(peer: PeerAddress, handler: SessionHandler): Session
  /** Ids that may connect to us; sessions of others are closed. */
  allow(ids: readonly string[]): void
  /** Closes all sessions; no handler is called any more. */
  close(): void
}

/** A listening transport: each session of a peer that is allowed gets a handler of its own. */
export interface Listening {
  address: HostPort
  allow: readonly string[]
  accept: (session: Session) => SessionHandler
  /** A connection ended before it was a session: a key was refused, or the handshake failed. */
  rejected: (reason: SessionCloseReason, text: string) => void
}
