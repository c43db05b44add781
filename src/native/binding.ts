/**
 * The addon: everything that moves bytes. This is the only file that loads it; the rest of src/ decides.
 *
 * Rules: calls return at once (work goes to native threads; answers come as events or promises), and none is made per
 * write. A failed call throws NativeError with the errno's name as `code`. 64-bit sequences are bigint.
 */
import { createRequire } from 'node:module'
import { join } from 'node:path'

import { ROOT } from '../core/root.js'

export type Durability = 'async' | 'flush' | 'received' | 'durable'
export type OnStandbyLoss = 'continue' | 'block'
export type OnMaxLag = 'block' | 'detach'
export type Compression = 'off' | 'zstd' | 'lz4'

/** Where NBD clients connect. A unix socket's mode and group are set before anyone can connect. */
export type ListenAddress = (
  { kind: 'unix'; path: string; mode?: number; groupId?: number } | { kind: 'tcp'; host: string; port: number }
) & {
  /** A socket that listens there already: the callee's from now on. */
  inherited?: number
}

export interface DeviceInfo {
  sizeBytes: bigint
  /** Minimum, preferred and maximum block size to advertise. */
  blockMin: number
  blockPreferred: number
  blockMax: number
  readOnly: boolean
  /** TRIM and WRITE_ZEROES with hole punching work. */
  canZero: boolean
  isBlockDevice: boolean
}

/** What a partition (0: the device itself, or a volume of several) or a logical volume holds. */
export interface FileSystemContent {
  partition: number
  /** 'group/volume', or ''. */
  logicalVolume: string
  kind: string
  label: string
  uuid: string
  sizeBytes: number
  /** 0: not known. */
  blockBytes: number
  /** Why its files are not known; then there is no listing. */
  unread: string
  /** Of a logical volume, two numbers a place (offset, bytes): a write there may move it. */
  locatedBy: Float64Array
  listing?: FileListing
}

export interface MadeWatches {
  watches: number
  /** In the order of the reading. Why: it cannot be followed while it is in use, and all of it is replicated. */
  fileSystems: { followed: boolean; why: string; bytes: number }[]
  bytes: number
  rangeCount: number
  /** At most rangesMax ranges that hold all of it, and may hold more. */
  around: BigUint64Array
}

/** All regular files of a file system as flat arrays; native/filesystem/listing.h says what they promise. */
export interface FileListing {
  /** Six numbers a file: its size, bytes of data, of these reserved and never written, held, first link, links. */
  files: Float64Array
  /** Four a link, by file: file, directory, start and end of its name. */
  links: Uint32Array
  /** Three a directory, parents first, the root at 0: parent, start and end of its name. */
  directories: Uint32Array
  names: Uint8Array
  /** Three an extent, by offset: offset, bytes, file. */
  extents: Float64Array
  /** Deleted while open. */
  namelessFiles: number
  /** In use, or not left cleanly: this is as of the last commit. */
  journalPending: boolean
  /** Not '': the journal could not be read, and this is what lies in place. */
  journalUnread: string
  /** What could not be read: while there is any, nothing may be left out. */
  problems: number
  firstProblem: string
}

export interface VolumeSpec {
  name: string
  /**
   * A path to a file or block device, or a view of a replica; `tail`: bytes behind its last one, of one that is read-only.
   * `replica`: the path is its image of the same place in the group, which is shown with what it has not applied
   * (sealReplica()); nobody writes before drainReplica() has resolved.
   */
  device: { path: string; replica?: number } | { view: number; tail?: Uint8Array }
  readOnly: boolean
  /** A path: past the page cache. Throws EOPNOTSUPP where that cannot be. */
  direct?: boolean
  /** What is not replicated: sorted, disjoint [start, end) pairs in bytes, flattened. */
  excluded?: BigUint64Array
  /**
   * Absent: all of `excluded`. Of it, what no rule for files has a say in; the rest holds what those left out, and may hold
   * more. Before the first step ends `watched` is raised, so that it is read anew and setRanges() says what it is.
   */
  fixed?: BigUint64Array
  /** Writes that touch these [start, end) pairs raise `watched` and open a step first (partition tables). */
  watched?: BigUint64Array
  /**
   * The dirty map on disk. Trusted: its marks are taken up; one that is missing or damaged makes everything dirty.
   * Handed: of handOverMap(), instead; trusted says then whether the one on disk was kept. It stays the caller's.
   * Served before: by another process, which may have met a failed fdatasync, so that the first resynchronisation reads
   * past the page cache.
   */
  map?: { path: string; uuid: string; trusted: boolean; servedBefore: boolean; handed?: number }
}

export interface GroupSpec {
  name: string
  volumes: VolumeSpec[]
  /** Random, 64 bits, persisted by the caller before this call. */
  incarnation: bigint
  durability: Durability
  onStandbyLoss: OnStandbyLoss
  /** Under block: how long; 0: for ever. */
  blockMs?: number
  /** What may be written and not durable on the standby; 0: no limit. */
  maxLagBytes?: number
  maxLagMs?: number
  onMaxLag?: OnMaxLag
  logBytes: number
  /** From openLogFile(): what the memory has no room for goes there. It is closed with the group, or when this call fails. */
  logFile?: number
  peerTimeoutMs: number
  /** What a resynchronisation reads of the devices, at most; 0: no limit. */
  resyncBytesPerSecond?: number
  /** Absent: clients are always answered. */
  lease?: LeaseSpec
  /** False: a plain NBD server (writes are counted and marked dirty, nothing is logged). */
  replicated: boolean
  /** Until letWrite(): reads are answered, whatever changes a device waits. */
  holdsWrites?: boolean
}

/** Without a lease of the standby's clients are not answered (native/engine/lease.h). */
export interface LeaseSpec {
  lengthMs: number
  /** What of it is used: less the margin. */
  usableMs: number
  /** False: until startLease(), clients are answered without one. */
  required: boolean
  /** lease() of the same group, in this boot of the host; 0n: none is held. */
  untilNs: bigint
}

/** The position that a copy must have reached for a dirty map to hold for it; zeroes: wherever it was first kept for. */
export interface MapFloor {
  incarnation: bigint
  durable: bigint
}

export interface OpenedGroup {
  group: number
  /** In the order of GroupSpec.volumes: handle for adopt(), what it is, and its page in counters(). */
  volumes: { volume: number; device: DeviceInfo; counterPage: number; mapFloor?: MapFloor; mapStored: boolean }[]
  counterPage: number
}

/** What the standby said of itself in its welcome; the engine decides mechanically whether its log still holds on. */
export interface AttachRequest {
  session: bigint
  peerIncarnation: bigint
  peerReceived: bigint
  /** The standby's image has never held anything: zeroes and holes need not be sent. */
  fresh: boolean
  /** The standby is unusable until this step: apply straight to the image. */
  initial: boolean
  /** The dirty map cannot be trusted for this standby (unknown history): everything is compared. */
  allDirty: boolean
  /** This side may have lost what the standby has: what differs is taken from there, and no client may be served meanwhile. */
  giveBack: boolean
  /** How the standby expects the records. */
  compress: Compression
}

/** A place in a group's history; when it was by the master's wall clock, nanoseconds since 1970, or 0 (not known). */
export interface Point {
  incarnation: bigint
  sequence: bigint
  timeNs: bigint
}

/** Of rollBackReplica(): of the bytes that were written over since. */
export interface RolledBack {
  doneBytes: number
  totalBytes: number
  isDone: boolean
}

/** A position, or the newest record that is not younger than a time, or (null) the newest of all. */
export type Moment = { incarnation: bigint; sequence: bigint } | { timeNs: bigint } | null

export interface ReplicaSpec {
  directory: string
  volumes: { name: string; imagePath: string; sizeBytes: bigint; create: boolean }[]
  /** Of a step that is collected beside a cut; 0 or absent: as the log allows. */
  stagingBytesMax?: number
  /** Neither: no history; what lies in the store of an earlier one is removed. */
  historyAgeMs?: number
  historyBytesMax?: number
  /** holdHistory(), from the start on. */
  holdHistory?: boolean
}

export interface HistoryState {
  oldest: Point
  newest: Point
  bytes: number
  savedBytes: number
  epochs: number
  segments: number
  /** Of these; what they take on disk, and what they hold. */
  compressedSegments: number
  compressedBytes: number
  uncompressedBytes: number
}

export interface PagesSurvey {
  dataBytes: number
  residentBytes: number
  lockedBytes: number
}

export type AddonEvent =
  /** A client connected. `fd` is a duplicate that now belongs to JavaScript. */
  | { type: 'accepted'; listener: number; connection: number; fd: number; peer: string }
  /** An adopted connection ended. `reason` is empty after a clean DISC. */
  | { type: 'disconnected'; connection: number; volume: number; reason: string }
  /** A session's handshake is complete (outgoing: ours to a standby). */
  | {
      type: 'session-established'
      session: bigint
      endpoint: number
      outgoing: boolean
      /** The id by which it was let in: that of its key, or the one before, of which the key's endorsement tells. */
      fingerprint: string
      keyId: string
      /** '': none. */
      formerId: string
      address: string
    }
  /** The peer is seen at another address now (NAT); the session goes on. */
  | { type: 'session-moved'; session: bigint; address: string }
  /** A JSON frame of the peer's TypeScript half. */
  | { type: 'session-message'; session: bigint; message: unknown }
  | {
      type: 'session-closed'
      session: bigint
      endpoint: number
      outgoing: boolean
      reason: SessionCloseReason
      text: string
    }
  /** attach() was carried out. */
  | { type: 'attached'; group: number; session: bigint; mode: 'resume' | 'resync' }
  /** The log has been given up for the dirty map. */
  | { type: 'detached'; group: number; reason: 'log-full' | 'log-file' | 'max-lag' | 'requested' }
  /** The standby made no progress for the peer timeout (the log is kept), or makes some again. */
  | { type: 'standby-away'; group: number; away: boolean }
  /** From now on clients are not answered; or they are again. */
  | { type: 'lease'; group: number; held: boolean }
  /** `bytes`: how much was dirty, and so compared or sent. */
  | { type: 'resync-done'; group: number; sequence: bigint; bytes: bigint }
  /**
   * Under `received`: the standby has everything that was acknowledged; or (false) it will not have what is acknowledged
   * next, and the engine waits for part().
   */
  | { type: 'pairing'; group: number; paired: boolean }
  /** The dirty map could not be written. Removed: no start will believe it; until fillMap() it is in memory only. */
  | { type: 'map-failed'; group: number; volume: number; message: string; removed: boolean }
  /** What the filter was made from does not hold any more (a step is open until setRanges is called). */
  | { type: 'watched'; group: number; volume: number }
  /** Files have come or grown that could be left out, too. Once, until watchRanges is called. */
  | { type: 'look'; group: number; volume: number }
  | {
      type: 'device-error'
      group: number
      volume: number
      operation: string
      error: string
      offset: bigint
      length: bigint
    }
  | {
      type: 'verify-result'
      group: number
      id: bigint
      volumeIndex: number
      offset: bigint
      length: bigint
      equal: boolean
      error: string
    }
  | { type: 'replica-error'; replica: number; message: string }
  | { type: 'log'; level: 'info' | 'warn' | 'error'; message: string }

export type SessionCloseReason = 'local' | 'peer' | 'timeout' | 'peer-not-allowed' | 'refused-by-peer' | 'protocol'

/** What the NBD handshake agreed on; the engine obeys it for the rest of the connection. */
export interface NegotiatedFlags {
  structuredReplies: boolean
  extendedHeaders: boolean
  /** The id under which base:allocation was selected, or 0; those of understudy:replicated and understudy:dirty. */
  baseAllocationId: number
  replicatedId: number
  dirtyId: number
  readOnly: boolean
}

/** A client in transmission, taken out of its engine at the end of a request. Whoever has this has its descriptors. */
export interface TakenClient {
  flags: NegotiatedFlags
  fd: number
  /** Holds what was read and not carried out, then what is to be sent; -1: there is neither. */
  bytesFd: number
  unreadBytes: number
  unsentBytes: number
  /** Of the payload of a refused write: still to come. */
  skipBytes: number
  /** It has sent its last request. */
  closing: boolean
  /** Its number while it was this engine's. */
  connection: number
  /** The other end is in this process, as of a TLS session: of no use to another one. */
  endsInProcess: boolean
}

/** Server credentials for NBD clients; PEM texts. */
export interface TlsCredentialsSpec {
  /** X.509: both or neither. */
  certificate?: string
  key?: string
  /** Whose clients are let in, with verifyPeer. */
  authorities?: string
  revoked?: string
  verifyPeer: boolean
  psk: { user: string; key: Uint8Array }[]
}

export interface SecuredStream {
  /** What the client says in plaintext: a descriptor that belongs to JavaScript; -1: there was none left. */
  fd: number
  /** "TLS1.3, client certificate CN=vm1" */
  description: string
}

export interface Addon {
  /** Starts the worker pool. Events arrive on the JavaScript thread. Again: whoever gets them from now on. */
  start(onEvent: (event: AddonEvent) => void): void
  /** Stops and joins every native thread. Idempotent. */
  stop(): void
  /** stop(), then _exit(code): the only way out of a daemon. */
  exit(code: number): never
  /** One mapping written by native threads; read with Atomics.load(new BigUint64Array(...), page * 512 + offset). */
  counters(): ArrayBuffer
  /** Offsets of the named counters in a page: {volume: {...}, group: {...}, replica: {...}, session: {...}}. */
  counterLayout(): Record<'volume' | 'group' | 'replica', Record<string, number>>

  createIdentity(): string
  /** A new key, endorsed by the old one (native/quic/certificates.h). */
  createSuccessor(keyPem: string): string
  identityFingerprint(keyPem: string): string
  /** A self-signed certificate of the key, in PEM. */
  identityCertificate(keyPem: string, validSeconds: number): string

  /** Binds and listens; throws (EADDRINUSE ...). A stale unix socket nobody listens on is replaced. */
  listen(address: ListenAddress): { listener: number; port: number }
  closeListener(listener: number): void
  /** Negotiation succeeded: the engine takes the connection over, `early` being bytes already read. */
  adopt(connection: number, volume: number, flags: NegotiatedFlags, early: Uint8Array): void
  /** Negotiation failed or ended: forget the connection's own descriptor. */
  release(connection: number): void

  /** Meanwhile nobody is accepted: clients wait in the kernel's queue. */
  pauseListeners(paused: boolean): void
  /** Accepted, and neither adopted nor released. */
  waitingConnections(): number
  /** Ends the listener, not its socket: a descriptor for the caller; -1: there is no such listener. */
  takeListener(listener: number): number
  /** A socket that listens, for a server of node's. Needs no start(). */
  listeningSocket(address: ListenAddress): number
  duplicate(fd: number): number
  /** quiesce() of the volume's group; ended by resumeClients(). */
  pauseClients(volume: number): Promise<void>
  resumeClients(volume: number): void
  /** Only after pauseClients(). They hear nothing of it. Rejects with all of them where they were. */
  takeClients(volume: number): Promise<TakenClient[]>
  /** Returns the connection's number. */
  adoptClient(volume: number, client: TakenClient): number

  /** Messages with descriptors between two processes (native/takeover/channel.h); ETIMEDOUT, ECONNRESET, EPIPE. */
  channelConnect(path: string): number
  channelAccept(listeningFd: number, limitMs: number): Promise<number>
  /** The descriptors stay the caller's. */
  channelSend(channel: number, text: string, fds: number[], limitMs: number): Promise<void>
  channelReceive(channel: number, limitMs: number): Promise<{ text: string; fds: number[] }>
  /** The process at the other end; 0: unknown. */
  channelPeer(channel: number): number
  channelClose(channel: number): void

  /** Throws EPROTO with GnuTLS's words when a PEM cannot be used. */
  tlsCredentials(spec: TlsCredentialsSpec): number
  /** Sessions that use them keep them. */
  dropTlsCredentials(credentials: number): void
  /**
   * The TLS handshake with an accepted client, on a native thread; `early` was read after the last plaintext word.
   * Afterwards the connection, under its number, is the plaintext stream: negotiate on `fd`, then adopt() or release(),
   * which also ends a handshake that is under way.
   */
  startTls(connection: number, credentials: number, early: Uint8Array, limitMs: number): Promise<SecuredStream>

  /**
   * Creates, locks and empties the file for the next openGroup(). Throws EBUSY: another log has it; EEXIST: it holds
   * something else.
   */
  openLogFile(spec: { path: string; bytesMax: number }): number
  /**
   * For who serves a device of this host's kernel: the data path does not wait for memory in the usual way from now on
   * (native/core/memory-guard.h). Returns what was refused, in words.
   */
  guardMemory(): string[]
  /**
   * Gives /dev/nbdN a new connection, to be adopted or released; 0: too many wait. Reconnect: of a device that is
   * connected with this identifier and whose connection is dead (else ENOSPC). Errors: ENOENT no NBD client in this
   * kernel, EPERM, EBUSY.
   */
  attachDevice(spec: {
    index: number
    sizeBytes: bigint
    blockBytes: number
    serverFlags: number
    /** How long it waits for a new connection when this one is gone. */
    deadSeconds: number
    identifier: string
    reconnect: boolean
  }): Promise<number>
  detachDevice(index: number): Promise<void>
  openGroup(spec: GroupSpec): OpenedGroup
  /** Closes the devices after answering what is in flight; connections are closed. */
  closeGroup(group: number): Promise<void>
  /** No new requests are read from clients from now on; resolves when those in flight are answered. */
  quiesce(group: number): Promise<void>
  /** GroupSpec.holdsWrites is over. */
  letWrite(group: number): void
  /** Until when a lease is held, on the clock that all processes of this boot have (0n: none ever was), and how long that is. */
  lease(group: number): { untilNs: bigint; leftMs: number }
  /** From now on clients are answered only with a lease; one is held from now, as if it had been granted. */
  startLease(group: number): void
  /** Clients are answered without one. */
  waiveLease(group: number): void
  /**
   * Writes to these ranges are told from here on. Resolves, when those until now are on the device, to a mark that goes to
   * setRanges() with what is read from then on.
   */
  watchRanges(volume: number, watched: BigUint64Array): Promise<number>
  /**
   * Swaps the filter of a volume at the current position: `fixed`, and what the watches follow (of makeWatches, which are
   * gone with it; 0: none). Closes the step that `watched` opened; not if there were watched writes after the mark: then
   * `watched` comes again. Refused: this file system, of those that are followed, has changed too much since it was read:
   * nothing of it comes into force, and an open step stays open; else -1.
   */
  setRanges(
    volume: number,
    fixed: BigUint64Array,
    watched: BigUint64Array,
    mark: number,
    watches: number,
  ): Promise<{ refused: number; why: string }>
  /** What is left out now: zeroes at the standby. */
  leftOut(volume: number): Promise<BigUint64Array>
  /** Bytes that clients wrote and were not sent, by each of the `rules` of makeWatches, since the volume was opened; {} when it is closed. */
  savedByRule(volume: number): Record<string, number>
  attach(group: number, request: AttachRequest): void
  /** It is on disk that the standby may lack what is acknowledged from here on: after `pairing` with paired = false. */
  part(group: number): void
  /** Gives the log up for the dirty map (and closes the step mechanically at the next attach). */
  detach(group: number): void
  /** Makes the dirty maps on disk whole: from here on they hold whatever may differ, after a crash too. */
  fillMap(group: number): Promise<void>
  /**
   * A clean stop: the dirty map on disk says exactly what the peer has not made durable. Only after quiesce(), and after
   * the device has been flushed; the last call for this volume.
   */
  finishMap(volume: number): Promise<{ sequence: bigint }>
  /**
   * Instead, when another process goes on at once: that map as a descriptor, for VolumeSpec.map.handed; the caller's. The
   * one on disk is not touched, and stays a superset of it.
   */
  handOverMap(volume: number): Promise<{ sequence: bigint; fd: number }>
  /**
   * What a dirty map on disk marks, of a volume that is not open: [start, end) pairs in bytes, flattened, at most runsMax
   * pairs (what lies between may be added). Rejects when the map is missing or damaged.
   */
  readMap(map: { path: string; uuid: string; sizeBytes: bigint; runsMax: number }): Promise<BigUint64Array>
  /** The peer's copy may differ there: sorted, disjoint [start, end) pairs. Before attach(). */
  markRanges(volume: number, ranges: BigUint64Array): void
  /**
   * Reads, hashes and compares the whole volume online (native/engine/verifier.h); `verify-result` events tell of every
   * difference, `device-error` events ("verify read") of what the master cannot read, the promise of the end.
   * bytesPerSecond 0: as the clients leave room.
   */
  verify(
    volume: number,
    options?: { repair: boolean; bytesPerSecond: number },
  ): Promise<{ chunks: number; different: number; repaired: number; unreadableBytes: number }>
  /**
   * Partition table by libblkid (native/partition/partitions.h): [] without one. Bytes are relative to the device.
   * Entries with number 0 and type 'table' are the places where the table itself lies. scheme: 'gpt', 'dos' or
   * libblkid's name of another table.
   */
  partitions(
    path: string,
  ): Promise<
    { number: number; offset: bigint; sizeBytes: bigint; type: string; name: string; uuid: string; scheme: string }[]
  >
  /** The file systems of a device, without their files; takes milliseconds. Rejects when the device cannot be read. */
  findFilesystems(path: string): Promise<FileSystemContent[]>
  /**
   * The file systems of a device, and the files of those that can be read (native/filesystem): bytes count from the
   * start of the device. Reads on a worker, for two minutes at most each. Rejects when the device cannot be read. Until
   * forgetReading() the addon keeps what it has read. `followed`: not the files of those that cannot be followed.
   */
  readFilesystems(path: string, followed: boolean): Promise<{ reading: number; contents: FileSystemContent[] }>
  forgetReading(reading: number): void
  /**
   * For setRanges(): follows, from the moment of the reading on, the files that are to be left out: for each file system
   * one byte a file (0: not; else which of `rules` leaves it out, from 1 on), or undefined. whole: then one byte a directory, not
   * 0: whatever comes into it is left out, too. holds: what is written to blocks that no file has yet waits for the commit that
   * names its owner.
   */
  makeWatches(
    reading: number,
    leftOut: readonly (Uint8Array | undefined)[],
    whole: readonly (Uint8Array | undefined)[],
    rules: readonly string[],
    rangesMax: number,
    holds: boolean,
  ): Promise<MadeWatches>
  /** Of makeWatches(), that no setRanges() got. */
  forgetWatches(watches: number): void

  /** A UDP socket and its link thread. A standby's listens; a master's only connects. */
  openEndpoint(spec: {
    identityPem: string
    listen?: { host: string; port: number }
    idleTimeoutMs: number
    packetBytesMax?: number
    /** Of each session it opens; 0: no limit. */
    bytesPerSecondMax?: number
  }): { endpoint: number; port: number }
  /** For sessions that begin from now on. */
  setIdentity(endpoint: number, keyPem: string): void
  closeEndpoint(endpoint: number): void
  allow(endpoint: number, fingerprints: string[]): void
  connect(endpoint: number, host: string, port: number, fingerprint: string): bigint
  closeSession(session: bigint, text: string): void
  /** Queues a JSON frame (at most 64 KiB). */
  send(session: bigint, message: unknown): void

  openReplica(spec: ReplicaSpec): { replica: number; counterPage: number }
  closeReplica(replica: number): void
  /** The step that is being collected goes straight into the images, unusable until its end. Throws EALREADY: none is. */
  giveUpCut(replica: number): void
  /** From now on; 0: no maximum. */
  setStagingMax(replica: number, bytes: number): void
  /**
   * Routes a session's records to this replica from now on, and grants leases of at most leaseMs (0: none); returns where
   * its history stands.
   */
  attachReplica(
    replica: number,
    session: bigint,
    leaseMs: number,
    compress: Compression,
  ): { incarnation: bigint; received: bigint }
  /** How long ago a lease was last granted; -1: never. */
  leaseAgeMs(replica: number): number
  drainReplica(replica: number, timeoutMs: number): Promise<void>
  /**
   * Takes no more records, and applies those that are there. `ahead`: need not wait for that, if what is not applied can be
   * shown all the same (DeviceSpec.replica), until drainReplica() resolves; the result is where the images will stand then.
   */
  sealReplica(
    replica: number,
    timeoutMs: number,
    ahead: boolean,
  ): Promise<{ incarnation: bigint; sequence: bigint } | undefined>
  /** Resolves when what was received before the call is applied, as far as it may be; ETIMEDOUT. */
  catchUpReplica(replica: number, timeoutMs: number): Promise<void>
  /**
   * A file whose pages are kept in memory, as far as lockPages() is called (native/residency/file-pages.h). What is asked
   * of all of these is done one after the other.
   */
  openPages(path: string): number
  /** Bytes that hold data, of these in memory (by mincore), and locked there. Lets go of what has become a hole. */
  surveyPages(pages: number): Promise<PagesSurvey>
  /**
   * Reads and locks at most `step` bytes more of what the last survey found, and not beyond `lockedMax` in all. Resolves
   * to what is locked now. Rejects with ENOMEM, EPERM or EAGAIN when that is not to be had; what was locked stays.
   */
  lockPages(pages: number, step: number, lockedMax: number): Promise<number>
  /** Unlocks all of it, and what is clean leaves the memory. */
  dropPages(pages: number): Promise<void>
  /** Unlocks it, and leaves it to the kernel what stays in memory. */
  closePages(pages: number): void

  /**
   * Which point a moment is, and that everything is there to show it. ERANGE: the history has no such moment; ENODATA: there
   * is none. isWithinStep: the point is the cut before a step in the middle of which the moment is.
   */
  findMoment(replica: number, moment: Moment): Promise<Point & { isWithinStep: boolean }>
  /** A promotion is near: for a second the replica applies only what somebody waits for; or until it is told that none is. */
  standAside(replica: number, isAside: boolean): void
  /** While it is held nothing goes from the history, whatever its limits are; rather is nothing more applied. */
  holdHistory(replica: number, isHeld: boolean): void
  /**
   * After sealReplica() and drainReplica(), with a held history: makes the images what they were at a position, for good;
   * some MiB with each call, until `isDone` (and on stable storage). Until then they are neither this nor that; after an
   * error, or in another process, it begins anew. EBUSY: not everything is applied; ERANGE: there is no such moment.
   */
  rollBackReplica(replica: number, to: { incarnation: bigint; sequence: bigint }): Promise<RolledBack>
  /** Null: none is kept, or it has not begun (before the first cut). */
  replicaHistory(replica: number): HistoryState | null
  /** Flushes: at most 1000, the newest kept. */
  replicaMoments(
    replica: number,
    fromNs: bigint,
    toNs: bigint,
    buckets: number,
  ): Promise<{ writtenBytes: number[]; flushes: Point[] }>
  /**
   * Frozen views of several volumes, all at one moment, each to be opened by openGroup({device: {view}}) and freed when that
   * group closes. A moment within a step or between two records is the newest cut at or before it: `point` says which.
   * ERANGE: the history has no such moment.
   */
  replicaViewAt(
    replica: number,
    volumes: number[],
    moment: Moment,
    writable: boolean,
  ): Promise<{ views: number[]; point: Point }>
  /**
   * Makes a file of a volume as it is now, with `tail` behind it: a reflink, under its name only once it is on stable storage.
   * EEXIST: something has that name; EOPNOTSUPP, EXDEV, EINVAL: no reflink from the image to there; EAGAIN, ENODATA: as views.
   */
  cloneImage(replica: number, volume: number, path: string, tail: Uint8Array): Promise<Point>
}

function load(): Addon {
  const require = createRequire(import.meta.url)
  const built = join(ROOT, 'build/Release/understudy.node')
  // Another build of it: the sanitizers' (test/sanitize).
  return require(process.env['UNDERSTUDY_ADDON'] ?? built) as Addon
}

let loaded: Addon | undefined
export const addon = (): Addon => (loaded ??= load())
