/**
 * Residency: which images of the standby are kept in the kernel's memory (--cache-size), and what of each is there now.
 *
 * An image is kept by locking the page cache of its file, so that there is one copy, which replay writes to (docs/recovery.md
 * says why). lru-cache has the order of their use; the least recently used ones give way, except
 *   held    a machine runs on it (hold()), or it was promoted and is served
 *   dirty   replay has written to it, or is about to, within the last seconds
 * Guarantees: never more than `cacheBytes` is locked; an image comes as a whole, or not at all, and grows with its data as
 * long as there is room; only one that was used since it was last here has others give way; less than memory.ts leaves to
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
    const all = now >= this.#surveyMs
    for (const entry of all ? this.#entries() : fresh) await this.#look(entry)
    const took = this.deps.clock.monotonicMs() - now
    if (all)
      this.#surveyMs = now + Math.max(took * surveyShare, this.deps.cacheBytes > 0 ? surveyMs.kept : surveyMs.counted)
    if (this.deps.cacheBytes === 0) return
    await this.#giveBack()
    for (const entry of this.#entries()) {
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
          wanted,
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
      if (entry.survey.lockedBytes >= entry.survey.dataBytes) Object.assign(entry, { problem: '', isTold: false })
    } catch (error) {
      entry.problem = describe(error)
    }
  }

  async #fill(entry: Entry): Promise<void> {
    const { cacheBytes, clock } = this.deps
    const { survey, image } = entry
    const missing = survey.dataBytes - survey.lockedBytes
    if (missing <= 0 || !image.isUsable || clock.monotonicMs() < entry.retryMs) return
    const isPartial = survey.lockedBytes > 0
    const victims = entry.wanted ? this.#victims(entry) : []
    const room = (): number => cacheBytes - this.#lockedBytes()
    const gain = victims.reduce((sum, victim) => sum + victim.survey.lockedBytes, 0)
    if (!isPartial && missing > room() + gain) return this.#refuse(entry, this.#noRoom(missing, room(), gain))
    const need = missing - Math.max(0, survey.residentBytes - survey.lockedBytes)
    const memory = this.#memory()
    const headroom = memory.availableBytes - reserveBytes(memory)
    // What gives way is available then.
    if (!isPartial && need > headroom + gain) {
      const text = `${formatSize(need)} of memory are needed and ${formatSize(Math.max(0, headroom + gain))} can be had, ${formatSize(need - Math.max(0, headroom + gain))} are missing`
      return this.#refuse(entry, text)
    }
    for (const victim of victims) {
      if (room() >= missing) break
      await this.#evict(victim, `for volume ${image.volume}`)
    }
    await this.#lock(entry, survey.lockedBytes + Math.min(missing, Math.max(0, room())))
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
      this.#refuse(entry, this.#noRoom(dataBytes - lockedBytes, this.deps.cacheBytes - this.#lockedBytes(), 0))
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

  /** Who may give way to it, the least recently used first. */
  #victims(entry: Entry): Entry[] {
    const older: Entry[] = []
    for (const volume of this.#order.rkeys()) {
      const candidate = this.#order.peek(volume)
      if (candidate === entry) break // what was used later stays
      if (candidate !== undefined && this.#mayGo(candidate)) older.push(candidate)
    }
    return older
  }

  #mayGo(entry: Entry): boolean {
    return entry.survey.lockedBytes > 0 && !this.#isHeld(entry) && !this.#isDirty(entry)
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
