/**
 * What the daemon asks of the parts it runs. The classes of master/, standby/, nbd/ and metrics/ have these shapes
 * (TypeScript compares structure, so they need not import this file, which lies above them).
 */
import type { Addon, AddonEvent, DeviceInfo, Point } from '../native/binding.js'
import type { Reign } from '../core/reigns.js'
import type { VolumeStatus } from '../core/status-types.js'
import type { Hand, Handed } from '../core/handed.js'
import type { Logger } from '../core/log.js'
import type { GroupConfig, StandbyConfig } from '../core/config-types.js'
import type { HistoryListing } from '../standby/history.js'
import type { FileWish } from '../standby/image-file.js'
import type { HistoryPoint } from '../standby/points.js'
import type { ReigningMaster, VolumeIdentity } from '../standby/reigning.js'
import type { StandbyImage } from '../standby/image.js'
import type { Origin } from '../standby/replica-file.js'
import type { GroupView, ViewOptions } from '../standby/views.js'
import type { CopiedGroup } from '../standby/standby.js'
import type { PromoteOptions } from '../standby/promoting.js'

export type { VolumeIdentity }

/** Events of the addon, to whoever subscribed; a listener that throws does not keep the others from hearing. */
export interface EventSource {
  subscribe(listener: (event: AddonEvent) => void): () => void
}

/** What every role gets at open(). */
export interface RoleDeps {
  addon: Addon
  events: EventSource
  /** The private key, PEM, and its fingerprint; may be rotated. */
  identity: { readonly pem: string; readonly id: string; onChange?(listener: () => void): () => void }
  /** STATE; a role keeps its files under STATE/groups/NAME or STATE/standby. */
  stateDirectory: string
  log: Logger
  /** By group: until when this host holds a lease already, from a daemon that this one goes on for. */
  heldLeases?: ReadonlyMap<string, bigint>
  /** Of a group that a predecessor had; it changes nothing on disk before begin(). */
  handed?: (group: string) => Handed | undefined
}

/** An open volume that NBD clients may reach. */
export interface ExportedVolume {
  name: string
  /** The engine's handle, for adopt(). */
  volume: number
  device: DeviceInfo
  readOnly: boolean
  /** A standby is to have it. Default: false. */
  replicated?: boolean
  /** OpenedGroup.volumes[i].counterPage. */
  counterPage: number
}

/** A group of which this daemon is the master. */
export type MasterRole = Omit<ReigningMaster, 'offer' | 'noteOutranked' | 'mustYield'>

export interface CloseOutcome {
  /** Everything was durable on the standby (or there was none). */
  drained: boolean
  /** What is marked dirty for the next start. */
  dirtyBytes: number
  /** Of an abdication: the standby has said that it knows. */
  noted?: boolean
}

/** All groups of which this daemon is the standby. */
export interface StandbyRole {
  readonly config: StandbyConfig
  /** The link's port, resolved when 0 was asked for. */
  readonly port: number
  status(): VolumeStatus[]
  /** openReplica().counterPage of each group that is open. */
  replicaPages(): { group: string; page: number }[]
  images(): StandbyImage[]
  /** A frozen copy of a volume for NBD clients; refuses (SafetyRefusal) while the copy is unusable. */
  view(volume: string, options: ViewOptions): Promise<StandbyView>
  /** The same as a file, by reflink. */
  makeFile(volume: string, wish: FileWish): Promise<Point>
  /** Rate of writes and points of a stretch of the history; '' for from and to: all of it. */
  listHistory(action: string, volume: string, from: string, to: string, buckets: number): Promise<HistoryListing>
  /** What the copy shows now gets a name. */
  mark(volume: string, label: string): Promise<HistoryPoint>
  /** All volumes of a group, at one position. */
  viewGroup(group: string, options: ViewOptions): Promise<GroupView>
  isPromoted(group: string): boolean
  standAside(group: string): void
  isBeingPromoted(group: string): boolean
  settled(group: string): Promise<void>
  checkMoment(action: string, group: string, at: string): Promise<void>
  /** Promotes the volume's whole group. `listen`, as typed, is remembered: see promoted(). */
  promote(volume: string, options: PromoteOptions): Promise<PromoteOutcome>
  /** Volumes that are promoted, with where they are to be served. */
  promoted(): { exported: ExportedVolume; listen: string | undefined }[]
  /** Of whose groups this host is the master since a promotion. */
  masters(): MasterRole[]
  has(group: string): boolean
  /** What lies in the store, whoever reigns over it. */
  copiedGroups(): CopiedGroup[]
  /** On disk when it returns: a group of the configuration is a copy here, and follows. */
  adopt(own: GroupConfig, volumes: readonly VolumeIdentity[], history: readonly Reign[], origin: Origin): void
  openAdopted(own: GroupConfig): Promise<void>
  demote(volume: string, takeOver: boolean, drainMs: number): Promise<string[]>
  /** Saves what only this side has, and follows the other. */
  resolve(volume: string): Promise<string[]>
  pause(volume: string): Promise<void>
  resume(volume: string): void
  /** inPlace: what is sent goes straight into the copy, which is no cut until it is complete. */
  invalidate(volume: string, inPlace: boolean): Promise<void>
  /** A file that resolve() has saved, or the newest of the volume, for NBD clients, read-only. */
  saved(volume: string, file: string): StandbyView
  readonly savedDirectory: string
  setAllow(ids: string[]): void
  setStaging(bytes: number): void
  /** `hand`: of promoted groups, as MasterRole.close() does. */
  close(options: { drainMs: number; hand?: Hand }): Promise<CloseOutcome>
}

export interface StandbyView {
  exported: ExportedVolume
  /** Records of which incarnation, up to where. */
  position: { incarnation: string; sequence: string }
  /** Of an earlier moment. */
  timeNs?: bigint
  close(): Promise<void>
}

export interface PromoteOutcome {
  /** What the operator is told, line by line. */
  messages: string[]
}
