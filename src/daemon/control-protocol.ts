/**
 * The control socket: HTTP/1.1 on STATE/control.sock (0600), JSON bodies.
 *
 *   GET  /status    StatusDocument
 *   GET  /health    HealthReply
 *   POST /wait      WaitRequest     -> stream of WaitEvent (one JSON a line), ends when it came true or time is over
 *   POST /export    ExportRequest   -> stream of ExportEvent; the export lives as long as the connection, or detached
 *   POST /unexport  VolumeRequest   -> UnexportReply: ends detached exports
 *   POST /export-file  ExportFileRequest -> ExportFileReply
 *   POST /history   HistoryRequest  -> HistoryReply
 *   POST /mark      MarkRequest     -> PointDocument
 *   POST /promote   PromoteRequest  -> PromoteReply
 *   POST /demote, /switchover, /pause, /resume   VolumeRequest -> MessagesReply
 *   POST /invalidate   InvalidateRequest -> MessagesReply
 *   POST /resolve   ResolveRequest  -> MessagesReply
 *   POST /verify    VerifyRequest   -> stream of VerifyEvent
 *   POST /filter    FilterRequest   -> FilterReply
 *   POST /change-filter  FilterChangeRequest -> FilterChangeReply
 *   POST /allow     {id}            -> {}
 *   POST /revoke    {id}            -> {}
 *   POST /attach    AttachRequest   -> {}
 *   POST /detach    {name, force}   -> DetachReply
 *   POST /rotate    {finish}        -> RotateReply
 *   POST /reload    {}              -> ReloadReply
 *   POST /stop      {}              -> {}
 *   POST /vm/add    MachineRequest  -> MessagesReply
 *   POST /vm/remove {name}          -> MessagesReply
 *   POST /vm/show   {name, format, disks} -> {text}
 *   GET  /vm/list   MachinesDocument
 *   POST /takeover  TakeoverRequest -> TakeoverReply; the rest is said on the socket that the request names
 *
 * An error is {"error": {code, message, exitCode}}, as the whole body or as the last line of a stream.
 */
import type { ExportFormat, TlsConfig } from '../core/config-types.js'
import type { HistoryMoment, HistoryStatus, VolumeStatus } from '../core/status-types.js'
import type { FilterExplanation } from '../filter/compile-files.js'
import type { FilterOutcome, FilterWish } from '../filter/filter-change.js'
import { describe, type ExitCode, exitCodeOf, UnderstudyError, UsageError } from '../core/errors.js'

export const waitConditions = ['protected', 'drained', 'usable'] as const
export type WaitCondition = (typeof waitConditions)[number]

export interface HealthReply {
  version: string
  pid: number
  id: string
  /** Lines such as "export disk1 at nbd+unix:///disk1?socket=/run/nbd.sock". */
  addresses: string[]
}

export interface VolumeRequest {
  volume: string
}

export interface InvalidateRequest extends VolumeRequest {
  /** The copy need not stay a cut. */
  inPlace?: boolean
}

export interface WaitRequest extends VolumeRequest {
  for: WaitCondition
  /** Null: as long as it takes. */
  timeoutMs: number | null
}

export interface WaitEvent {
  done: boolean
  /** What is still missing, for people. */
  missing: string
  volumes: VolumeStatus[]
}

export interface ExportRequest extends VolumeRequest {
  /** As typed: unix:PATH or HOST:PORT. */
  listen: string
  writable: boolean
  detach: boolean
  /** vhd: with the footer behind it; read-only. Absent: raw. */
  format?: ExportFormat
  /** Null: none. Absent: as the daemon's [nbd] says. */
  tls?: TlsConfig | null
  /** Not the copy, but what a `resolve` has saved: a file's path, or 'newest'. '' for the copy. */
  saved: string
  /** A moment of the history as typed; '' or absent: now. */
  at?: string
  /** The command, as what is refused begins; absent: export. */
  by?: 'find'
}

export interface ExportEvent {
  uri: string
  position: { incarnation: string; sequence: string }
  /** ISO 8601, of an earlier moment: when its last record was made, by the master's clock. */
  time?: string
}

export interface ExportFileRequest extends VolumeRequest {
  /** Absolute. */
  path: string
  format: ExportFormat
}

/** Of the moment that the file holds. */
export type ExportFileReply = Omit<ExportEvent, 'uri'>

export interface HistoryRequest extends VolumeRequest {
  /** Moments as typed; '' for all there is. */
  from: string
  to: string
  /** Parts of equal length that writtenBytes is told of. */
  buckets: number
  /** The command, as what is refused begins; absent: history. */
  by?: 'find'
}

export interface PointDocument extends HistoryMoment {
  kind: 'mark' | 'clean-stop' | 'flush'
  /** '' of a flush. */
  label: string
}

/** A contract: `history --json` prints it. Fields are added, never changed. */
export interface HistoryReply extends HistoryStatus {
  volume: string
  group: string
  /** ISO 8601: the stretch that the rest is about. */
  from: string
  to: string
  bucketSeconds: number
  /** Bytes of records in each part. */
  writtenBytes: number[]
  /** Oldest first. Of flushes at most a thousand, spread over all. */
  points: PointDocument[]
}

export interface MarkRequest extends VolumeRequest {
  label: string
}

export interface UnexportReply {
  ended: number
}

export interface PromoteRequest extends VolumeRequest {
  acceptLoss: boolean
  force: boolean
  /** As typed; '' for none: where clients are to reach it, also after a restart. */
  listen: string
  /** A moment of the history as typed; '' or absent: now. */
  at?: string
}

export interface PromoteReply {
  messages: string[]
}

export interface ResolveRequest extends VolumeRequest {
  keep: 'local' | 'peer'
}

/** What was done, for people. */
export interface MessagesReply {
  messages: string[]
}

export interface VerifyRequest extends VolumeRequest {
  repair: boolean
  /** '': as the clients leave room. */
  rate: string
}

/** In bytes of the volume. */
export interface VerifyRange {
  offset: number
  length: number
}

/** The lists are cut off after a thousand. */
export type VerifyEvent =
  | { done: false }
  | {
      done: true
      chunks: number
      different: number
      repaired: number
      unreadableBytes: number
      differences: VerifyRange[]
      unreadable: VerifyRange[]
      /** By a filter: not compared, but that the standby has zeroes there. */
      leftOut: VerifyRange[]
      leftOutBytes: number
    }

/** Globs as typed. */
export interface FilterRequest extends VolumeRequest {
  excludeFiles: string[]
  onlyFiles: string[]
}

export type FilterReply = FilterExplanation

/** As typed. */
export interface FilterChangeRequest extends VolumeRequest, FilterWish {
  dryRun: boolean
}

export interface FilterChangeReply extends FilterOutcome {
  /** The daemon's understudy.toml; '': it was started from flags. */
  file: string
}

export interface AttachRequest extends VolumeRequest {
  device: string
  /** How long the kernel waits for a daemon. */
  deadMs: number
}

export interface DetachReply {
  device: string
}

export interface RotateReply {
  id: string
  /** '': it is not being rotated any more. */
  formerId: string
}

export interface ReloadReply {
  /** What was done and what needs a restart. */
  messages: string[]
}

export interface ErrorBody {
  error: { code: string; message: string; exitCode: ExitCode }
}

export function toErrorBody(error: unknown): ErrorBody {
  const code = error instanceof UnderstudyError ? error.code : 'INTERNAL'
  return { error: { code, message: describe(error), exitCode: exitCodeOf(error) } }
}

export function fromErrorBody(body: unknown): UnderstudyError | undefined {
  const error = (body as Partial<ErrorBody> | null | undefined)?.error
  if (typeof error !== 'object' || error === null) return undefined
  const exitCode = ([1, 2, 3] as const).find(code => code === error.exitCode) ?? 1
  return new UnderstudyError(String(error.code), String(error.message), { exitCode })
}

/** Reads a request body field by field; what is missing or of another type is refused by name. */
export class Fields {
  constructor(private readonly body: Record<string, unknown>) {}

  string(name: string): string {
    const value = this.body[name]
    if (typeof value !== 'string') throw new UsageError(`request: '${name}' must be a string`)
    if (value === '') throw new UsageError(`request: '${name}' is empty`)
    if (value.length > 4096) throw new UsageError(`request: '${name}' is longer than 4096 characters`)
    return value
  }

  /** '' when it is missing. */
  text(name: string): string {
    return this.body[name] === undefined || this.body[name] === '' ? '' : this.string(name)
  }

  flag(name: string): boolean {
    const value = this.body[name] ?? false
    if (typeof value !== 'boolean') throw new UsageError(`request: '${name}' must be true or false`)
    return value
  }

  /** Undefined: it is missing. */
  table(name: string): Fields | null | undefined {
    const value = this.body[name]
    if (value === undefined || value === null) return value
    if (typeof value !== 'object' || Array.isArray(value)) throw new UsageError(`request: '${name}' must be an object`)
    return new Fields(value as Record<string, unknown>)
  }

  strings(name: string): string[] {
    const value = this.body[name]
    if (!Array.isArray(value) || !value.every(one => typeof one === 'string'))
      throw new UsageError(`request: '${name}' must be a list of strings`)
    return value
  }

  count(name: string, least = 0, most = Number.MAX_SAFE_INTEGER): number {
    const value = this.body[name]
    if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most)
      throw new UsageError(`request: '${name}' must be a whole number from ${least} to ${most}`)
    return value
  }

  limit(name: string): number | null {
    const value = this.body[name] ?? null
    if (value === null) return null
    if (typeof value !== 'number' || !(value >= 0 && value <= 0x7fffffff))
      throw new UsageError(`request: '${name}' must be milliseconds`)
    return value
  }

  oneOf<T extends string>(name: string, allowed: readonly T[]): T {
    const value = this.string(name)
    const found = allowed.find(word => word === value)
    if (found === undefined)
      throw new UsageError(`request: '${name}' must be one of ${allowed.join(', ')}, not '${value}'`)
    return found
  }
}
