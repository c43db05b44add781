/**
 * RangeFollower: keeps a volume's ranges in step with its partition table while clients write to both.
 *
 *   client writes to the table -> engine opens a step, raises `watched` -> wait until the tool has settled
 *   -> read the table -> compile -> setRanges (the engine closes the step) -> read once more
 *
 * Guarantees: every `watched` leads to a setRanges within `settleMsMax` and the time of a few reads, whatever the
 * table looks like, so that a step never stays open; a table that changes between the read and setRanges is seen by
 * the second read. Does not: stop I/O, or trust a table it cannot read (compile.ts: what is not known is replicated).
 */
import { describe } from '../core/errors.js'
import type { ByteRange } from '../core/units.js'
import { compileRanges } from './compile.js'
import type { CompiledRanges } from './compile.js'
import { checkPolicy, needsTable } from './policy.js'
import type { FilterPolicy } from './policy.js'
import { sameTable } from './ranges.js'
import { tableOf } from './table.js'
import type { PartitionTable, TableEntry } from './table.js'

export interface FollowerOptions {
  policy: FilterPolicy
  sizeBytes: bigint
  /** For messages. */
  device: string
  /** addon.partitions(path). */
  readEntries: () => Promise<readonly TableEntry[]>
  /** addon.setRanges(volume, ...). Must not throw before close() is resolved. */
  setRanges: (excluded: BigUint64Array, watched: BigUint64Array) => void
  log: (level: 'info' | 'warn', message: string) => void
  /** Quiet time after the last write to the table before it is read. */
  settleMs?: number
  /** A table that is not whole by then is taken as it is. */
  settleMsMax?: number
}

export class RangeFollower {
  readonly #options: FollowerOptions
  readonly #settleMs: number
  readonly #settleMsMax: number
  readonly #lastKnown = new Map<number, ByteRange>()
  #current: CompiledRanges | undefined
  /** When the first `watched` of this round came; 0: no round is under way. */
  #roundSince = 0
  #lastWatched = 0
  /** A `watched` came after the table was read. */
  #isStale = false
  #round: Promise<void> = Promise.resolve()
  #closed = false

  constructor(options: FollowerOptions) {
    this.#options = options
    this.#settleMs = options.settleMs ?? 250
    this.#settleMsMax = options.settleMsMax ?? 3000
  }

  /** The tables to open the volume with. Throws FilterError when the device cannot fulfil the policy. */
  async start(): Promise<CompiledRanges> {
    const { policy, sizeBytes, device } = this.#options
    const table = needsTable(policy) ? tableOf(await this.#options.readEntries()) : undefined
    checkPolicy(policy, table, sizeBytes, device)
    const compiled = this.#compile(table)
    this.#keep(compiled, table)
    return compiled
  }

  /** What is in force. */
  get current(): CompiledRanges | undefined {
    return this.#current
  }

  /** The engine said that a client wrote to a watched range. Returns at once. */
  watched(): void {
    if (this.#closed) return
    this.#lastWatched = Date.now()
    this.#isStale = true
    if (this.#roundSince !== 0) return
    this.#roundSince = this.#lastWatched
    this.#round = this.#follow()
  }

  /** No setRanges comes after the promise is resolved. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#round
  }

  async #follow(): Promise<void> {
    try {
      const table = await this.#settled()
      if (this.#closed) return
      this.#install(table)
    } finally {
      this.#roundSince = 0
    }
    // A write between the read and setRanges raised no event of its own: the step was still open.
    const again = this.#compile(await this.#read())
    if (!this.#closed && this.#roundSince === 0 && (this.#isStale || !this.#inForce(again))) this.watched()
  }

  /** Waits until no write has come for a while and the table has every partition the policy names, or for the limit. */
  async #settled(): Promise<PartitionTable | undefined> {
    for (;;) {
      await sleep(this.#settleMs)
      const waited = Date.now() - this.#roundSince
      const late = waited >= this.#settleMsMax || this.#closed
      if (!late && Date.now() - this.#lastWatched < this.#settleMs) continue
      this.#isStale = false
      const table = await this.#read()
      const whole = table !== undefined && this.#options.policy.partitions.every(number => table.partitions.has(number))
      if (whole || late) return table
    }
  }

  #install(table: PartitionTable | undefined): void {
    const before = this.#current
    const { device, log } = this.#options
    const compiled = this.#compile(table)
    this.#options.setRanges(compiled.excluded, compiled.watched)
    this.#keep(compiled, table)
    if (!compiled.tableKnown) {
      log('warn', `partition table of ${device} cannot be read any more: all of it is replicated until it can`)
    } else if (compiled.missing.length > 0) {
      log(
        'warn',
        `partition ${compiled.missing.join(', ')} has vanished from ${device}: replicated where it was last seen`,
      )
    } else if (before === undefined || !sameTable(before.excluded, compiled.excluded)) {
      log('info', `partition table of ${device} has changed: the replicated ranges follow it`)
    }
  }

  #compile(table: PartitionTable | undefined): CompiledRanges {
    return compileRanges(this.#options.policy, table, this.#options.sizeBytes, this.#lastKnown)
  }

  #keep(compiled: CompiledRanges, table: PartitionTable | undefined): void {
    for (const number of this.#options.policy.partitions) {
      const range = table?.partitions.get(number)
      if (range !== undefined) this.#lastKnown.set(number, range)
    }
    this.#current = compiled
  }

  #inForce(compiled: CompiledRanges): boolean {
    const current = this.#current
    return (
      current !== undefined &&
      sameTable(current.excluded, compiled.excluded) &&
      sameTable(current.watched, compiled.watched)
    )
  }

  /** A table that cannot be read is one that is not known. */
  async #read(): Promise<PartitionTable | undefined> {
    try {
      return tableOf(await this.#options.readEntries())
    } catch (error) {
      this.#options.log('warn', `read the partition table of ${this.#options.device}: ${describe(error)}`)
      return undefined
    }
  }
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, milliseconds))
}
