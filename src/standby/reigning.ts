/** What a standby's group needs of the master that it becomes by a promotion. master/ has the class (injected: Reigns). */
import type { FilterConfig, GroupConfig } from '../core/config-types.js'
import type { Hand } from '../core/handed.js'
import type { Position, Reign } from '../core/reigns.js'
import type { VolumeStatus } from '../core/status-types.js'
import type { FilterExplanation } from '../filter/compile-files.js'
import type { FileRule } from '../filter/file-rules.js'
import type { FilterOutcome } from '../filter/filter-change.js'
import type { Refused } from '../transport/messages.js'
import type { Session, SessionHandler } from '../transport/transport.js'
import type { ExportedVolume } from './open-volumes.js'
import type { ReplicaVolume } from './replica-file.js'

/** All that a daemon asks of a group of which it is the master, and what only its standby half asks. */
export interface ReigningMaster {
  readonly config: GroupConfig
  /** OpenedGroup.counterPage. */
  readonly counterPage: number
  /** All reigns up to this one. */
  readonly history: readonly Reign[]
  readonly volumeIdentities: readonly VolumeIdentity[]
  /** What the peer said that does not take this host for the master any more. */
  readonly outranked: Refused | undefined
  /** Clients are not to be served: the standby is to give back first what this host has lost. */
  readonly isOwed: boolean
  exports(): ExportedVolume[]
  status(): VolumeStatus[]
  /** Compares both sides online. */
  verify(volume: string, request: { repair: boolean; bytesPerSecond: number }): Promise<VerifyOutcome>
  /** What rules for files would leave out. */
  explainFilter(volume: string, rules: readonly FileRule[]): Promise<FilterExplanation>
  /** Comes into force while clients write; refused, with nothing changed, when the device cannot fulfil it. */
  changeFilter(volume: string, filter: FilterConfig, dryRun?: boolean): Promise<FilterOutcome>
  /** This moment gets a name on the standby; resolves when it has noted it. */
  mark(volume: string, label: string): Promise<Position & { timeNs: bigint }>
  /** Resolves when the standby has been asked for the first time, or is silent. */
  firstContact(): Promise<void>
  /** The old master, or whoever has a copy, has connected. */
  offer(session: Session): SessionHandler | undefined
  /** The last record, if it is certain that nothing has changed since. */
  provenPosition(): Position | undefined
  /** A peer with another history has come. */
  noteOutranked(refused: Refused): void
  /** The operator has decided for this side: what the peer's next hello is answered with. */
  readonly mustYield: boolean
  pause(): void
  resume(): void
  /** Clients are answered without a lease from now on, until a standby is there again; refused while one is held. */
  giveUpLease(): string[]
  /** Until when a lease is held (Addon.lease); undefined: there is none. */
  readonly leaseUntilNs: bigint | undefined
  invalidate(): void
  /** The peer is told to save what only it has, and to follow. */
  prevail(): void
  /** Reads nothing new from clients, waits until the standby has everything or the time is over, saves the dirty map. */
  close(options: CloseOptions): Promise<{ drained: boolean; dirtyBytes: number; noted?: boolean }>
  /** Of one that another process had: that one is no more. */
  begin(): void
  /** Of a reign that begins: its files, of which nothing is there before. */
  putOnDisk(): void
  /** Of a reign that begins: until this is called it only reads. */
  letWrite(): void
}

export interface VolumeIdentity {
  name: string
  uuid: string
  sizeBytes: bigint
}

interface VerifyOutcome {
  chunks: number
  different: number
  repaired: number
  unreadableBytes: number
  differences: { offset: bigint; length: bigint }[]
  unreadable: { offset: bigint; length: bigint }[]
  leftOut: { offset: bigint; length: bigint }[]
  leftOutBytes: bigint
}

interface CloseOptions {
  drainMs: number
  /** When it could drain: this host ceases to be the master; `persist` puts that on disk, then the standby is told. */
  abdicate?: { persist: (position: Position) => void; takeOver: boolean }
  /** Another process goes on at once, with what is passed here. */
  hand?: Hand
}

export interface ReignRequest {
  config: GroupConfig
  volumes: ReplicaVolume[]
  /** The other side does not take this host for the master. */
  outranked: (master: ReigningMaster) => void
  /** It has been given back what it had lost (isOwed). */
  settled: () => void
  /** Of a reign that begins now; absent: it goes on after a restart. */
  seed?: {
    history: Reign[]
    known: { replicaId: string; positions: { incarnation: bigint; durable: bigint }[] }
    /** No other host has a copy that could be promoted. */
    isOnlyCopy: boolean
    /** The images are shown with what this replica has not applied yet; until letWrite(). */
    replica?: number
  }
}

export interface Reigns {
  open(request: ReignRequest): Promise<ReigningMaster>
  /**
   * What the last reign's dirty maps mark, [start, end) pairs by volume; undefined: they cannot be believed, or not of a side
   * that went on at `fork`.
   */
  suspects(
    group: string,
    volumes: ReplicaVolume[],
    fork: Position | undefined,
  ): Promise<Record<string, bigint[]> | undefined>
}
