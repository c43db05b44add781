/**
 * RangeFollower: keeps a volume's ranges in step with its partition table, and with the file systems that the rules for
 * files speak of, while clients write to all of them.
 *
 *   client writes to a watched range -> engine opens a step, raises `watched` -> wait until the tool has settled
 *   -> watchRanges (a mark) -> read -> compile -> setRanges with the mark (the engine closes the step) -> read once more
 *
 * Guarantees: every `watched` leads to a setRanges within `settleMsMax` and the time of a few reads, whatever the
 * table looks like, so that a step never stays open. What was read is in force only if every range on which it depends
 * was watched before it was read, and the engine counts no write there since: else `watched` comes again, and the step
 * stays open. Does not: stop I/O, or trust a table it cannot read (compile.ts: what is not known is replicated).
 *
 * A change of the policy is such a round, too. What was read and compiled for an older policy never comes into force.
 *
 * With rules for files the device is glanced at, while it is written to, for what no watched range tells: a swap area
 * that is new, something else that somebody has begun to keep inside one.
 */
import { describe, OperationError } from '../core/errors.js'
import { formatSize } from '../core/units.js'
import type { ByteRange } from '../core/units.js'
import type { FileSystemContent } from '../native/binding.js'
import type { FileAccount } from './compile-files.js'
import { compileRanges } from './compile.js'
import type { CompiledRanges } from './compile.js'
import { checkFiles, compileLiveFiles } from './live-files.js'
import { checkPolicy, needsTable } from './policy.js'
import type { FilterPolicy } from './policy.js'
import { fromTable, sameTable, toTable, totalBytes, union } from './ranges.js'
import { tableOf } from './table.js'
import type { PartitionTable, TableEntry } from './table.js'

export interface FollowerOptions {
  /** At start. */
  policy: FilterPolicy
  sizeBytes: bigint
  /** For messages. */
  device: string
  /** addon.partitions(path). */
  readEntries: () => Promise<readonly TableEntry[]>
  /** addon.filesystems(path, lasting). */
  readFileSystems: (lasting: boolean) => Promise<readonly FileSystemContent[]>
  /** Whether clients have written since it was asked last. */
  isWritten: () => boolean
  /** addon.watchRanges(volume, ...). */
  watchRanges: (watched: BigUint64Array) => Promise<number>
  /** addon.setRanges(volume, ...). Must not throw before close() is resolved. */
  setRanges: (excluded: BigUint64Array, watched: BigUint64Array, mark: number) => void
  log: (level: 'info' | 'warn', message: string) => void
  /** Quiet time after the last write to the table before it is read. */
  settleMs?: number
  /** A table that is not whole by then is taken as it is. */
  settleMsMax?: number
  glanceMs?: number
}

export interface CompiledFilter extends CompiledRanges {
  policy: FilterPolicy
  /** Of `excluded`, what --replicate and --exclude leave out. */
  byRanges: BigUint64Array
  /** With rules for files: what they do. */
  files?: FileAccount
}

/** What the device says, as far as the policy asks. */
interface Seen {
  table: PartitionTable | undefined
  fileSystems: readonly FileSystemContent[]
}

export class RangeFollower {
  readonly #options: FollowerOptions
  readonly #settleMs: number
  readonly #settleMsMax: number
  readonly #lastKnown = new Map<number, ByteRange>()
  #policy: FilterPolicy
  #current: CompiledFilter | undefined
  /** When the first `watched` of this round came; 0: no round is under way. */
  #roundSince = 0
  #lastWatched = 0
  /** A `watched` came after the table was read. */
  #isStale = false
  #round: Promise<void> = Promise.resolve()
  #glance: Promise<void> = Promise.resolve()
  #glances: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: FollowerOptions) {
    this.#options = options
    this.#policy = options.policy
    this.#settleMs = options.settleMs ?? 250
    this.#settleMsMax = options.settleMsMax ?? 3000
  }

  /**
   * The tables to open the volume with. Throws FilterError when the device cannot fulfil the policy. Quick: clients wait, so
   * that only what can be in force is read; files of other file systems that rules match are not told.
   */
  async start(quick = false): Promise<CompiledFilter> {
    const { seen, warnings } = await this.#check(this.#policy, quick)
    for (const warning of warnings) this.#options.log('warn', warning)
    const compiled = await this.#compile(seen, this.#policy)
    this.#keep(compiled, seen)
    return compiled
  }

  /** Throws FilterError when the device cannot fulfil the policy. */
  async #check(policy: FilterPolicy, quick = false): Promise<{ seen: Seen; warnings: string[] }> {
    const { sizeBytes, device, readEntries, readFileSystems } = this.#options
    const table = asksTable(policy) ? tableOf(await readEntries()) : undefined
    checkPolicy(policy, table, sizeBytes, device)
    if (policy.files === undefined) return { seen: { table, fileSystems: [] }, warnings: [] }
    const fileSystems = await readFileSystems(quick)
    return { seen: { table, fileSystems }, warnings: await checkFiles(policy.files, fileSystems, device) }
  }

  /**
   * Of an open volume, one at a time. Resolves when the policy is in force for what clients write from then on, with what
   * the operator is to be told. Throws FilterError when the device cannot fulfil it: the old one stays in force.
   */
  async change(policy: FilterPolicy): Promise<string[]> {
    const { seen, warnings } = await this.#check(policy)
    if (!this.#closed) {
      this.#policy = { ...policy }
      this.#keepPlaces(seen)
      this.begin()
      this.watched()
      await this.#round
    }
    if (this.#closed) throw new OperationError('CLOSING', `filter: ${this.#options.device} is being closed`)
    return warnings
  }

  /** For what another policy would do: nothing is asked to follow. */
  withPolicy(policy: FilterPolicy, log: FollowerOptions['log']): RangeFollower {
    return new RangeFollower({ ...this.#options, policy, log })
  }

  /** Once the volume is open. */
  begin(): void {
    if (this.#policy.files === undefined || this.#glances !== undefined || this.#closed) return
    this.#glances = setInterval(() => {
      if (this.#policy.files !== undefined && this.#roundSince === 0 && this.#options.isWritten())
        this.#glance = this.#look()
    }, this.#options.glanceMs ?? 2000).unref()
  }

  /** What is in force. */
  get current(): CompiledFilter | undefined {
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
    clearInterval(this.#glances)
    await this.#glance
    await this.#round
  }

  async #follow(): Promise<void> {
    try {
      let read = await this.#settled()
      while (read.compiled.policy !== this.#policy && !this.#closed) read = await this.#settled()
      if (this.#closed) return
      this.#install(read)
    } finally {
      this.#roundSince = 0
    }
    await this.#look()
  }

  /** Is there another table, or file system, than what is in force knows? */
  async #look(): Promise<void> {
    const policy = this.#policy
    const seen = await this.#compile(await this.#read(policy), policy)
    if (!this.#closed && this.#roundSince === 0 && (this.#isStale || !this.#inForce(seen))) this.watched()
  }

  /** Waits until no write has come for a while and the table has every partition the policy names, or for the limit. */
  async #settled(): Promise<Read> {
    for (;;) {
      await sleep(this.#settleMs)
      const waited = Date.now() - this.#roundSince
      const late = waited >= this.#settleMsMax || this.#closed
      if (!late && Date.now() - this.#lastWatched < this.#settleMs) continue
      this.#isStale = false
      const read = await this.#readWatched()
      const { table } = read.seen
      const { partitions } = read.compiled.policy
      const whole = partitions.every(number => table?.partitions.has(number) === true)
      if (whole || late) return read
    }
  }

  /** Until nothing depends on a range that was not watched yet when it was read. */
  async #readWatched(): Promise<Read> {
    const policy = this.#policy
    let watched = this.#current?.watched ?? new BigUint64Array()
    for (;;) {
      const mark = this.#closed ? 0 : await this.#options.watchRanges(watched)
      const seen = await this.#read(policy)
      const compiled = await this.#compile(seen, policy)
      const all = toTable(union(fromTable(watched), fromTable(compiled.watched)))
      if (sameTable(all, watched) || this.#closed) return { seen, compiled, mark }
      watched = all
    }
  }

  #install({ seen, compiled, mark }: Read): void {
    const before = this.#current
    const { device, log } = this.#options
    this.#options.setRanges(compiled.excluded, compiled.watched, mark)
    this.#keep(compiled, seen)
    if (!compiled.tableKnown) {
      log('warn', `partition table of ${device} cannot be read any more: all of it is replicated until it can`)
    } else if (compiled.missing.length > 0) {
      log(
        'warn',
        `partition ${compiled.missing.join(', ')} has vanished from ${device}: replicated where it was last seen`,
      )
    } else if (before !== undefined && before.policy !== compiled.policy) {
      const left = formatSize(totalBytes(fromTable(compiled.excluded)))
      log('info', `the filter of ${device} has been changed, and is in force: ${left} are left out`)
    } else if (before === undefined || !sameTable(before.byRanges, compiled.byRanges)) {
      log('info', `partition table of ${device} has changed: the replicated ranges follow it`)
    } else if (!sameTable(before.excluded, compiled.excluded)) {
      log('info', `file systems of ${device} have changed: what the rules for files leave out follows them`)
    }
  }

  async #compile({ table, fileSystems }: Seen, policy: FilterPolicy): Promise<CompiledFilter> {
    const { sizeBytes } = this.#options
    const compiled = compileRanges(policy, table, sizeBytes, this.#lastKnown)
    const byRanges = compiled.excluded
    if (policy.files === undefined) return { ...compiled, policy, byRanges }
    const { account, watched } = await compileLiveFiles(policy.files.rules, fileSystems, table, sizeBytes)
    return {
      ...compiled,
      policy,
      byRanges,
      excluded: toTable(union(fromTable(byRanges), account.ranges)),
      watched: toTable(union(fromTable(compiled.watched), watched)),
      files: account,
    }
  }

  #keep(compiled: CompiledFilter, seen: Seen): void {
    this.#keepPlaces(seen)
    this.#current = compiled
  }

  #keepPlaces({ table }: Seen): void {
    for (const number of this.#policy.partitions) {
      const range = table?.partitions.get(number)
      if (range !== undefined) this.#lastKnown.set(number, range)
    }
  }

  #inForce(compiled: CompiledFilter): boolean {
    const current = this.#current
    return (
      current !== undefined &&
      sameTable(current.excluded, compiled.excluded) &&
      sameTable(current.watched, compiled.watched)
    )
  }

  /** A table that cannot be read is one that is not known; so are file systems then. */
  async #read(policy: FilterPolicy): Promise<Seen> {
    const { device, log, readEntries, readFileSystems } = this.#options
    let what = `partition table`
    try {
      const table = asksTable(policy) ? tableOf(await readEntries()) : undefined
      what = 'file systems'
      return { table, fileSystems: policy.files === undefined ? [] : await readFileSystems(true) }
    } catch (error) {
      log('warn', `read the ${what} of ${device}: ${describe(error)}`)
      return { table: undefined, fileSystems: [] }
    }
  }
}

interface Read {
  seen: Seen
  compiled: CompiledFilter
  mark: number
}

const asksTable = (policy: FilterPolicy): boolean => needsTable(policy) || policy.files !== undefined

function sleep(milliseconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, milliseconds))
}
