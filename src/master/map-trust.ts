/**
 * Whether the next start may believe the dirty maps after a crash: `live` in the group's file (group-file.ts).
 *
 *   distrust()  before the maps stop being kept, or hold for another copy: on disk when it returns
 *   complete()  the engine makes the maps whole, then the file says for which copy they hold
 *
 * A map that could not be written is filled again every few seconds. Guarantees: `live` is never on disk while a change
 * may be missing from a map that would be believed (the engine removes a map that it cannot write).
 */
import type { Clock } from '../core/clock.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { Addon } from '../native/binding.js'
import type { KnownCopy } from './attach-decision.js'
import type { GroupRecord } from './group-file.js'

export interface MapTrustOptions {
  addon: Pick<Addon, 'fillMap'>
  group: number
  volumes: { uuid: string; device: string }[]
  record: GroupRecord
  save: () => void
  clock: Clock
  log: Logger
}

const retryMs = 5_000
/** One for each start in which the copy was met and nothing of it became durable. */
const positionsMax = 64

export class MapTrust {
  readonly #options: MapTrustOptions
  /** Counts what makes an answer of the engine come too late. */
  #epoch = 0
  #cancelRetry: () => void = () => undefined
  #closed = false

  constructor(options: MapTrustOptions) {
    this.#options = options
  }

  distrust(): void {
    const { record, save } = this.#options
    this.#epoch++
    this.#cancelRetry()
    if (record.live === undefined) return
    delete record.live
    save()
  }

  /** The copy may stand at one position more, for which the maps hold as well. */
  follow(known: KnownCopy): void {
    const { record, save, volumes } = this.#options
    if (record.live === undefined) return
    if (known.positions.length > positionsMax) {
      this.distrust()
      return
    }
    record.live = { known, volumes }
    save()
  }

  /** Again and again until it works, or until the next distrust(). */
  async complete(known: () => KnownCopy | undefined): Promise<void> {
    const { addon, group, record, save, volumes, log, clock } = this.#options
    this.#cancelRetry()
    const epoch = ++this.#epoch
    try {
      await addon.fillMap(group)
      const copy = known()
      if (epoch !== this.#epoch || this.#closed || copy === undefined) return
      record.live = { known: copy, volumes }
      save()
    } catch (error) {
      if (epoch !== this.#epoch || this.#closed) return
      log.warn(`the dirty map is in memory only (${describe(error)}): a crash now means that everything is compared`)
      this.#cancelRetry = clock.after(retryMs, () => void this.complete(known))
    }
  }

  /** The engine has given a map up and removed its file. */
  failed(message: string, known: () => KnownCopy | undefined): void {
    const { record, log, clock } = this.#options
    const was = record.live !== undefined
    log.error(`${message}; until it can be written a crash means that everything is compared`)
    try {
      this.distrust()
    } catch (error) {
      log.error(describe(error)) // the map itself is gone, which says the same
    }
    if (was) this.#cancelRetry = clock.after(retryMs, () => void this.complete(known))
  }

  close(): void {
    this.#closed = true
    this.#cancelRetry()
  }
}
