/**
 * Residency: which images of the standby are kept in the kernel's memory (--cache-size), and what of each is there now.
 *
 * An image is kept by locking the page cache of its file, so that there is one copy, which replay writes to (docs/recovery.md
 * says why). lru-cache has the order of their use; the least recently used ones give way, except
 *   held    a machine runs on it (hold()), or it was promoted and is served
 *   dirty   replay has written to it, or is about to, within the last seconds
 * Guarantees: never more than `cacheBytes` is locked; an image comes as a whole, or not at all: the room for all of it is its
 * own before its first page is locked. It grows with its data as long as there is room, and then
 * goes, or stays in part if it was used; only one that was used since it was last here has others give way; less than memory.ts leaves to
 * others is not taken, and is given back when others need it. Nothing is on disk: a process that dies has let go of all.
 * Nobody waits for it: what is not in memory is read from the disk.
 */
import { LRUCache } from 'lru-cache'

import type { Clock } from '../core/clock.js'
import { describe, errnoOf } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { ResidencyStatus } from '../core/status-types.js'
import { formatSize } from '../core/units.js'
import type { CacheFigures } from '../metrics/source.js'
import type { Addon, PagesSurvey } from '../native/binding.js'
import type { StandbyImage } from '../standby/image.js'
import { type Memory, readMemory, reserveBytes } from './memory.js'

export interface ResidencyDeps {
  addon: Pick<Addon, 'openPages' | 'surveyPages' | 'lockPages' | 'dropPages' | 'closePages'>
  clock: Clock
  log: Logger
  /** 0: nothing is kept; what is in memory is counted all the same. */
  cacheBytes: number
  images: () => readonly StandbyImage[]
  memory?: () => Memory
}

interface Entry {
  image: StandbyImage
  pages: number
  survey: PagesSurvey
  /** Of the cache, what is its own: of that, no more than `survey.lockedBytes` is locked yet. 0: it is not to be there. */
  admittedBytes: number
  /** Asked for since it was last in memory: others give way to it. */
  wanted: boolean
  applied: bigint
  changedMs: number
  /** Why it is not there as a whole; '' when it is, or need not be. */
  problem: string
  isTold: boolean
  /** After the kernel refused: not before. */
  retryMs: number
}

const tickMs = 1000
/** Longer than the applier takes to write out what it has written. */
const dirtyMs = 3000
const retryMs = 60_000
/** One after the other, so that the news in between is heard: a few tens of milliseconds of a disk each. */
const stepBytes = 32 << 20
/** How often is looked what is in memory; at most a fiftieth of the time is spent with it. */
const surveyMs = { kept: 5_000, counted: 30_000 }
const surveyShare = 50
/** lru-cache's own maximum, which is far beyond what a host has: an image that falls out is opened again. */
const imagesMax = 16_384

export class Residency {
  readonly #order: LRUCache<string, Entry>
  readonly #holds = new Map<string, number>()
  readonly #failed = new Set<string>()
  readonly #memory: () => Memory
  readonly #cancel: () => void
  #evictions = 0
  #surveyMs = 0
  /** A pass is under way; asked: something has happened that it does not know of. */
  #passing: Promise<void> | undefined
  #asked = false
  #stopped = false

  constructor(private readonly deps: ResidencyDeps) {
    this.#memory = deps.memory ?? readMemory
    this.#order = new LRUCache({ max: imagesMax, dispose: ({ pages }) => deps.addon.closePages(pages) })
    this.#cancel = deps.clock.every(tickMs, () => this.#pass())
  }

  /** Somebody is about to read it: the newest from here on, and in memory as soon as may be. */
  use(volume: string): void {
    const entry = this.#order.get(volume)
    if (entry !== undefined) Object.assign(entry, { wanted: true, retryMs: 0 })
    this.#pass()
  }

  /** As use(); and it never gives way until the returned function is called. */
  hold(volume: string): () => void {
    this.#holds.set(volume, (this.#holds.get(volume) ?? 0) + 1)
    this.use(volume)
    let held = true
    return () => {
      if (!held) return
      held = false
      const left = (this.#holds.get(volume) ?? 1) - 1
      if (left > 0) this.#holds.set(volume, left)
      else this.#holds.delete(volume)
    }
  }

  /** As of the last few seconds. Undefined: no image of this store, or not looked at yet. */
  of(volume: string): ResidencyStatus | undefined {
    const entry = this.#order.peek(volume)
    if (entry === undefined) return undefined
    const { dataBytes, residentBytes, lockedBytes } = entry.survey
    return { dataBytes, residentBytes, lockedBytes, held: this.#isHeld(entry), problem: entry.problem }
  }

  figures(): CacheFigures {
    const kept = [...this.#order.values()]
    const missing = kept
      .filter(({ problem }) => problem !== '')
      .map(({ survey }) => survey.dataBytes - survey.lockedBytes)
    return {
      sizeBytes: this.deps.cacheBytes,
      lockedBytes: this.#lockedBytes(),
      evictions: this.#evictions,
      missingBytes: missing.reduce((sum, bytes) => sum + Math.max(0, bytes), 0),
    }
  }

  /** Resolves when the pass that is under way has ended; for the images' own close nobody waits. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#cancel()
    this.#order.clear()
    await this.#passing
  }

  #pass(): void {
    if (this.#stopped) return
    this.#asked = true
    this.#passing ??= this.#passes().finally(() => (this.#passing = undefined))
  }

  async #passes(): Promise<void> {
    while (this.#asked && !this.#stopped) {
      this.#asked = false
      try {
        await this.#once()
      } catch (error) {
        if (!this.#stopped) this.deps.log.error(`${describe(error)}`)
      }
    }
  }

  async #once(): Promise<void> {
    const fresh = this.#follow()
    const now = this.deps.clock.monotonicMs()
    const isDue = now >= this.#surveyMs
    for (const entry of isDue ? this.#entries() : fresh) await this.#look(entry)
    const took = this.deps.clock.monotonicMs() - now
    if (isDue)
      this.#surveyMs = now + Math.max(took * surveyShare, this.deps.cacheBytes > 0 ? surveyMs.kept : surveyMs.counted)
    if (this.deps.cacheBytes === 0) return
    await this.#giveBack()
    // What has been begun is completed before anything comes in that nobody has asked for.
    const isBegun = (entry: Entry): boolean => entry.wanted || entry.admittedBytes > 0
    const all = this.#entries()
    for (const entry of [...all.filter(isBegun), ...all.filter(entry => !isBegun(entry))]) {
      if (this.#asked) return // somebody has asked for one: the newest first
      await this.#fill(entry)
    }
  }

  /** Most recently used first. */
  #entries(): Entry[] {
    return this.#stopped ? [] : [...this.#order.values()]
  }

  /** Brings what is open in line with what the standby has; returns what is new. */
  #follow(): Entry[] {
    const { addon, clock, log } = this.deps
    const images = new Map(this.deps.images().map(image => [image.volume, image]))
    for (const [volume, { image }] of [...this.#order.entries()])
      if (images.get(volume)?.path !== image.path) this.#order.delete(volume)
    const fresh: Entry[] = []
    for (const [volume, image] of images) {
      const known = this.#order.peek(volume)
      if (known !== undefined) {
        known.image = image
        this.#notice(known)
        continue
      }
      try {
        const pages = addon.openPages(image.path)
        const survey = { dataBytes: 0, residentBytes: 0, lockedBytes: 0 }
        const changedMs = clock.monotonicMs()
        const wanted = this.#holds.has(volume)
        const entry = {
          image,
          pages,
          survey,
          ...{ admittedBytes: 0, wanted },
          applied: image.applied,
          changedMs,
          problem: '',
          isTold: false,
          retryMs: 0,
        }
        this.#order.set(volume, entry)
        fresh.push(entry)
        this.#failed.delete(volume)
      } catch (error) {
        // Once: it is tried again with every tick. An image that is not made yet is no news.
        if (!this.#failed.has(volume) && errnoOf(error) !== 'ENOENT') log.warn(`${describe(error)}`)
        this.#failed.add(volume)
      }
    }
    return fresh
  }

  #notice(entry: Entry): void {
    const { applied } = entry.image
    if (applied === entry.applied) return
    entry.applied = applied
    entry.changedMs = this.deps.clock.monotonicMs()
  }

  async #look(entry: Entry): Promise<void> {
    try {
      entry.survey = await this.deps.addon.surveyPages(entry.pages)
      entry.admittedBytes = Math.min(entry.admittedBytes, entry.survey.dataBytes) // what has become a hole is let go of
      if (entry.survey.lockedBytes >= entry.survey.dataBytes) Object.assign(entry, { problem: '', isTold: false })
    } catch (error) {
      entry.problem = describe(error)
    }
  }

  async #fill(entry: Entry): Promise<void> {
    const { image } = entry
    if (this.#missing(entry) <= 0 || !image.isUsable || this.deps.clock.monotonicMs() < entry.retryMs) return
    const isNew = entry.admittedBytes === 0
    // A copy grows until it is usable, and what was seen of it last may be much less than it holds.
    if (isNew && this.#whyNot(entry) === '') await this.#look(entry)
    const problem = isNew ? this.#whyNot(entry) : ''
    if (problem !== '') return this.#refuse(entry, problem)
    for (const victim of this.#victims(entry)) {
      if (this.#room() >= entry.survey.dataBytes - entry.admittedBytes) break
      await this.#evict(victim, `for volume ${image.volume}`)
    }
    const growth = Math.max(0, entry.survey.dataBytes - entry.admittedBytes)
    if (growth > this.#room()) {
      if (isNew) return // One of the victims was used, or written to, in the meantime.
      if (!entry.wanted) await this.#evict(entry, 'because it has outgrown its room')
      if (entry.admittedBytes === 0) return
    }
    entry.admittedBytes += Math.min(growth, Math.max(0, this.#room()))
    await this.#lock(entry, entry.admittedBytes)
  }

  /** Why it cannot come as a whole; '' when it can. */
  #whyNot(entry: Entry): string {
    const { residentBytes, lockedBytes } = entry.survey
    const missing = this.#missing(entry)
    const gain = this.#victims(entry).reduce((sum, victim) => sum + victim.admittedBytes, 0)
    if (missing > this.#room() + gain) return this.#noRoom(missing, this.#room(), gain)
    const need = missing - Math.max(0, residentBytes - lockedBytes)
    const memory = this.#memory()
    // What gives way is available then.
    const available = memory.availableBytes - reserveBytes(memory) + gain
    if (need <= available) return ''
    const have = Math.max(0, available)
    return `${formatSize(need)} of memory are needed and ${formatSize(have)} can be had, ${formatSize(need - have)} are missing`
  }

  #missing({ survey }: Entry): number {
    return survey.dataBytes - survey.lockedBytes
  }

  /** What nobody has been promised. */
  #room(): number {
    let bytes = this.deps.cacheBytes
    for (const { admittedBytes } of this.#order.values()) bytes -= admittedBytes
    return bytes
  }

  async #lock(entry: Entry, lockedMax: number): Promise<void> {
    const { addon, clock, log } = this.deps
    const { volume } = entry.image
    try {
      while (entry.survey.lockedBytes < lockedMax && !this.#asked && !this.#stopped) {
        const memory = this.#memory()
        if (memory.availableBytes < reserveBytes(memory))
          return this.#refuse(entry, `the host has ${formatSize(memory.availableBytes)} of memory left`)
        const locked = await addon.lockPages(entry.pages, stepBytes, lockedMax)
        const isStuck = locked <= entry.survey.lockedBytes
        entry.survey = { ...entry.survey, lockedBytes: locked }
        if (isStuck) break
      }
    } catch (error) {
      entry.retryMs = clock.monotonicMs() + retryMs
      if (!this.#stopped) this.#refuse(entry, describe(error))
    }
    if (this.#stopped) return
    await this.#look(entry)
    const { dataBytes, lockedBytes } = entry.survey
    if (lockedBytes >= dataBytes) log.debug(`volume ${volume} is in memory: ${formatSize(lockedBytes)}`)
    else if (lockedMax < dataBytes && entry.problem === '')
      this.#refuse(entry, this.#noRoom(dataBytes - lockedBytes, this.#room(), 0))
  }

  #noRoom(missing: number, room: number, gain: number): string {
    const size = formatSize(this.deps.cacheBytes)
    const have = Math.max(0, room) + gain
    return `${formatSize(missing)} are needed, and of the cache's ${size} ${formatSize(have)} can be had: ${formatSize(missing - have)} are missing (--cache-size)`
  }

  #refuse(entry: Entry, problem: string): void {
    // What was not asked for waits quietly for room.
    if (entry.wanted && !entry.isTold)
      this.deps.log.warn(`volume ${entry.image.volume} is not in memory as a whole: ${problem}`)
    Object.assign(entry, { problem, isTold: entry.wanted })
  }

  /**
   * Who may give way to it, the least recently used first. To one that was asked for: all that were used before it. To one
   * that has outgrown its room: others that have, and were not asked for either, if that makes it whole.
   */
  #victims(entry: Entry): Entry[] {
    const older = this.#older(entry)
    if (entry.wanted) return older
    const partial = entry.admittedBytes === 0 ? [] : older.filter(other => !other.wanted && hasOutgrown(other))
    const gain = partial.reduce((sum, other) => sum + other.admittedBytes, 0)
    return this.#room() + gain < entry.survey.dataBytes - entry.admittedBytes ? [] : partial
  }

  #older(entry: Entry): Entry[] {
    const older: Entry[] = []
    for (const volume of this.#order.rkeys()) {
      const candidate = this.#order.peek(volume)
      if (candidate === entry) break // what was used later stays
      if (candidate !== undefined && this.#mayGo(candidate)) older.push(candidate)
    }
    return older
  }

  #mayGo(entry: Entry): boolean {
    return entry.admittedBytes > 0 && !this.#isHeld(entry) && !this.#isDirty(entry)
  }

  #isHeld({ image }: Entry): boolean {
    return image.isServed || this.#holds.has(image.volume)
  }

  #isDirty(entry: Entry): boolean {
    this.#notice(entry)
    return entry.image.isPending || this.deps.clock.monotonicMs() - entry.changedMs < dirtyMs
  }

  async #evict(entry: Entry, why: string): Promise<void> {
    if (!this.#mayGo(entry)) return // it was used, or written to, in the meantime
    const { lockedBytes } = entry.survey
    entry.wanted = false
    entry.admittedBytes = 0
    await this.deps.addon.dropPages(entry.pages)
    this.#evictions++
    await this.#look(entry)
    this.deps.log.info(`volume ${entry.image.volume} has left the memory ${why}: ${formatSize(lockedBytes)}`)
  }

  /** Others need the memory: one goes with each tick until there is enough. */
  async #giveBack(): Promise<void> {
    const memory = this.#memory()
    if (memory.availableBytes >= reserveBytes(memory) / 2) return
    for (const volume of this.#order.rkeys()) {
      const entry = this.#order.peek(volume)
      if (entry === undefined || !this.#mayGo(entry)) continue
      return this.#evict(entry, `because the host has ${formatSize(memory.availableBytes)} left`)
    }
  }

  #lockedBytes(): number {
    let bytes = 0
    for (const { survey } of this.#order.values()) bytes += survey.lockedBytes
    return bytes
  }
}

const hasOutgrown = ({ survey, admittedBytes }: Entry): boolean => survey.dataBytes > admittedBytes
