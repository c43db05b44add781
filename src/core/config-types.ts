/**
 * The configuration as the program uses it: complete (every default filled in), checked, and the same whether it came
 * from understudy.toml or from the flags of `master` and `standby`. config.ts makes it.
 */
import type { ByteRange, HostPort, ListenAddress, PeerAddress } from './units.js'

export type Durability = 'async' | 'flush' | 'received' | 'durable'
export type OnStandbyLoss = 'continue' | 'block'
/** What clients do without their standby; blockMs: `block` ends after so long; absent: never. */
export interface StandbyLoss {
  policy: OnStandbyLoss
  blockMs?: number
}
export type OnMaxLag = 'block' | 'detach'
export type Transport = 'quic' | 'webtransport'
/** What a standby can be reached by. */
export type StandbyTransport = Transport | 'both'

/** What a rule for files means where the file system cannot be read, or not be followed: no start, or all of it is replicated. */
export type FilterFallback = 'refuse' | 'all'
export const filterFallbacks: readonly FilterFallback[] = ['refuse', 'all']

/** Globs as typed (filter/file-rules.ts). */
export interface FileRulesConfig {
  exclude: string[]
  only: string[]
  fallback: FilterFallback
}

/** Of what travels to the standby. */
export type Compression = 'off' | 'zstd' | 'lz4'

export const durabilities: readonly Durability[] = ['async', 'flush', 'received', 'durable']
export const onStandbyLosses: readonly OnStandbyLoss[] = ['continue', 'block']
export const onMaxLags: readonly OnMaxLag[] = ['block', 'detach']
export const compressions: readonly Compression[] = ['off', 'zstd', 'lz4']
export const transports: readonly Transport[] = ['quic', 'webtransport']
export const standbyTransports: readonly StandbyTransport[] = ['quic', 'webtransport', 'both']

/** What is left out of a volume; it may change while the volume is served. */
export interface FilterConfig {
  /** Partition numbers to replicate, from 1; empty: the whole device. */
  partitions: number[]
  /** What is left out, in bytes of the device. */
  exclude: ByteRange[]
  /** Which files are left out; absent: no rules. */
  files?: FileRulesConfig
}

export interface VolumeConfig extends FilterConfig {
  /** The NBD export's name and the volume's name everywhere: status, metrics, STORE/NAME/image.raw. */
  name: string
  /** Path of the master device: a file or a block device. */
  device: string
  readOnly: boolean
  /** Past the page cache (O_DIRECT). */
  direct: boolean
}

export interface GroupConfig {
  name: string
  /** At least one; they share one sequence. */
  volumes: VolumeConfig[]
  /** Absent: a plain NBD server that keeps the dirty map. */
  standby?: PeerAddress
  /** The standby connects to us (after a promotion); its address is not known. */
  peerConnects?: boolean
  durability: Durability
  standbyLoss: StandbyLoss
  /** Size of the replication log in memory. */
  logBytes: number
  /** Where it goes on when the memory is full: an absolute path, and how large the file may become. */
  logFile?: { path: string; bytes: number }
  /** A standby without progress for so long is away. */
  peerTimeoutMs: number
  /** Clients are answered only while a lease of the standby's is held; absent: always. */
  leaseMs?: number
  transport: Transport
  /** Bytes a second on the link, at most; 0: no limit. */
  bandwidth: number
  /** What is asked of the standby; one that does not know it gets everything as it is. */
  compress: Compression
  /** Bytes a second that a resynchronisation reads, at most; 0: no limit. */
  resyncRate: number
  /** What may be written and not be durable on the standby: so many bytes, so old; 0: no limit. */
  maxLag: { bytes: number; milliseconds: number }
  /** Beyond it clients wait, or the log is given up for the dirty map. */
  onMaxLag: OnMaxLag
  /** UDP payload; absent: as large as the path takes. */
  packetBytesMax?: number
  /** How long a stop waits for the standby to have everything; what remains is marked dirty. */
  drainTimeoutMs: number
  /** Each volume is verified so long after its last verify; absent: only when asked. */
  scrubEveryMs?: number
}

/** TLS for NBD clients: at least one of certificates and psk. Absolute paths. */
export interface TlsConfig {
  /** Nothing is said to a client before TLS. */
  required: boolean
  /** Directory with server-cert.pem, server-key.pem and, for verifyPeer, ca-cert.pem. */
  certificates?: string
  /** Clients with X.509 need a certificate of that authority. */
  verifyPeer: boolean
  /** File of pre-shared keys, USER:HEXKEY a line. */
  psk?: string
}

/** What an export of a copy looks like to clients. */
export const exportFormats = ['raw', 'vhd'] as const
export type ExportFormat = (typeof exportFormats)[number]

export type TlsMode = 'off' | 'on' | 'require'
export const tlsModes: readonly TlsMode[] = ['off', 'on', 'require']

export interface NbdConfig {
  listen: ListenAddress[]
  /** Of unix sockets: permission bits, and a group's name or number. */
  unixMode: number
  unixGroup?: string
  /** Plain NBD on addresses other hosts can reach. */
  insecure: boolean
  /** Of all listeners together: negotiating and in transmission. */
  connectionsMax: number
  /** Absent: not offered. */
  tls?: TlsConfig
}

/** What a standby keeps beyond what is applied; the oldest goes when either is reached. */
export interface HistoryLimits {
  /** 0: of any age. */
  ageMs: number
  /** On disk, of each group; 0: as much as comes. */
  bytes: number
}

export interface StandbyConfig {
  /** STORE/VOLUME/image.raw. */
  store: string
  /** Absent: this host connects itself (a master that has become a standby). */
  listen?: HostPort
  /** webtransport needs QUIC behind it: both is the same but for what a reader expects. */
  transport: StandbyTransport
  /** Ids of masters that may replicate here. */
  allow: string[]
  /** Volumes whose image is a block device instead of STORE/VOLUME/image.raw. */
  devices: Map<string, string>
  /** What a step that is collected beside a cut may take of the log, of each group; 0: what the disk has. */
  stagingBytes: number
  /** Absent: nothing that is applied is kept. */
  history?: HistoryLimits
  /** How much of the copies is kept in memory; 0: what the kernel keeps by itself. */
  cacheBytes: number
  /** How long a stop waits until everything received is applied. */
  drainTimeoutMs: number
}

export interface Config {
  /** Holds identity, lock, control socket, dirty maps. Absolute. */
  state: string
  metrics?: HostPort
  /** A shell command that is told what becomes of volumes. */
  onEvent?: string
  nbd: NbdConfig
  standby?: StandbyConfig
  groups: GroupConfig[]
  /** The file it came from, re-read at SIGHUP; absent: it came from flags. */
  file?: string
}

export const defaults = {
  durability: 'flush' as Durability,
  onStandbyLoss: 'continue' as OnStandbyLoss,
  onMaxLag: 'block' as OnMaxLag,
  logBytes: 256 << 20,
  /** The ring holds two records of the largest size (32 MiB) and something to breathe. */
  logBytesMin: 80 << 20,
  /** A record of the largest size (32 MiB), and a chunk of a resynchronisation. */
  stagingBytesMin: 40 << 20,
  /** Of each group: a few segments of the log. */
  historyBytesMin: 256 << 20,
  peerTimeoutMs: 5_000,
  transport: 'quic' as Transport,
  compress: 'off' as Compression,
  standbyTransport: 'both' as StandbyTransport,
  drainTimeoutMs: 30_000,
  unixMode: 0o600,
  connectionsMax: 1024,
} as const

/** As it is written. */
export function formatStandbyLoss(loss: StandbyLoss): string {
  return loss.blockMs === undefined ? loss.policy : `${loss.policy}:${loss.blockMs / 1000}s`
}
