/**
 * RangeFollower: keeps a volume's ranges in step with its partition table, and with the file systems that the rules for
 * files speak of, while clients write to all of them.
 *
 *   a watched range is written to, or a watch of a file system gives up -> engine opens a step, raises `watched`
 *   -> wait until the tool has settled -> watchRanges (a mark) -> read -> compile, makeWatches
 *   -> setRanges with the mark and the watches (the engine closes the step, or says that it has to be read again)
 *
 *   files have come or grown -> `look` -> the same in the background, with no step open, now and then
 *
 * Guarantees: every `watched` leads to a setRanges within `settleMsMax` and the time of a few reads, whatever the
 * table looks like, so that a step never stays open. What was read is in force only if every range on which it depends
 * was watched before it was read, and the engine counts no write there since: else `watched` comes again, and the step
 * stays open. A file system that changes faster than it is read is replicated whole for a while. Does not: stop I/O, or
 * trust a table it cannot read (compile.ts: what is not known is replicated).
 *
 * A change of the policy is such a round, too. What was read and compiled for an older policy never comes into force.
 *
 * With rules for files the device is glanced at, while it is written to, for what nobody watches: a file system that is
 * new, something else that somebody has begun to keep inside one.
 */
import { describe, OperationError } from '../core/errors.js'
import { formatSize } from '../core/units.js'
import type { ByteRange } from '../core/units.js'
import type { FileSystemContent } from '../native/binding.js'
import { compileRanges } from './compile.js'
import type { CompiledRanges } from './compile.js'
import { checkFiles, compileLiveFiles, nameOf } from './live-files.js'
import type { FileReading, LiveFiles } from './live-files.js'
import { checkPolicy, needsTable } from './policy.js'
import type { FilterPolicy } from './policy.js'
import { fromTable, sameTable, toTable, totalBytes, union } from './ranges.js'
import { Refusals } from './refusals.js'
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
  /** addon.findFilesystems(path). */
  findFileSystems: () => Promise<readonly FileSystemContent[]>
  /** addon.readFilesystems(path, followed). */
  readFiles: (followed: boolean) => Promise<FileReading>
  /** Whether clients have written since it was asked last. */
  isWritten: () => boolean
  /** addon.watchRanges(volume, ...). */
  watchRanges: (watched: BigUint64Array) => Promise<number>
  /** addon.setRanges(volume, ...), of what was compiled with this mark. The watches are gone with it. */
  setRanges: (compiled: CompiledFilter, mark: number) => Promise<Installed>
  log: (level: 'info' | 'warn', message: string) => void
  /** Quiet time after the last write to the table before it is read. */
  settleMs?: number
  /** A table that is not whole by then is taken as it is. */
  settleMsMax?: number
  glanceMs?: number
  /** Between readings in the background, at least; a reading is a fiftieth of the time at most. */
  lookMs?: number
}

export interface Installed {
  /** Which of the file systems that are followed has to be read again; -1: it is in force. */
  refused: number
  why: string
}

export interface CompiledFilter extends CompiledRanges {
  policy: FilterPolicy
  /** Of `excluded`, what --replicate and --exclude leave out; the rest holds what files leave out, and may hold more. */
  byRanges: BigUint64Array
  /** With rules for files: what they do. Absent, with such rules: they have not been read. */
  files?: LiveFiles
  /** What there is, to be compared. */
  places: string
}

/** What the device says, as far as the policy asks. */
interface Seen {
  table: PartitionTable | undefined
  reading: FileReading | undefined
}

const lookShare = 50
const failedMs = 1000

export class RangeFollower {
  readonly #options: FollowerOptions
  readonly #settleMs: number
  readonly #settleMsMax: number
  readonly #lastKnown = new Map<number, ByteRange>()
  readonly #refusals = new Refusals()
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
  #look: Promise<void> = Promise.resolve()
  #lookTimer: NodeJS.Timeout | undefined
  #isLooking = false
  #looksAgain = false
  #nextLookMs = 0
  #closed = false

  constructor(options: FollowerOptions) {
    this.#options = options
    this.#policy = options.policy
    this.#settleMs = options.settleMs ?? 250
    this.#settleMsMax = options.settleMsMax ?? 3000
  }

  /** There are rules for files, whatever they do. */
  get hasFileRules(): boolean {
    return this.#policy.files !== undefined
  }

  /**
   * What to open the volume with. Throws FilterError when the device cannot fulfil the policy. Quick: files are not read,
   * nor is anything about them checked; the volume is to be opened with what was left out before, and read once it is open.
   */
  async start(quick = false): Promise<CompiledFilter> {
    const policy = this.#policy
    const { compiled, warnings } = await this.#check(policy, quick)
    for (const warning of warnings) this.#options.log('warn', warning)
    this.#current = compiled
    return compiled
  }

  /** Throws FilterError when the device cannot fulfil the policy. */
  async #check(policy: FilterPolicy, quick = false): Promise<{ compiled: CompiledFilter; warnings: string[] }> {
    const { sizeBytes, device, readEntries, readFiles } = this.#options
    const table = asksTable(policy) ? tableOf(await readEntries()) : undefined
    checkPolicy(policy, table, sizeBytes, device)
    const reads = policy.files !== undefined && !quick
    const compiled = await this.#compile({ table, reading: reads ? await readFiles(false) : undefined }, policy)
    this.#keepPlaces(table, policy)
    if (policy.files === undefined || compiled.files === undefined) return { compiled, warnings: [] }
    try {
      return { compiled, warnings: checkFiles(policy.files, compiled.files, device) }
    } catch (error) {
      this.#forget(compiled)
      throw error
    }
  }

  /**
   * Of an open volume, one at a time. Resolves when the policy is in force for what clients write from then on, with what
   * the operator is to be told. Throws FilterError when the device cannot fulfil it: the old one stays in force.
   */
  async change(policy: FilterPolicy): Promise<string[]> {
    const { compiled, warnings } = await this.#check(policy)
    this.#forget(compiled)
    if (!this.#closed) {
      const wanted = { ...policy }
      this.#policy = wanted
      this.begin()
      this.watched()
      // A round that had read for the policy before, and was about to bring that into force, is followed by another one.
      while (!this.#closed && this.#policy === wanted && this.#current?.policy !== wanted) await this.#round
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
    if (!this.hasFileRules || this.#glances !== undefined || this.#closed) return
    this.#glances = setInterval(() => {
      if (this.hasFileRules && this.#roundSince === 0 && this.#options.isWritten()) this.#glance = this.#glanceAround()
    }, this.#options.glanceMs ?? 2000).unref()
  }

  /** What is in force. */
  get current(): CompiledFilter | undefined {
    return this.#current
  }

  /** The engine said that what was read does not hold any more. Returns at once. */
  watched(): void {
    if (this.#closed) return
    this.#lastWatched = Date.now()
    this.#isStale = true
    if (this.#roundSince !== 0) return
    this.#roundSince = this.#lastWatched
    this.#round = this.#follow()
  }

  /** The engine said that there may be more to leave out. Returns at once. */
  look(): void {
    if (this.#closed || !this.hasFileRules || this.#lookTimer !== undefined) return
    if (this.#isLooking) {
      this.#looksAgain = true
      return
    }
    const waits = Math.max(0, this.#nextLookMs - Date.now())
    this.#lookTimer = setTimeout(() => {
      this.#lookTimer = undefined
      this.#look = this.#lookForMore()
    }, waits).unref()
  }

  /** No setRanges comes after the promise is resolved. */
  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#glances)
    clearTimeout(this.#lookTimer)
    await this.#glance
    await this.#look
    await this.#round
    if (this.#current !== undefined) this.#forget(this.#current)
  }

  async #follow(): Promise<void> {
    while (!this.#closed) {
      const read = await this.#settled()
      if (this.#closed || read.compiled.policy !== this.#policy) this.#forget(read.compiled)
      else if (await this.#install(read)) break
    }
    this.#roundSince = 0
    if (this.#looksAgain && !this.#isLooking) {
      this.#looksAgain = false
      this.look()
    }
    if (this.#isStale) this.watched()
    else await this.#glanceAround()
  }

  /** In the background: what is read comes into force if no round has begun meanwhile, which reads by itself. */
  async #lookForMore(): Promise<void> {
    if (this.#roundSince !== 0) {
      this.#looksAgain = true // what that round has read may be older
      return
    }
    const began = Date.now()
    this.#isLooking = true
    const read = await this.#readWatched()
    const isLate = this.#closed || this.#roundSince !== 0 || read.compiled.policy !== this.#policy
    if (isLate) this.#forget(read.compiled)
    const isDone = isLate || (await this.#install(read))
    this.#isLooking = false
    const now = Date.now()
    this.#nextLookMs = now + Math.max(this.#options.lookMs ?? 250, lookShare * (now - began))
    if (!isDone || this.#looksAgain) {
      this.#looksAgain = false
      this.look()
    }
  }

  /** Is there another table, or file system, than what is in force knows? */
  async #glanceAround(): Promise<void> {
    const policy = this.#policy
    if (this.#refusals.isOver(Date.now())) this.look()
    const places = await this.#placesNow(policy)
    if (this.#closed || this.#roundSince !== 0 || policy !== this.#policy || this.#current === undefined) return
    if (this.#isStale || this.#current.places !== places) this.watched()
  }

  async #placesNow(policy: FilterPolicy): Promise<string> {
    const { findFileSystems, readEntries } = this.#options
    try {
      const table = asksTable(policy) ? tableOf(await readEntries()) : undefined
      return placesOf(table, policy.files === undefined ? [] : await findFileSystems())
    } catch {
      return placesOf(undefined, [])
    }
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
      const { partitions } = read.compiled.policy
      const whole = partitions.every(number => read.table?.partitions.has(number) === true)
      if (whole || late) return read
      this.#forget(read.compiled)
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
      if (sameTable(all, watched) || this.#closed) return { table: seen.table, compiled, mark }
      this.#forget(compiled)
      watched = all
    }
  }

  /** False: it must be read again. */
  async #install({ table, compiled, mark }: Read): Promise<boolean> {
    const before = this.#current
    const { device, log, setRanges } = this.#options
    try {
      const { refused, why } = await setRanges(compiled, mark)
      if (refused >= 0) {
        const content = compiled.files?.followed[refused]
        if (content !== undefined && this.#refusals.add(content, Date.now()))
          log(
            'warn',
            `${nameOf(content)} on ${device} changes faster than it can be read (${why}): replicated whole for now`,
          )
        return false
      }
    } catch (error) {
      log('warn', `${describe(error)}: the filter of ${device} is not in force yet`)
      this.#forget(compiled)
      await sleep(failedMs)
      return false
    }
    for (const content of compiled.files?.followed ?? []) this.#refusals.clear(content)
    this.#keepPlaces(table, compiled.policy)
    this.#current = compiled
    if (!compiled.tableKnown) {
      log('warn', `partition table of ${device} cannot be read any more: all of it is replicated until it can`)
    } else if (compiled.missing.length > 0) {
      log(
        'warn',
        `partition ${compiled.missing.join(', ')} has vanished from ${device}: replicated where it was last seen`,
      )
    } else if (before !== undefined && before.policy !== compiled.policy) {
      const left = formatSize(totalBytes(fromTable(compiled.byRanges)) + BigInt(compiled.files?.bytes ?? 0))
      log('info', `the filter of ${device} has been changed, and is in force: ${left} are left out`)
    } else if (before === undefined || !sameTable(before.byRanges, compiled.byRanges)) {
      log('info', `partition table of ${device} has changed: the replicated ranges follow it`)
    } else if (before.places !== compiled.places) {
      log('info', `file systems of ${device} have changed: what the rules for files leave out follows them`)
    }
    return true
  }

  async #compile({ table, reading }: Seen, policy: FilterPolicy): Promise<CompiledFilter> {
    const { sizeBytes } = this.#options
    const compiled = compileRanges(policy, table, sizeBytes, this.#lastKnown)
    const byRanges = compiled.excluded
    if (reading === undefined) return { ...compiled, policy, byRanges, places: placesOf(table, []) }
    try {
      const held = (content: FileSystemContent): string => this.#refusals.why(content, Date.now())
      const files = await compileLiveFiles(policy.files?.rules ?? [], reading, table, sizeBytes, held)
      return {
        ...compiled,
        policy,
        byRanges,
        excluded: toTable(union(fromTable(byRanges), files.around)),
        watched: toTable(union(fromTable(compiled.watched), files.watched)),
        files,
        places: placesOf(table, reading.contents),
      }
    } finally {
      reading.forget()
    }
  }

  #keepPlaces(table: PartitionTable | undefined, policy: FilterPolicy): void {
    for (const number of policy.partitions) {
      const range = table?.partitions.get(number)
      if (range !== undefined) this.#lastKnown.set(number, range)
    }
  }

  #forget({ files }: CompiledFilter): void {
    files?.forget()
  }

  /** A table that cannot be read is one that is not known; so are file systems then. */
  async #read(policy: FilterPolicy): Promise<Seen> {
    const { device, log, readEntries, readFiles } = this.#options
    let what = `partition table`
    try {
      const table = asksTable(policy) ? tableOf(await readEntries()) : undefined
      what = 'file systems'
      return { table, reading: policy.files === undefined ? undefined : await readFiles(true) }
    } catch (error) {
      log('warn', `read the ${what} of ${device}: ${describe(error)}`)
      return { table: undefined, reading: policy.files === undefined ? undefined : nothingRead }
    }
  }
}

interface Read {
  table: PartitionTable | undefined
  compiled: CompiledFilter
  mark: number
}

const nothingRead: FileReading = {
  contents: [],
  makeWatches: () =>
    Promise.resolve({ watches: 0, fileSystems: [], bytes: 0, rangeCount: 0, around: new BigUint64Array() }),
  forgetWatches: () => undefined,
  forget: () => undefined,
}

const asksTable = (policy: FilterPolicy): boolean => needsTable(policy) || policy.files !== undefined

function placesOf(table: PartitionTable | undefined, contents: readonly FileSystemContent[]): string {
  const partitions = [...(table?.partitions ?? [])].map(([number, { start, end }]) => `${number}:${start}-${end}`)
  const areas = (table?.areas ?? []).map(({ start, end }) => `${start}-${end}`)
  const found = contents.map(({ partition, logicalVolume, kind, uuid, sizeBytes, locatedBy }) =>
    [partition, logicalVolume, kind, uuid, sizeBytes, ...locatedBy].join(' '),
  )
  return [...partitions, ...areas, ...found].join('\n')
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, milliseconds))
}
