/**
 * Judges the copies of a device that is written to for minutes (G2, G3). The history is cut into epochs, at moments
 * when every request has ended: an epoch begins with what the master's device holds then. A copy is legal when it is a
 * legal cut of one epoch, and of none before the newest one that an acknowledgement made a promise in.
 */
import { type CheckOptions, type CutReport, History, blockBytes, checkCut, noRequirement } from '../support/history.js'
import type { HistoryFlush, HistoryWrite, Requirement } from '../support/history.js'

export type Durability = 'async' | 'flush' | 'received' | 'durable'

/**
 * What an acknowledgement promises of the standby: everything that was acknowledged is on its disk, or in its memory
 * (gone with its process), or only what a FLUSH or FUA covers is on its disk.
 */
export type Promised = 'every' | 'received' | 'flushed'

/** A stretch of an epoch in which the pair was seen in sync: acknowledgements in it count for the standby too. */
interface Window {
  from: number
  until: number
  what: Promised
}

interface Epoch {
  number: number
  history: History
  windows: Window[]
}

/** By epoch. */
export type Promises = ReadonlyMap<number, Requirement>

export interface Verdict {
  lost: string[]
  /** The epoch and tick of the cut, and how many ticks it had. */
  cut: string
}

/** Copies older than so many epochs are not told from garbage; a standby that is away for long is not so old. */
const epochsMax = 60

export class Judge {
  readonly #epochs: Epoch[] = []
  #number = 0
  /** Acknowledged writes that a legal copy was judged against, and in all. */
  acknowledged = 0
  judged = 0

  constructor(
    private readonly run: number,
    private readonly blocks: number,
  ) {}

  get history(): History {
    return this.#current().history
  }

  get epoch(): number {
    return this.#current().number
  }

  /** Every request has ended; `content` is what the master's clients read now. */
  begin(content?: Buffer): History {
    if (this.#epochs.length > 0) this.acknowledged += countAcknowledged(this.history)
    const number = ++this.#number
    const history = new History((this.run << 12) + number, this.blocks, content)
    this.#epochs.push({ number, history, windows: [] })
    if (this.#epochs.length > epochsMax) this.#epochs.shift()
    return history
  }

  /** Between two looks at the pair, at ticks of the current epoch, nothing was acknowledged that the standby may lack. */
  inSync(from: number, until: number, what: Promised): void {
    this.#current().windows.push({ from, until, what })
  }

  /** The standby's process is gone, and with it what it had only in memory. */
  standbyDied(): void {
    for (const { windows } of this.#epochs)
      for (const window of windows) if (window.what === 'received') window.what = 'flushed'
  }

  /** What has been promised by now: a copy that is asked for from here on must have it. */
  promises(): Promises {
    return new Map(this.#epochs.map(epoch => [epoch.number, promised(epoch)]))
  }

  /** What the standby put on stage; `promises` were taken before it was asked. */
  standby(content: Buffer, promises: Promises): Verdict {
    const found: string[] = []
    for (const epoch of [...this.#epochs].reverse()) {
      const requirement = promises.get(epoch.number) ?? noRequirement
      const report = check(epoch.history, content, { atomic: true, requirement })
      if (report.violations.length === 0) {
        this.judged = Math.max(this.judged, this.acknowledged + countAcknowledged(this.history))
        return { lost: [], cut: `epoch ${epoch.number} at ${report.tick} of ${epoch.history.now}` }
      }
      const windows = epoch.windows.map(window => `${window.what} ${window.from}-${window.until}`).join(', ')
      found.push(
        `epoch ${epoch.number}: ${report.violations.map(one => one.text).join('\n      ')} (in sync at ticks ${windows})`,
      )
      if (requirement.ids.length > 0 || requirement.before > 0) break
    }
    return { lost: found.slice(0, 4), cut: '' }
  }

  /** The master's device after its daemon died: whatever was acknowledged is there. */
  masterAfterKill(content: Buffer): string[] {
    const { history } = this.#current()
    const report = check(history, content, { atomic: true, requirement: history.promised('every') })
    return report.violations.map(violation => `the master: ${violation.text}`)
  }

  /** The same after a power cut: what FLUSH or FUA covered is there, sector by sector; the rest may be, or in part. */
  masterAfterPowerCut(content: Buffer): string[] {
    const { history } = this.#current()
    const promise = history.promised('flushed')
    const ids = new Set(promise.ids)
    const kept = history.writes.filter(
      write => ids.has(write.id) || (write.outcome === 'acknowledged' && write.ended < promise.before),
    )
    return missing(history, kept, content)
  }

  #current(): Epoch {
    const last = this.#epochs.at(-1)
    if (last === undefined) throw new Error('no epoch has begun')
    return last
  }
}

function check(history: History, content: Buffer, options: CheckOptions): CutReport {
  return checkCut(history, content, { violationsMax: 12, ...options })
}

function countAcknowledged(history: History): number {
  return history.writes.reduce((count, write) => count + (write.outcome === 'acknowledged' ? 1 : 0), 0)
}

/** Of requests that were made and answered inside of a window. */
function promised({ history, windows }: Epoch): Requirement {
  if (windows.length === 0) return noRequirement
  const inside = (operation: HistoryWrite | HistoryFlush, counts = (_what: Promised): boolean => true): boolean =>
    operation.outcome === 'acknowledged' &&
    windows.some(window => operation.submitted > window.from && operation.ended <= window.until && counts(window.what))
  const ids = history.writes
    .filter(write => inside(write, write.fua ? undefined : what => what !== 'flushed'))
    .map(write => write.id)
  const before = history.flushes
    .filter(flush => inside(flush))
    .reduce((tick, flush) => Math.max(tick, flush.submitted), 0)
  return { ids, before }
}

const sectorBytes = 512

/** For each sector the newest of `kept` that covers it; what the sector shows must not be older. */
function missing(history: History, kept: HistoryWrite[], content: Buffer): string[] {
  const newest: (HistoryWrite | undefined)[] = []
  for (const write of kept) {
    for (let block = write.firstBlock; block < write.firstBlock + write.blockCount; block++) {
      const before = newest[block]
      if (before === undefined || write.submitted > before.ended) newest[block] = write
    }
  }
  const problems: string[] = []
  newest.forEach((write, block) => {
    if (write === undefined) return
    for (let at = block * blockBytes; at < (block + 1) * blockBytes; at += sectorBytes) {
      const shows = shownBy(history, content.subarray(at, at + sectorBytes), block)
      if (shows.some(shown => shown === write || shown.ended > write.submitted)) continue
      problems.push(`the master: block ${block} lost write ${write.id}, which a flush had acknowledged`)
      return
    }
  })
  return problems.slice(0, 4)
}

/** The writes that this sector can be from. */
function shownBy(history: History, sector: Buffer, block: number): HistoryWrite[] {
  const covers = (write: HistoryWrite): boolean =>
    write.firstBlock <= block && block < write.firstBlock + write.blockCount
  if (sector.every(byte => byte === 0)) return history.writes.filter(write => write.kind === 'zero' && covers(write))
  const id = history.idOf(sector)
  const write = id === undefined ? undefined : history.writes[id - 1]
  return write !== undefined && covers(write) ? [write] : []
}
