/**
 * A group's copy in the engine: open or not, and what keeps it from being open.
 *
 * Does not: know of sessions, views or promotions (standby-group.ts, promoting.ts).
 */
import type { HistoryLimits } from '../core/config-types.js'
import { describe, errnoOf, NativeError, OperationError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Position } from '../core/reigns.js'
import type { Addon } from '../native/binding.js'
import type { CounterReader, Counters } from '../native/counters.js'
import { howToRemove } from './hello-judgement.js'
import type { ReplicaRecord } from './replica-file.js'
import { isUsable, phase } from './standby-status.js'
import type { Store } from './store.js'
import { unusable, viewWaitMs } from './views.js'

interface ReplicaDeps {
  addon: Addon
  counters: CounterReader
  log: Logger
  store: Store
  /** StandbyConfig.stagingBytes, as it is now. */
  stagingBytes: () => number
  /** StandbyConfig.history. */
  keptHistory: HistoryLimits | undefined
}

interface OpenReplica {
  handle: number
  counterPage: number
  /** Positions of its page: what is looked at of one that has nothing to do. */
  received: () => bigint
  applied: () => bigint
}

export class Replica {
  #open: OpenReplica | undefined
  /** For people: why it is not open, or what its disk last said; '' while there is nothing. */
  error = ''

  constructor(
    private readonly record: ReplicaRecord,
    private readonly deps: ReplicaDeps,
  ) {}

  /** Undefined while it is not open. */
  get handle(): number | undefined {
    return this.#open?.handle
  }

  /** openReplica().counterPage; undefined while it is not open. */
  get page(): number | undefined {
    return this.#open?.counterPage
  }

  /** Throws when it is not open. */
  opened(): number {
    if (this.#open === undefined)
      throw new OperationError('NOT_OPEN', `group ${this.record.group}: the standby's copy is not open: ${this.error}`)
    return this.#open.handle
  }

  /** `isHeld`: nothing of its history goes, whatever is kept of others. */
  open(isHeld: boolean): void {
    const { addon, store } = this.deps
    try {
      const opened = addon.openReplica({
        directory: store.groupDirectory(this.record.group),
        stagingBytesMax: this.deps.stagingBytes(),
        ...(isHeld ? heldHistory : historyOptions(this.deps.keptHistory)),
        volumes: this.record.volumes.map(volume => ({
          name: volume.name,
          imagePath: store.imagePath(volume),
          sizeBytes: volume.sizeBytes,
          create: !this.record.imagesMade && volume.device === undefined && this.record.origin === undefined,
        })),
      })
      const word = (name: string): (() => bigint) => this.deps.counters.word('replica', opened.counterPage, name)
      this.#open = {
        ...{ handle: opened.replica, counterPage: opened.counterPage },
        ...{ received: word('received_sequence'), applied: word('applied_sequence') },
      }
      this.error = ''
    } catch (error) {
      const failure = this.#failure(error)
      this.error = failure.message
      throw failure
    }
    if (this.record.imagesMade) return
    this.record.imagesMade = true
    store.save(this.record)
  }

  /** A file of the copy that is not there, or not what it was, is named, with the way to begin anew. */
  #failure(error: unknown): NativeError | OperationError {
    const action = `open the standby's copy of group ${this.record.group}`
    const errno = errnoOf(error) ?? ''
    if (!['ENOENT', 'EINVAL', 'EBADMSG', 'EEXIST'].includes(errno)) return new NativeError(action, error)
    const what = error instanceof Error ? error.message : errno
    const anew = howToRemove(this.record, this.deps.store)
    return new OperationError(errno, `${action}: ${what}; put back what was there, or ${anew}`, { cause: error })
  }

  close(): void {
    const handle = this.#open?.handle
    this.#open = undefined
    if (handle !== undefined) this.deps.addon.closeReplica(handle)
  }

  /** {} while it is not open. */
  counters(): Counters {
    return this.#open === undefined ? {} : this.deps.counters.read('replica', this.#open.counterPage)
  }

  /** Of the last record that is in the images. */
  applied(): bigint {
    return this.#open?.applied() ?? 0n
  }

  /** Something was received that is not in the images. */
  get isBehind(): boolean {
    return this.#open !== undefined && this.#open.received() !== this.#open.applied()
  }

  get isUsable(): boolean {
    return isUsable(this.counters())
  }

  /**
   * The images read as zeroes everywhere. A damaged log leaves no position either, but images that hold something: then
   * the phase is not fresh, and the master must compare.
   */
  get isFresh(): boolean {
    if (this.record.origin !== undefined) return false
    return this.counters()['phase'] === phase.fresh && this.record.volumes.every(({ device }) => device === undefined)
  }

  /** The image is what this host's own reign left, and no record of another has come yet. */
  get isUntouchedOrigin(): boolean {
    return this.record.origin !== undefined && (this.counters()['incarnation'] ?? 0n) === 0n
  }

  /** Where the images are while they are a cut beside which no step is collected. */
  settledPosition(): Position | undefined {
    const counters = this.counters()
    return counters['phase'] === phase.cut ? positionOf(counters, 'applied_sequence') : undefined
  }

  /** Once the first step is complete, what the image was before is over, and it is a cut of the master's history. */
  noteWhole(): void {
    const next = this.record.origin?.next
    if (next === undefined || !this.isUsable) return
    delete this.record.origin
    Object.assign(this.record, next)
    this.deps.store.save(this.record)
  }

  refuseUnusable(action: string): void {
    if (this.#open === undefined)
      throw new OperationError('NOT_OPEN', `${action}: the standby's copy is not open: ${this.error}`)
    if (!this.isUsable) throw unusable(action)
  }

  /** What was acknowledged before is to be seen, also when the applier is behind (a master that has just died). */
  async catchUp(action: string): Promise<void> {
    this.refuseUnusable(action)
    try {
      await this.deps.addon.catchUpReplica(this.opened(), viewWaitMs)
    } catch (error) {
      this.deps.log.warn(`${action}: it shows less than was received: ${describe(error)}`)
    }
  }

  /** False: not everything could be applied. */
  async drain(drainMs: number): Promise<boolean> {
    try {
      await this.deps.addon.drainReplica(this.opened(), drainMs)
      return true
    } catch (error) {
      this.deps.log.warn(
        `group ${this.record.group}: not everything could be applied (${describe(error)}); the rest stays in the log for the next start`,
      )
      return false
    }
  }

  /** A promotion is near: what it reads and writes comes before replay, for a second; false: it is not. */
  standAside(isAside: boolean): void {
    if (this.#open !== undefined) this.deps.addon.standAside(this.#open.handle, isAside)
  }

  /** Until it is false nothing of the history expires. */
  holdHistory(isHeld: boolean): void {
    if (this.#open !== undefined) this.deps.addon.holdHistory(this.#open.handle, isHeld)
  }

  stagingChanged(): void {
    if (this.#open !== undefined) this.deps.addon.setStagingMax(this.#open.handle, this.deps.stagingBytes())
  }

  /** addon.leaseAgeMs(); -1 while it is not open. */
  leaseAgeMs(): number {
    return this.#open === undefined ? -1 : this.deps.addon.leaseAgeMs(this.#open.handle)
  }

  /** The step that is being collected goes straight into the images, which are no cut before it is complete. */
  giveUpCut(): void {
    const handle = this.opened()
    try {
      this.deps.addon.giveUpCut(handle)
    } catch (error) {
      if (errnoOf(error) !== 'EALREADY') throw new NativeError(`invalidate group ${this.record.group}`, error)
      throw new OperationError(
        'NOT_STAGING',
        `invalidate --in-place: no step is being collected for group ${this.record.group}, so nothing is in need of it`,
      )
    }
    this.deps.log.warn(
      `group ${this.record.group}: the cut was given up by the operator; the copy is not usable before the step is complete`,
    )
  }
}

export const positionOf = (counters: Counters, sequence: 'applied_sequence' | 'durable_sequence'): Position => ({
  incarnation: counters['incarnation'] ?? 0n,
  sequence: counters[sequence] ?? 0n,
})

/** What there is stays as it is, whatever is kept of others. */
const heldHistory = { historyBytesMax: Number.MAX_SAFE_INTEGER, holdHistory: true }

function historyOptions(limits: HistoryLimits | undefined): { historyAgeMs?: number; historyBytesMax?: number } {
  return limits === undefined ? {} : { historyAgeMs: limits.ageMs, historyBytesMax: limits.bytes }
}
