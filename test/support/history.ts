/**
 * Histories of writes, and whether what a standby shows is a legal cut of one (G2).
 *
 * A history is what clients saw: for each write when it was submitted and when its reply came, on one logical clock.
 * Write u comes before write v when u's reply had come before v was submitted (u < v); otherwise they were concurrent
 * and any order is legal. A copy of the device is a legal cut when there are a set S of writes and an order of them in
 * which u < v are in that order, such that
 *   1. S has, with a write v, every acknowledged write u < v            ("if it shows a write, it shows every write
 *   2. S has every write the copy shows, each block showing S's last      that had completed before")
 *   3. S has everything an acknowledgement promised (`Requirement`)
 * The smallest S is checked: more writes only add conditions. With `atomic` a write is in S with all its blocks, but
 * for one that got no reply: a master that is killed within pwrite(2) leaves a part of it on its device.
 *
 *   1 ---w1---|                       shown: w1 and w3, not w2: illegal, since w2 < w3
 *   2          ---w2---|              shown: w1, w2:            legal
 *   3                    ---w3---
 *
 * Blocks are self-describing: 4 KiB of a 64-byte line with run, write and block; a torn or misplaced one is seen.
 * Zeroes may be the initial content or any write of zeroes; the oldest that is legal is assumed. A history may begin on
 * a device that holds something (`base`): the end of an earlier history, say.
 */

export const blockBytes = 4096
const lineBytes = 64
const magic = 0x31484355

export type Outcome = 'pending' | 'acknowledged' | 'failed' | 'lost'

export interface HistoryWrite {
  /** From 1, in the order of submission. */
  id: number
  kind: 'data' | 'zero'
  firstBlock: number
  blockCount: number
  fua: boolean
  /** Ticks of the logical clock. Of a write without a reply, `ended` is when its connection was found dead. */
  submitted: number
  ended: number
  outcome: Outcome
}

export interface HistoryFlush {
  submitted: number
  ended: number
  outcome: Outcome
}

/** What a copy must show at least: `ids`, and every write acknowledged before tick `before` was submitted. */
export interface Requirement {
  ids: number[]
  before: number
}

export const noRequirement: Requirement = { ids: [], before: 0 }

export class History {
  readonly run: number
  readonly blocks: number
  /** What the device held before: `blocks` blocks. Absent: zeroes. */
  readonly base: Buffer | undefined
  readonly writes: HistoryWrite[] = []
  readonly flushes: HistoryFlush[] = []
  #tick = 0

  /** `run` tells this history's blocks from those of another one on the same device. */
  constructor(run: number, blocks: number, base?: Buffer) {
    this.run = run >>> 0
    this.blocks = blocks
    this.base = base
  }

  get now(): number {
    return this.#tick
  }

  submitWrite(kind: 'data' | 'zero', firstBlock: number, blockCount: number, fua = false): HistoryWrite {
    const write: HistoryWrite = {
      id: this.writes.length + 1,
      kind,
      firstBlock,
      blockCount,
      fua,
      submitted: ++this.#tick,
      ended: Infinity,
      outcome: 'pending',
    }
    this.writes.push(write)
    return write
  }

  submitFlush(): HistoryFlush {
    const flush: HistoryFlush = { submitted: ++this.#tick, ended: Infinity, outcome: 'pending' }
    this.flushes.push(flush)
    return flush
  }

  end(operation: HistoryWrite | HistoryFlush, outcome: Outcome): void {
    operation.ended = ++this.#tick
    operation.outcome = outcome
  }

  /** The bytes of a data write. */
  payload(write: HistoryWrite): Buffer {
    const data = Buffer.allocUnsafe(write.blockCount * blockBytes)
    for (let i = 0; i < write.blockCount; i++) fillBlock(data, i * blockBytes, this.run, write.id, write.firstBlock + i)
    return data
  }

  /** Of the write that these bytes (the beginning of a line of a block) are from; undefined: not of this history. */
  idOf(bytes: Buffer): number | undefined {
    const ours = bytes.length >= 16 && bytes.readUInt32LE(0) === magic && bytes.readUInt32LE(4) === this.run
    return ours ? bytes.readUInt32LE(8) : undefined
  }

  /**
   * What acknowledgements in (from, until] promise of a copy that was in sync all that time. `every`: each
   * acknowledged write (durability received and durable); `flushed`: what an acknowledged FLUSH or FUA covers.
   */
  promised(what: 'every' | 'flushed', from = 0, until = Infinity): Requirement {
    const inside = (one: HistoryWrite | HistoryFlush): boolean =>
      one.outcome === 'acknowledged' && one.ended > from && one.ended <= until
    const ids = this.writes.filter(write => inside(write) && (what === 'every' || write.fua)).map(write => write.id)
    const before = this.flushes.filter(inside).reduce((tick, flush) => Math.max(tick, flush.submitted), 0)
    return { ids, before }
  }
}

function fillBlock(data: Buffer, at: number, run: number, id: number, block: number): void {
  data.writeUInt32LE(magic, at)
  data.writeUInt32LE(run, at + 4)
  data.writeUInt32LE(id, at + 8)
  data.writeUInt32LE(block, at + 12)
  for (let i = 16; i < lineBytes; i += 4)
    data.writeUInt32LE((Math.imul(id, 0x9e3779b1) ^ Math.imul(block + i, 0x85ebca6b)) >>> 0, at + i)
  for (let filled = lineBytes; filled < blockBytes; filled *= 2) data.copyWithin(at + filled, at, at + filled)
}

// ---- checking

export interface Violation {
  kind: 'garbage' | 'misplaced' | 'unknown' | 'refused' | 'stale' | 'order'
  block: number
  text: string
}

export interface CutReport {
  violations: Violation[]
  /** Data writes that at least one block shows. */
  shownWrites: number
  /** Writes that any legal cut with this content has. */
  requiredWrites: number
  /** Tick up to which all acknowledged writes are in the cut: how new the copy is. */
  tick: number
}

export interface CheckOptions {
  requirement?: Requirement
  /** A write is there with all its blocks or not at all (a record is applied whole), unless it got no reply. */
  atomic?: boolean
  /** Reported violations; the rest is only counted by being there. */
  violationsMax?: number
}

/** Whether `content` (at least history.blocks blocks) is a legal cut. */
export function checkCut(history: History, content: Uint8Array, options: CheckOptions = {}): CutReport {
  return new CutCheck(history, options).run(content)
}

/** What a block shows: 0 for zeroes. */
const zeroes = 0
/** In place of a block that shows nothing legal, reported already. */
const nothing = -1
/** The block shows what was there before the history, and that is not zeroes. */
const initial = -2

class CutCheck {
  readonly #history: History
  readonly #promisedIds: ReadonlySet<number>
  readonly #promisedBefore: number
  readonly #atomic: boolean
  readonly #violationsMax: number
  readonly #violations: Violation[] = []
  /** By block: ids of the writes that cover it, in the order of submission. */
  readonly #covering: number[][]
  /** By block: the write it shows, `zeroes`, `initial` or `nothing`. */
  readonly #shown: number[] = []
  /** Writes that are in S although condition 1 alone does not demand it. */
  readonly #members = new Set<number>()
  /** Every acknowledged write that ended before this tick is in S. */
  #tick: number

  constructor(history: History, options: CheckOptions) {
    this.#history = history
    const requirement = options.requirement ?? noRequirement
    this.#promisedIds = new Set(requirement.ids)
    this.#promisedBefore = requirement.before
    this.#atomic = options.atomic ?? false
    this.#violationsMax = options.violationsMax ?? 10
    this.#tick = requirement.before
    this.#covering = Array.from({ length: history.blocks }, () => [])
    for (const write of history.writes) {
      for (let i = 0; i < write.blockCount; i++) this.#covering[write.firstBlock + i]?.push(write.id)
    }
  }

  run(content: Uint8Array): CutReport {
    this.#readBlocks(content)
    const shownWrites = new Set(this.#shown.filter(id => id > 0)).size
    for (const id of this.#promisedIds) this.#join(id)
    for (const id of this.#shown) if (id > 0) this.#join(id)
    this.#attributeZeroes()
    this.#shown.forEach((id, block) => {
      if (id > 0) this.#checkBlock(block, id)
      else if (id === initial) this.#checkInitial(block)
    })
    if (this.#violations.length === 0) this.#checkOrder()
    const requiredWrites = this.#history.writes.filter(write => this.#inCut(write)).length
    return { violations: this.#violations, shownWrites, requiredWrites, tick: this.#tick }
  }

  #write(id: number): HistoryWrite {
    const write = this.#history.writes[id - 1]
    if (write === undefined) throw new Error(`write ${id} is not in the history`)
    return write
  }

  #join(id: number): void {
    this.#members.add(id)
    this.#tick = Math.max(this.#tick, this.#write(id).submitted)
  }

  #inCut(write: HistoryWrite): boolean {
    return this.#members.has(write.id) || (write.outcome === 'acknowledged' && write.ended < this.#tick)
  }

  /** Whether S has the write at this block; without `atomic` a write that is merely shown counts where it is shown. */
  #inCutAt(write: HistoryWrite, block: number): boolean {
    if (this.#atomic && write.outcome !== 'lost') return this.#inCut(write)
    if (write.outcome === 'acknowledged' && write.ended < this.#tick) return true
    return this.#shown[block] === write.id || this.#promisedIds.has(write.id)
  }

  #report(kind: Violation['kind'], block: number, text: string): void {
    if (this.#violations.length < this.#violationsMax) this.#violations.push({ kind, block, text })
  }

  #readBlocks(content: Uint8Array): void {
    const data = Buffer.from(content.buffer, content.byteOffset, content.byteLength)
    const expected = Buffer.alloc(blockBytes)
    for (let block = 0; block < this.#history.blocks; block++) {
      const bytes = data.subarray(block * blockBytes, (block + 1) * blockBytes)
      this.#shown.push(this.#identify(bytes, block, expected))
    }
  }

  #identify(bytes: Buffer, block: number, expected: Buffer): number {
    if (bytes.length === blockBytes && bytes.equals(zeroBlock)) return zeroes
    if (bytes.length === blockBytes && bytes.equals(this.#baseBlock(block))) return initial
    if (bytes.length < blockBytes || bytes.readUInt32LE(0) !== magic || bytes.readUInt32LE(4) !== this.#history.run) {
      this.#report('garbage', block, `block ${block} holds bytes that nobody wrote`)
      return nothing
    }
    const id = bytes.readUInt32LE(8)
    const at = bytes.readUInt32LE(12)
    fillBlock(expected, 0, this.#history.run, id, at)
    if (!bytes.equals(expected)) {
      this.#report('garbage', block, `block ${block} is torn: it starts like write ${id}`)
      return nothing
    }
    const write = this.#history.writes[id - 1]
    if (at !== block) this.#report('misplaced', block, `block ${block} holds block ${at} of write ${id}`)
    else if (write === undefined)
      this.#report('unknown', block, `block ${block} shows write ${id}, which is not in the history`)
    else if (write.outcome === 'failed')
      this.#report('refused', block, `block ${block} shows write ${id}, which was answered with an error`)
    else return id
    return nothing
  }

  /**
   * Finds for each block of zeroes the oldest write of zeroes (or the beginning) that explains it. What had completed
   * before that write is in S from then on, and with S the blocks of zeroes are looked at again.
   */
  #attributeZeroes(): void {
    const blocks = new Set(this.#shown.flatMap((id, block) => (id === zeroes ? [block] : [])))
    for (let before = -1; before !== this.#tick;) {
      before = this.#tick
      for (const block of blocks) {
        const newest = this.#newestIn(block, zeroes)
        if (newest === undefined && this.#baseBlock(block).equals(zeroBlock)) continue // the beginning explains it
        const explains = this.#covering[block]?.find(id => this.#explainsZeroes(id, block))
        if (explains !== undefined) {
          this.#tick = Math.max(this.#tick, this.#inCut(this.#write(explains)) ? 0 : this.#write(explains).submitted)
        } else {
          if (newest !== undefined) this.#reportStale(block, 'zeroes', newest)
          else this.#report('garbage', block, `block ${block} holds zeroes that nobody wrote`)
          blocks.delete(block)
        }
      }
    }
  }

  #explainsZeroes(id: number, block: number): boolean {
    const write = this.#write(id)
    if (write.kind !== 'zero' || write.outcome === 'failed') return false
    const newest = this.#newestIn(block, id)
    return newest === undefined || write.ended > newest.submitted
  }

  /** The write of S at this block, other than `id`, that was submitted last. */
  #newestIn(block: number, id: number): HistoryWrite | undefined {
    const covering = this.#covering[block] ?? []
    for (let i = covering.length - 1; i >= 0; i--) {
      const write = this.#write(covering[i] ?? 0)
      if (write.id !== id && this.#inCutAt(write, block)) return write
    }
    return undefined
  }

  #checkBlock(block: number, id: number): void {
    const write = this.#write(id)
    const newest = this.#newestIn(block, id)
    if (newest !== undefined && write.ended < newest.submitted) this.#reportStale(block, `write ${id}`, newest)
  }

  #checkInitial(block: number): void {
    const newest = this.#newestIn(block, initial)
    if (newest !== undefined) this.#reportStale(block, 'what was there before', newest)
  }

  #baseBlock(block: number): Buffer {
    return this.#history.base?.subarray(block * blockBytes, (block + 1) * blockBytes) ?? zeroBlock
  }

  #reportStale(block: number, shows: string, lacks: HistoryWrite): void {
    const needed =
      this.#promisedIds.has(lacks.id) || (lacks.outcome === 'acknowledged' && lacks.ended < this.#promisedBefore)
    const shownElsewhere = this.#shown.includes(lacks.id)
    const why = needed
      ? 'which an acknowledgement promised'
      : shownElsewhere
        ? 'which another block shows'
        : 'which had completed before a write that the copy shows was submitted'
    this.#report(
      'stale',
      block,
      `block ${block} shows ${shows} and lacks write ${lacks.id} (${lacks.submitted}..${lacks.ended}), ${why}`,
    )
  }

  /**
   * Looks for one order of S that explains all blocks at once. Such an order exists when every write can be given a
   * moment inside its interval, after those of the writes that it covers: the earliest moments are computed along the
   * edges "covered -> shown"; a cycle, or a moment after the end of the interval, is a contradiction.
   */
  #checkOrder(): void {
    const edges = new Map<number, Set<number>>()
    const incoming = new Map<number, number>()
    this.#shown.forEach((id, block) => {
      if (id <= 0) return
      for (const under of this.#covering[block] ?? []) {
        if (under === id || !this.#inCutAt(this.#write(under), block)) continue
        const targets = edges.get(under) ?? new Set()
        edges.set(under, targets)
        if (targets.has(id)) continue
        targets.add(id)
        incoming.set(id, (incoming.get(id) ?? 0) + 1)
      }
    })
    const moments = new Map<number, number>()
    const momentOf = (id: number): number => moments.get(id) ?? this.#write(id).submitted
    const ready = [...edges.keys()].filter(id => !incoming.has(id))
    let left = incoming.size
    for (let id = ready.pop(); id !== undefined; id = ready.pop()) {
      for (const next of edges.get(id) ?? []) {
        moments.set(next, Math.max(momentOf(next), momentOf(id)))
        if (momentOf(next) > this.#write(next).ended) this.#reportOrder(next)
        const rest = (incoming.get(next) ?? 0) - 1
        incoming.set(next, rest)
        if (rest === 0) {
          left--
          ready.push(next)
        }
      }
    }
    const inCycle = [...incoming].find(([, count]) => count > 0)
    if (left > 0 && inCycle !== undefined) this.#reportOrder(inCycle[0])
  }

  #reportOrder(id: number): void {
    const text = `write ${id} would have to be before and after the same write: no single order explains all blocks`
    this.#report('order', this.#write(id).firstBlock, text)
  }
}

const zeroBlock = Buffer.alloc(blockBytes)

/** Small, seeded and good enough to pick offsets with (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
