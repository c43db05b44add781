/** What the daemon and the worker of the tunnels say to each other. Ids of tunnels are the daemon's. */
import type { HostPort, PeerAddress } from '../../core/units.js'

export interface TunnelIdentity {
  pem: string
  /** Of the same key; WebTransport wants one that is valid for at most two weeks. */
  certificatePem: string
  /** While the key is being rotated: why the id before is this host's too; else ''. */
  endorsement: string
  id: string
}

export type ToWorker =
  | { type: 'open'; tunnel: number; peer: PeerAddress }
  | { type: 'close'; tunnel: number }
  /** `target`: where the QUIC endpoint is. */
  | { type: 'listen'; address: HostPort; target: HostPort; allowed: string[] }
  | { type: 'allow'; allowed: string[] }
  /** For tunnels that are opened from now on. */
  | { type: 'identity'; identity: TunnelIdentity }

/** Why a tunnel ended, in the words of a session's end. */
export type TunnelEnd = 'peer' | 'timeout' | 'peer-not-allowed' | 'refused-by-peer' | 'protocol'

export type FromWorker =
  /** QUIC packets sent to this UDP port on the loopback interface come out at the standby. */
  | { type: 'opened'; tunnel: number; port: number }
  | { type: 'ended'; tunnel: number; reason: TunnelEnd; text: string }
  | { type: 'listening'; port: number }
  | { type: 'listen-failed'; message: string }
  /** Somebody was turned away. */
  | { type: 'rejected'; reason: TunnelEnd; text: string }
