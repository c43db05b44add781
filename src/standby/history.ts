/**
 * The history of a group that is kept on its standby: which moments there are, what people call them, and views of them.
 *
 * Guarantees: a name leads to one moment or to a refusal that says the range; a point is shown only as long as the
 * history has its moment; points of one incarnation are in the order of their positions, whatever clocks said.
 * Does not: keep records (native/replay), or serve NBD (views.ts).
 */
import { join } from 'node:path'

import type { Clock } from '../core/clock.js'
import type { HistoryLimits } from '../core/config-types.js'
import { attempt, errnoOf, NativeError, OperationError } from '../core/errors.js'
import { encodePosition, type Position } from '../core/reigns.js'
import type { HistoryMoment, HistoryStatus } from '../core/status-types.js'
import { formatDuration } from '../core/units.js'
import type { Addon, HistoryState, Moment as NativeMoment, Point } from '../native/binding.js'
import { type Moment, parseMoment } from './moment.js'
import { type HistoryPoint, type PointKind, PointsFile } from './points.js'
import type { TakenViews } from './views.js'

export interface HistoryDeps {
  addon: Pick<Addon, 'replicaHistory' | 'replicaMoments' | 'replicaViewAt' | 'findMoment'>
  clock: Clock
  /** Undefined: none is kept. */
  limits: HistoryLimits | undefined
  /** STORE/.groups/GROUP; it is there before anything is noted. */
  directory: string
  /** Of openReplica(); undefined while it is not open. */
  replica: () => number | undefined
}

/** A stretch of the history, for people and programs. */
export interface HistoryListing {
  from: Point
  to: Point
  bucketNs: bigint
  /** Bytes of records in each of the parts of equal length. */
  writtenBytes: number[]
  /** Oldest first; flushes thinned out. */
  points: HistoryPoint[]
}

export const bucketsMax = 10_000

export class GroupHistory {
  #file: PointsFile | undefined

  constructor(private readonly deps: HistoryDeps) {}

  get isKept(): boolean {
    return this.deps.limits !== undefined
  }

  status(): HistoryStatus | undefined {
    const { limits } = this.deps
    if (limits === undefined) return undefined
    const state = this.#state()
    return {
      ageSecondsMax: limits.ageMs / 1000,
      bytesMax: limits.bytes,
      oldest: state === undefined ? null : momentDocument(state.oldest),
      newest: state === undefined ? null : momentDocument(state.newest),
      bytes: state?.bytes ?? 0,
      savedBytes: state?.savedBytes ?? 0,
      epochs: state?.epochs ?? 0,
      segments: state?.segments ?? 0,
      compressedSegments: state?.compressedSegments ?? 0,
      compressedBytes: state?.compressedBytes ?? 0,
      uncompressedBytes: state?.uncompressedBytes ?? 0,
      pointCount: state === undefined ? 0 : this.#pointCount(state),
    }
  }

  /** What people call `text`, as the engine knows it. Newest: it is not before the newest record there is now. */
  find(action: string, text: string): { moment: NativeMoment; isNewest: boolean } {
    const nowMs = this.deps.clock.wallMs()
    const moment = attempt(action, () => parseMoment(text, nowMs))
    const state = this.#kept(action)
    const { newest } = state
    if (moment.kind === 'label') {
      const point = this.#labelOf(action, moment.label, state)
      const { incarnation, sequence } = point
      return { moment: { incarnation, sequence }, isNewest: isAfter(point, newest) }
    }
    if (moment.kind === 'position') {
      const { incarnation = newest.incarnation, sequence } = moment
      const isNewest = incarnation === newest.incarnation && sequence >= newest.sequence
      return { moment: { incarnation, sequence }, isNewest }
    }
    if (moment.timeNs < newest.timeNs) return { moment: { timeNs: moment.timeNs }, isNewest: false }
    if (moment.timeNs > BigInt(nowMs) * 1_000_000n + skewNs)
      throw new OperationError('NO_MOMENT', `${action}: '${text}' is in the future; ${rangeText(state)}`)
    return { moment: null, isNewest: true }
  }

  /**
   * Views of volumes, by their indexes, all at one position: of the moment that people call `text`; '' is the newest, for
   * which no history need be kept. EAGAIN and ENODATA are left to the caller.
   */
  async views(action: string, text: string, volumes: number[], writable: boolean): Promise<TakenViews> {
    const moment = text === '' ? null : this.find(action, text).moment
    try {
      return await this.deps.addon.replicaViewAt(this.#replica(action), volumes, moment, writable)
    } catch (error) {
      throw this.#noMoment(action, text, error)
    }
  }

  /** The point that people call `text`, of all volumes; all that shows it is there. */
  async locate(action: string, text: string): Promise<Point & { isWithinStep: boolean }> {
    const moment = this.find(action, text).moment ?? this.newest(action)
    try {
      return await this.deps.addon.findMoment(this.#replica(action), moment)
    } catch (error) {
      const failure = this.#noMoment(action, text, error)
      throw failure === error ? new NativeError(action, error) : failure
    }
  }

  #noMoment(action: string, text: string, error: unknown): unknown {
    if (errnoOf(error) !== 'ERANGE') return error
    const what = `${action}: there is no moment '${text}'; ${rangeText(this.#kept(action))}`
    return new OperationError('NO_MOMENT', what, { cause: error })
  }

  /** On stable storage when it returns. */
  note(action: string, kind: PointKind, label: string, position: Position, timeNs: bigint): HistoryPoint {
    this.#kept(action)
    const point = { kind, label, incarnation: position.incarnation, sequence: position.sequence, timeNs }
    this.#points().add(point, other => {
      const state = this.#state()
      return state === undefined || !isBefore(other, state.oldest)
    })
    return point
  }

  /** The newest record, for a point that is made here. */
  newest(action: string): Point {
    return this.#kept(action).newest
  }

  /** '' for from and to: all there is. */
  async list(action: string, from: string, to: string, buckets: number): Promise<HistoryListing> {
    const state = this.#kept(action)
    const [first, last] = [
      from === '' ? state.oldest : this.#border(action, from, state),
      to === '' ? state.newest : this.#border(action, to, state),
    ]
    if (first.timeNs > last.timeNs)
      throw new OperationError(
        'NO_MOMENT',
        `${action}: from ${timeText(first.timeNs)} to ${timeText(last.timeNs)} there is nothing; ${rangeText(state)}`,
      )
    const { addon } = this.deps
    try {
      const found = await addon.replicaMoments(this.#replica(action), first.timeNs, last.timeNs + 1n, buckets)
      // A mark of an idle volume is younger than its newest record.
      const isFrom = (timeNs: bigint): boolean => first === state.oldest || timeNs >= first.timeNs
      const isUntil = (timeNs: bigint): boolean => last === state.newest || timeNs <= last.timeNs
      const labelled = this.#labelled(state).filter(({ timeNs }) => isFrom(timeNs) && isUntil(timeNs))
      return {
        from: first,
        to: last,
        bucketNs: (last.timeNs + 1n - first.timeNs) / BigInt(buckets),
        writtenBytes: found.writtenBytes,
        points: merged(labelled, found.flushes),
      }
    } catch (error) {
      throw new NativeError(action, error)
    }
  }

  /** A moment as the end of a stretch; what lies outside of the history is cut off. */
  #border(action: string, text: string, state: HistoryState): Point {
    const moment = attempt(action, () => parseMoment(text, this.deps.clock.wallMs()))
    const timeNs = this.#timeOf(action, moment, state)
    if (timeNs <= state.oldest.timeNs) return state.oldest
    if (timeNs >= state.newest.timeNs) return state.newest
    return { incarnation: 0n, sequence: 0n, timeNs }
  }

  #timeOf(action: string, moment: Moment, state: HistoryState): bigint {
    if (moment.kind === 'time') return moment.timeNs
    if (moment.kind === 'label') return this.#labelOf(action, moment.label, state).timeNs
    const { incarnation = state.newest.incarnation, sequence } = moment
    const known = [state.oldest, state.newest, ...this.#labelled(state)]
    const point = known.find(one => one.incarnation === incarnation && one.sequence === sequence)
    if (point !== undefined) return point.timeNs
    throw new OperationError('NO_MOMENT', `${action}: of a position the time is not known here; give a time or a label`)
  }

  #labelOf(action: string, label: string, state: HistoryState): HistoryPoint {
    const named = this.#points().points.filter(point => point.label === label)
    const found = named.findLast(point => !isBefore(point, state.oldest))
    if (found !== undefined) return found
    const last = named.at(-1)
    const what =
      last === undefined
        ? `no point is called '${label}', and it is neither a position nor a time`
        : `'${label}' (${pointText(last)}) is not kept any more`
    throw new OperationError('NO_MOMENT', `${action}: ${what}; ${rangeText(state)}`)
  }

  #labelled({ oldest, newest }: HistoryState): HistoryPoint[] {
    return this.#points().points.filter(point => !isBefore(point, oldest) && !isAfter(point, newest))
  }

  /** A file that cannot be read is told to whoever asks for a point; the status is about more. */
  #pointCount(state: HistoryState): number {
    try {
      return this.#labelled(state).length
    } catch {
      return 0
    }
  }

  #points(): PointsFile {
    return (this.#file ??= new PointsFile(join(this.deps.directory, 'points')))
  }

  #kept(action: string): HistoryState {
    if (!this.isKept)
      throw new OperationError(
        'NO_HISTORY',
        `${action}: no history is kept on this standby; start it with --history 24h (history = "24h" in [standby])`,
      )
    const state = this.#state()
    if (state !== undefined) return state
    throw new OperationError(
      'NO_HISTORY',
      `${action}: there is no history yet; it begins when the first copy is complete, and anew by itself when it was given up (the log says why)`,
    )
  }

  #replica(action: string): number {
    const replica = this.deps.replica()
    if (replica === undefined) throw new OperationError('NOT_OPEN', `${action}: the standby's copy is not open`)
    return replica
  }

  #state(): HistoryState | undefined {
    const replica = this.deps.replica()
    if (replica === undefined || !this.isKept) return undefined
    return this.deps.addon.replicaHistory(replica) ?? undefined
  }
}

/** The master's clock, which times are of, may be ahead of this host's. */
const skewNs = 60_000_000_000n

/** Positions decide where they can; the times of other incarnations were written by one clock. */
const isBefore = (point: Point, oldest: Point): boolean =>
  point.incarnation === oldest.incarnation ? point.sequence < oldest.sequence : point.timeNs < oldest.timeNs
const isAfter = (point: Point, newest: Point): boolean =>
  point.incarnation === newest.incarnation ? point.sequence > newest.sequence : point.timeNs > newest.timeNs

/** Labelled points behind the last flush that they include, or that is older where incarnations differ. */
function merged(labelled: readonly HistoryPoint[], flushes: readonly Point[]): HistoryPoint[] {
  const all: HistoryPoint[] = flushes.map(point => ({ ...point, kind: 'flush', label: '' }))
  for (const point of labelled) {
    const before = all.findLastIndex(other =>
      other.incarnation === point.incarnation ? other.sequence <= point.sequence : other.timeNs <= point.timeNs,
    )
    all.splice(before + 1, 0, point)
  }
  return all
}

export function momentDocument({ incarnation, sequence, timeNs }: Point): HistoryMoment {
  return { time: isoTime(timeNs), ...encodePosition({ incarnation, sequence }) }
}

/** "2026-11-29T08:15:00.123456789Z" */
export function isoTime(timeNs: bigint): string {
  const seconds = new Date(Number(timeNs / 1_000_000_000n) * 1000).toISOString().slice(0, 19)
  return `${seconds}.${String(timeNs % 1_000_000_000n).padStart(9, '0')}Z`
}

/** "2026-11-29T08:15:00.123Z (17:4711)" */
export const momentText = ({ incarnation, sequence, timeNs }: Point): string =>
  `${timeText(timeNs)} (${incarnation}:${sequence})`
const timeText = (timeNs: bigint): string => new Date(Number(timeNs / 1_000_000n)).toISOString()
const pointText = ({ incarnation, sequence, timeNs }: Point): string =>
  `${timeText(timeNs)}, ${incarnation}:${sequence}`

/** What it says of the oldest can be asked for: a time that is cut off would be before it. */
function rangeText({ oldest, newest }: HistoryState): string {
  const span = formatDuration(Number((newest.timeNs - oldest.timeNs) / 1_000_000n))
  const first = { ...oldest, timeNs: oldest.timeNs + 999_999n }
  return `the history goes from ${momentText(first)} to ${momentText(newest)}, ${span}`
}
