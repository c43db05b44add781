/** The document of `understudy status --json` and of GET /status. A contract: fields are added, never changed. */
import type { Compression, Durability } from './config-types.js'

export type Role = 'master' | 'standby'

export type VolumeState = 'initial-sync' | 'replicating' | 'resyncing' | 'detached' | 'diverged' | 'alone'

/** Records of the current incarnation up to a watermark: a decimal string, as 64 bits do not fit a JSON number. */
export type RecordCount = string

export interface ResyncStatus {
  doneBytes: number
  totalBytes: number
  /** Bytes a second, over the last seconds. */
  rate: number
  /** Null until there is a rate. */
  etaSeconds: number | null
}

export interface PeerStatus {
  id: string
  /** HOST:PORT */
  address: string
  session: 'connected' | 'connecting' | 'away' | 'refused'
  /** How it is reached; only a master knows. 'webtransport' is HTTP/2: TLS over TCP, with QUIC inside. */
  transport?: 'quic' | 'webtransport (TLS over TCP)'
  /** Null without a session. */
  rttSeconds: number | null
  /** Of a standby, ISO 8601: its master was heard then or later, if only to say that it is there; null: not since the start. */
  heardAt?: string | null
  /** Of a master that asks for it. */
  compression?: CompressionStatus
}

export interface CompressionStatus {
  asked: Compression
  /** In this session; off without one. */
  inForce: Compression
  /** Why it is not what was asked for, in a session; else ''. */
  reason: string
  /** Of the records sent since the start: raw bytes by bytes sent. Null before the first. */
  ratio: number | null
}

export interface LastVerify {
  /** ISO 8601, when it ended. */
  time: string
  chunks: number
  different: number
  /** Of the different ones: sent anew, and equal since. */
  repaired: number
  /** Of the master's device: not compared. */
  unreadableBytes: number
}

export interface LeaseStatus {
  /** As configured on the master. */
  seconds: number
  /**
   * On the master: how long clients are answered if the standby is not heard any more; 0: they wait. On the standby: how
   * long a promotion with --accept-loss would wait.
   */
  secondsLeft: number
  /** False on a master that nobody could take the place of: promoted, and without a standby since. It needs none then. */
  inForce: boolean
}

/** In bytes of the volume. */
export interface UnreadableRange {
  offset: number
  length: number
}

export interface FileRuleStatus {
  /** As typed. */
  rule: string
  kind: 'exclude' | 'only'
  files: number
  /** exclude: what it leaves out now, also when another rule does too; only: what it chooses. Bytes on the device. */
  bytes: number
  /** exclude: its part of the filter's savedBytes; of files that several match, the first's. only: 0. */
  savedBytes: number
}

/** What is in force, and what it does. */
export interface FilterStatus {
  /** All of it, as understudy.toml has it, a key each. */
  keys: string[]
  /** Now, by replicate and exclude. */
  leftOutByRanges: number
  /** Now, by rules for files; in so many ranges. */
  leftOutBytes: number
  rangeCount: number
  /** Of clients' writes since the start, what was not sent for any filter. */
  savedBytes: number
  /** Of these, what no rule of only_files chooses. The rest of what no rule has is by replicate and exclude. */
  savedNotChosenBytes: number
  rules: FileRuleStatus[]
  /** Where rules for files cannot be kept: all of it is replicated. */
  replicatedWhole: { place: string; why: string }[]
}

/** A position of a group's history, and when its record was made, by the master's clock. */
export interface HistoryMoment {
  /** ISO 8601, to the nanosecond. */
  time: string
  incarnation: string
  sequence: string
}

/** Of a standby: what it keeps beyond what is applied. */
export interface HistoryStatus {
  /** As configured; 0: no such limit. */
  ageSecondsMax: number
  bytesMax: number
  /** Null until the first copy is complete. */
  oldest: HistoryMoment | null
  newest: HistoryMoment | null
  /** On disk: records that are applied, and blocks as they were before. */
  bytes: number
  /** Of these, the blocks. */
  savedBytes: number
  epochs: number
  segments: number
  /** Of these; what they take on disk, and what they hold. */
  compressedSegments: number
  compressedBytes: number
  uncompressedBytes: number
  /** Points labelled by hand, and those of clean stops. */
  pointCount: number
}

export const backlogs = ['memory', 'file', 'dirty-map'] as const
export type Backlog = (typeof backlogs)[number]

/** What of a standby's image is in the kernel's memory. */
export interface ResidencyStatus {
  /** What holds data, in whole pages. */
  dataBytes: number
  /** Of that in memory, by mincore. */
  residentBytes: number
  /** Kept there. */
  lockedBytes: number
  /** It does not give way: a machine runs on it, or it is served. */
  held: boolean
  /** Why it is not kept as a whole, where it should be; else ''. */
  problem: string
}

export interface VolumeStatus {
  name: string
  group: string
  role: Role
  state: VolumeState
  /** Why it is in this state, for people; '' when there is nothing to say. */
  reason: string
  /** ISO 8601: in this state since. */
  since: string
  /** The standby's copy is a cut of the master's history (G2): it can be exported and promoted. */
  usable: boolean
  /** durable keeps up within the policy, nothing is dirty. */
  protected: boolean
  durability: Durability
  generation: string
  written: RecordCount
  sent: RecordCount
  received: RecordCount
  durable: RecordCount
  committed: RecordCount
  applied: RecordCount
  /** Bytes written and not yet applied on the standby. */
  lagBytes: number
  /** Age of the oldest write that is not yet applied. */
  lagSeconds: number
  dirtyBytes: number
  sizeBytes: number
  /** Of a master: its device is read and written past the page cache. */
  direct?: boolean
  logBytes: number
  logMaxBytes: number
  /** When there is one. */
  lease?: LeaseStatus
  /** Of a master: where what the standby lacks is kept now; the order of fallbacks. */
  backlog?: Backlog
  /** Of a master: what of the log is in its file, and the file's maximum; 0 without one. */
  logFileBytes?: number
  logFileMaxBytes?: number
  /** Of a standby: what the open step has collected, and its maximum; 0 without one. */
  stagedBytes?: number
  stagingMaxBytes?: number
  /** Of a standby with --history. */
  history?: HistoryStatus
  /** Of a copy that was promoted as of an earlier moment: which. */
  asOf?: HistoryMoment
  /** Of a copy of this store. */
  residency?: ResidencyStatus
  resync: ResyncStatus | null
  lastVerify: LastVerify | null
  /** Of a master's device: what the last resynchronisation or verify could not read, so that the standby keeps its copy. */
  unreadable?: UnreadableRange[]
  peers: PeerStatus[]
  /** Of a master that leaves something out, or has rules for it. */
  filter?: FilterStatus
}

/** A volume as a block device of this host. */
export interface AttachmentStatus {
  /** /dev/nbdN */
  device: string
  volume: string
  /** waiting: whoever uses it waits, until its volume is served. */
  state: 'connected' | 'waiting'
  /** ISO 8601: in this state since. */
  since: string
  /** Why it waits; '' when it does not. */
  reason: string
}

export interface StatusDocument {
  /** This host's. */
  id?: string
  /** While its key is being rotated: the id before, by which peers know it too. */
  formerId?: string
  /** Of a standby: the masters it hears, and those that `revoke` has shut out. */
  allow?: string[]
  revoked?: string[]
  /** If there are any. */
  attachments?: AttachmentStatus[]
  volumes: VolumeStatus[]
}
