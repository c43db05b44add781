/**
 * What the filters of a group leave out: in the engine, in the group's file, and as the standby has been told.
 *
 * Guarantees: what is left out is in the group's file before it comes into force; the standby hears of it after its copy
 * follows it.
 * Does not: find out what is to be left out (filter/follow.ts, one for each volume).
 */
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { CompiledFilter, Installed, RangeFollower } from '../filter/follow.js'
import { fromTable, sameTable } from '../filter/ranges.js'
import type { Addon } from '../native/binding.js'
import { encodeLeftOut, type Hello } from '../transport/messages.js'
import type { GroupRecord } from './group-file.js'
import { isMuchMore, mayTake, narrow, widen } from './left-out-record.js'
import type { OpenVolume } from './open-volumes.js'

interface Parts {
  addon: Addon
  log: Logger
  /** The engine's. */
  group: number
  volumes: readonly OpenVolume[]
  record: GroupRecord
  save: () => void
  /** The standby is to give back first what this host has lost. */
  isOwed: () => boolean
  isClosing: () => boolean
  isAttached: () => boolean
  /** The maps on disk do not hold any more; and, once they do again. */
  distrust: () => void
  complete: () => void
  hello: () => Hello
  send: (message: object) => void
  /** How many of its writes a volume has had. */
  writesOf: (volume: OpenVolume) => bigint
}

export const inForce: Installed = { refused: -1, why: '' }

export class LeftOut {
  readonly #writesSeen = new Map<OpenVolume, bigint>()
  /** How often. */
  #rangesSet = 0
  #told = ''

  constructor(private readonly parts: Parts) {}

  /** Since it was asked last. */
  isWritten(index: number): boolean {
    const volume = this.parts.volumes[index]
    if (volume === undefined) return false
    const written = this.parts.writesOf(volume)
    const before = this.#writesSeen.get(volume)
    this.#writesSeen.set(volume, written)
    return written !== before
  }

  watchRanges(index: number, watched: BigUint64Array): Promise<number> {
    const volume = this.parts.volumes[index]
    return volume === undefined ? Promise.resolve(0) : this.parts.addon.watchRanges(volume.handle, watched)
  }

  /** `mark`: of watchRanges; 0: nothing was written to the volume yet. */
  async setRanges(index: number, compiled: CompiledFilter, mark = 0): Promise<Installed> {
    const { addon, log, volumes, record, save } = this.parts
    const volume = volumes[index]
    if (volume === undefined) return inForce
    const { uuid } = volume.identity
    const { byRanges, watched, files } = compiled
    this.#rangesSet++
    if (this.parts.isOwed() && record.fixed?.[uuid] !== undefined && !mayTake(record, uuid, compiled)) {
      files?.forget()
      log.warn(
        `volume ${volume.config.name}: its rules for files, or its file systems, are not those of before: what was left out stays this side's until everything is given back`,
      )
      const kept = BigUint64Array.from(record.excluded[uuid] ?? [])
      return addon.setRanges(volume.handle, kept, watched, mark, 0)
    }
    if (files !== undefined || record.fixed?.[uuid] !== undefined) {
      if (widen(record, uuid, compiled)) save()
      if (this.parts.isAttached()) this.tell()
      return addon.setRanges(volume.handle, byRanges, watched, mark, files?.watches ?? 0)
    }
    const trusted = record.live !== undefined
    this.parts.distrust()
    const installed = addon.setRanges(volume.handle, byRanges, watched, mark, 0)
    record.excluded[uuid] = [...byRanges]
    save()
    if (trusted) this.parts.complete() // what entered is dirty, and is stored first
    return installed
  }

  /** Where files are left out the group's file says more than is; with the maps whole it may say what is. */
  async narrow(): Promise<void> {
    const { addon, group, record, save } = this.parts
    for (const volume of this.parts.volumes) {
      const { uuid } = volume.identity
      if (this.parts.isOwed() || record.fixed?.[uuid] === undefined) continue
      const set = this.#rangesSet
      const left = fromTable(await addon.leftOut(volume.handle))
      if (!isMuchMore(record, uuid, left)) continue
      await addon.fillMap(group)
      if (set !== this.#rangesSet || this.parts.isClosing()) return
      narrow(record, uuid, left, volume.follower.current)
      save()
    }
  }

  /** What was read before the group was opened comes into force. */
  follow(): void {
    for (const [index, volume] of this.parts.volumes.entries()) {
      const { excludedBefore, ranges, follower } = volume
      if (follower.hasFileRules) {
        if (ranges.files === undefined) follower.watched()
        else void this.#setFirst(index, ranges, follower)
        continue
      }
      if (excludedBefore === undefined || sameTable(excludedBefore, ranges.excluded)) continue
      this.parts.log.info(`volume ${volume.config.name}: what is replicated has changed since the last start`)
      void this.#setFirst(index, ranges, follower)
    }
  }

  async #setFirst(index: number, ranges: CompiledFilter, follower: RangeFollower): Promise<void> {
    try {
      const { refused } = await this.setRanges(index, ranges)
      if (refused < 0) return
    } catch (error) {
      this.parts.log.error(describe(error))
    }
    follower.watched()
  }

  /** A hello that says it goes to the standby. */
  saidInHello(): void {
    this.#told = this.#now()
  }

  /**
   * A standby that is promoted leaves out what its copy does not have. So it hears of a filter, or a partition table, that
   * is not what the hello said, once the copy follows it.
   */
  tell(): void {
    const leftOut = this.#now()
    if (leftOut === this.#told) return
    this.#told = leftOut
    this.parts.send(JSON.parse(leftOut) as object)
  }

  #now(): string {
    return JSON.stringify(encodeLeftOut(this.parts.hello().volumes))
  }
}
