import fc from 'fast-check'
import t from 'tap'
import { compileRanges } from '../../src/filter/compile.js'
import { parseFileRules } from '../../src/filter/file-rules.js'
import { filterKeys, type FilterWish, setFilter, wantedFilter } from '../../src/filter/filter-change.js'
import { RangeFollower } from '../../src/filter/follow.js'
import type { FileReading } from '../../src/filter/live-files.js'
import { FilterError, checkPolicy } from '../../src/filter/policy.js'
import {
  clip,
  complement,
  fromTable,
  normalize,
  sameTable,
  toTable,
  totalBytes,
  union,
} from '../../src/filter/ranges.js'
import { tableOf } from '../../src/filter/table.js'
import type { TableEntry } from '../../src/filter/table.js'
import type { FileSystemContent } from '../../src/native/binding.js'
import type { ByteRange } from '../../src/core/units.js'

const MiB = 1n << 20n

function entry(number: number, offset: bigint, sizeBytes: bigint, scheme = 'gpt'): TableEntry {
  return { number, offset, sizeBytes, type: number === 0 ? 'table' : 'x', name: '', uuid: '', scheme }
}

/** A 64 MiB GPT disk: partition 1 at 1..9 MiB, 2 at 10..30, 3 at 30..40. */
const disk = 64n * MiB
const gpt: TableEntry[] = [
  entry(0, 0n, 34n * 512n),
  entry(1, MiB, 8n * MiB),
  entry(2, 10n * MiB, 20n * MiB),
  entry(3, 30n * MiB, 10n * MiB),
  entry(0, disk - 33n * 512n, 33n * 512n),
]

const range = (start: bigint, end: bigint): ByteRange => ({ start, end })
const policy = (partitions: number[], exclude: ByteRange[] = []): { partitions: number[]; exclude: ByteRange[] } => ({
  partitions,
  exclude,
})

t.test('one partition of a GPT: the head, the partition and the backup table are replicated', async t => {
  const compiled = compileRanges(policy([2]), tableOf(gpt), disk)
  t.strictSame(fromTable(compiled.excluded), [range(MiB, 10n * MiB), range(30n * MiB, disk - 33n * 512n)])
  t.strictSame(fromTable(compiled.watched), [range(0n, 24n * 1024n), range(disk - 33n * 512n, disk)])
  t.strictSame(compiled.missing, [])
})

t.test('two neighbours join; an excluded range is cut out afterwards, even of the table', async t => {
  const compiled = compileRanges(policy([2, 3], [range(12n * MiB, 13n * MiB), range(0n, 4096n)]), tableOf(gpt), disk)
  t.strictSame(fromTable(compiled.excluded), [
    range(0n, 4096n),
    range(MiB, 10n * MiB),
    range(12n * MiB, 13n * MiB),
    range(40n * MiB, disk - 33n * 512n),
  ])
})

t.test('a logical partition of an MBR comes with every EBR of the chain', async t => {
  const entries = [
    entry(0, 0n, 512n, 'dos'),
    entry(1, 32256n, 4n * MiB, 'dos'),
    entry(2, 10n * MiB, 50n * MiB, 'dos'),
    entry(0, 10n * MiB, 512n, 'dos'),
    entry(5, 11n * MiB, 4n * MiB, 'dos'),
    entry(0, 19n * MiB, 512n, 'dos'),
    entry(6, 20n * MiB, 4n * MiB, 'dos'),
  ]
  const compiled = compileRanges(policy([6]), tableOf(entries), disk)
  t.strictSame(fromTable(compiled.excluded), [
    range(32256n, 10n * MiB),
    range(10n * MiB + 512n, 19n * MiB),
    range(19n * MiB + 512n, 20n * MiB),
    range(24n * MiB, disk),
  ])
  t.strictSame(fromTable(compiled.watched), [
    range(0n, 24n * 1024n),
    range(10n * MiB, 10n * MiB + 512n),
    range(19n * MiB, 19n * MiB + 512n),
  ])
})

t.test('without partitions in the policy only the excluded ranges are left out, and nothing is watched', async t => {
  const compiled = compileRanges(
    policy([], [range(5n, 10n), range(8n, 20n), range(60n * MiB, 90n * MiB)]),
    undefined,
    disk,
  )
  t.strictSame(fromTable(compiled.excluded), [range(5n, 20n), range(60n * MiB, disk)])
  t.equal(compiled.watched.length, 0)
})

t.test('a policy the device cannot fulfil is refused with a line that names the thing', async t => {
  t.throws(() => checkPolicy(policy([1, 7]), tableOf(gpt), disk, '/dev/a'), {
    code: 'NO_PARTITION',
    exitCode: 2,
    message: 'replicate partition=7: not on /dev/a, whose partitions are: 1, 2, 3',
  })
  t.throws(() => checkPolicy(policy([1]), tableOf([]), disk, '/dev/a'), { code: 'NO_PARTITION_TABLE' })
  t.throws(() => checkPolicy(policy([1]), tableOf([entry(1, 0n, MiB, 'mac')]), disk, '/dev/a'), {
    code: 'NO_PARTITION_TABLE',
  })
  t.throws(() => checkPolicy(policy([], [range(0n, disk + 1n)]), undefined, disk, '/dev/a'), {
    code: 'EXCLUDE_OUTSIDE',
  })
  t.ok(new FilterError('X', 'y') instanceof Error)
})

t.test('what is not known is replicated: a vanished partition keeps its place, a lost table means all', async t => {
  const lastKnown = new Map([[3, range(30n * MiB, 40n * MiB)]])
  const without = gpt.filter(one => one.number !== 3)
  const vanished = compileRanges(policy([3]), tableOf(without), disk, lastKnown)
  t.strictSame(fromTable(vanished.excluded), [range(MiB, 30n * MiB), range(40n * MiB, disk - 33n * 512n)])
  t.strictSame(vanished.missing, [3])
  const lost = compileRanges(policy([3], [range(2n * MiB, 3n * MiB)]), undefined, disk, lastKnown)
  t.strictSame(fromTable(lost.excluded), [range(2n * MiB, 3n * MiB)])
  t.equal(lost.tableKnown, false)
  t.strictSame(
    fromTable(lost.watched),
    [range(0n, 24n * 1024n), range(disk - 65536n, disk)],
    'a new table would be seen',
  )
})

// --- properties

const size = 1000n
const anyRange = fc
  .tuple(fc.bigInt(0n, 1200n), fc.bigInt(0n, 300n))
  .map(([start, length]) => range(start, start + length))
const anyRanges = fc.array(anyRange, { maxLength: 12 })
const members = (ranges: readonly ByteRange[]): boolean[] =>
  Array.from({ length: Number(size) }, (_, i) => ranges.some(one => one.start <= BigInt(i) && BigInt(i) < one.end))

function isNormal(ranges: readonly ByteRange[]): boolean {
  return ranges.every((one, i) => one.start < one.end && (i === 0 || one.start > (ranges[i - 1]?.end ?? -1n)))
}

t.test('sets of ranges behave like sets of bytes', async t => {
  fc.assert(
    fc.property(anyRanges, anyRanges, (a, b) => {
      const [inA, inB] = [members(a), members(b)]
      const both = union(a, b)
      const outside = complement(a, size)
      return (
        isNormal(normalize(a)) && isNormal(both) && isNormal(outside) &&
        members(both).every((value, i) => value === (inA[i] === true || inB[i] === true)) &&
        members(outside).every((value, i) => value !== inA[i]) &&
        sameTable(toTable(complement(outside, size)), toTable(normalize(clip(a, size)))) &&
        totalBytes(outside) === BigInt(inA.filter((value) => !value).length)
      )
    }),
  ) // prettier-ignore
  t.strictSame(fromTable(toTable([range(1n, 5n)])), [range(1n, 5n)])
})

t.test('whatever table and policy: sorted, disjoint, inside the device; chosen bytes in, the rest out', async t => {
  const anyTable = fc.array(anyRange, { maxLength: 6 }).map(ranges => {
    const found = ranges.filter(one => one.start < size && one.start < one.end)
    return [entry(0, 0n, 1n), ...found.map((one, i) => entry(i + 1, one.start, one.end - one.start))]
  })
  const check = (): void =>
    fc.assert(
      fc.property(
        anyTable,
        fc.uniqueArray(fc.integer({ min: 1, max: 7 }), { maxLength: 4 }),
        anyRanges,
        (entries, partitions, exclude) => {
          const table = tableOf(entries)
          const compiled = compileRanges(policy(partitions, exclude), table, size)
          const excluded = fromTable(compiled.excluded)
          if (!isNormal(excluded) || !isNormal(fromTable(compiled.watched))) return false
          if ([...excluded, ...fromTable(compiled.watched)].some(one => one.end > size)) return false
          const left = members(excluded)
          const byName = members(exclude)
          const chosen = members(partitions.flatMap(number => table?.partitions.get(number) ?? []))
          const first = Math.min(Number(size), ...entries.slice(1).map(one => Number(one.offset)))
          return left.every((out, i) => {
            const kept = partitions.length === 0 || chosen[i] === true || i === 0 || i < first
            return out === (byName[i] === true || !kept)
          })
        },
      ),
    )
  t.doesNotThrow(check)
})

// --- following a live table

/** Each file system's files are followed, at its extents. */
function reading(contents: readonly FileSystemContent[], refuses = ''): FileReading {
  return {
    contents,
    makeWatches: async leftOut => {
      const ranges = contents.flatMap(({ listing }, index) => {
        const [start = 0, bytes = 0] = listing?.extents ?? []
        return leftOut[index] === undefined || refuses !== ''
          ? []
          : [{ start: BigInt(start), end: BigInt(start + bytes) }]
      })
      const bytes = Number(ranges.reduce((sum, { start, end }) => sum + end - start, 0n))
      const followed = refuses === ''
      return {
        ...{ watches: 7, bytes, rangeCount: ranges.length, around: toTable(ranges) },
        fileSystems: leftOut.map(files => ({ followed: files !== undefined && followed, why: refuses, bytes })),
      }
    },
    forgetWatches: () => undefined,
    forget: () => undefined,
  }
}

interface Rig {
  follower: RangeFollower
  tables: ByteRange[][]
  messages: string[]
}

function rig(read: () => readonly TableEntry[], settleMsMax = 400): Rig {
  const tables: ByteRange[][] = []
  const messages: string[] = []
  const follower = new RangeFollower({
    policy: policy([3]),
    sizeBytes: disk,
    device: 'disk.img',
    readEntries: async () => read(),
    findFileSystems: async () => [],
    readFiles: async () => reading([]),
    isWritten: () => false,
    watchRanges: async () => 0,
    setRanges: async ({ excluded }) => {
      tables.push(fromTable(excluded))
      return { refused: -1, why: '' }
    },
    log: (level, message) => void messages.push(`${level}: ${message}`),
    settleMs: 20,
    settleMsMax,
  })
  return { follower, tables, messages }
}

const until = async (condition: () => boolean): Promise<void> => {
  for (let i = 0; i < 6000 && !condition(); i++) await new Promise(resolve => setTimeout(resolve, 10))
}
const moved = gpt.map(one => (one.number === 3 ? entry(3, 45n * MiB, 2n * MiB) : one))
const tail = range(47n * MiB, disk - 33n * 512n)

t.test('a table that is being rewritten is read when it is whole, once', async t => {
  let entries: readonly TableEntry[] = gpt
  const { follower, tables, messages } = rig(() => entries)
  await follower.start()
  entries = []
  follower.watched()
  setTimeout(() => {
    entries = moved
    follower.watched()
  }, 100)
  await until(() => tables.length > 0)
  t.strictSame(tables, [[range(MiB, 45n * MiB), tail]])
  t.match(messages, ['info: partition table of disk.img has changed: the replicated ranges follow it'])
  await follower.close()
})

t.test(
  'a table that does not get whole is taken as it is after the limit, and the next write is followed again',
  async t => {
    let entries: readonly TableEntry[] = gpt
    const { follower, tables, messages } = rig(() => entries, 100)
    await follower.start()
    entries = []
    follower.watched()
    await until(() => tables.length > 0)
    t.strictSame(tables, [[]], 'all is replicated')
    t.match(
      messages[0],
      /^warn: partition table of disk.img cannot be read any more: all of it is replicated until it can/,
    )
    entries = moved
    follower.watched()
    await until(() => tables.length > 1)
    t.strictSame(tables[1], [range(MiB, 45n * MiB), tail])
    await follower.close()
  },
)

t.test('a change between the read and setRanges is found by the second read', async t => {
  let reads = 0
  const { follower, tables } = rig(() => (++reads <= 2 ? gpt : moved))
  await follower.start()
  follower.watched()
  await until(() => tables.length > 1)
  t.strictSame(tables.at(-1), [range(MiB, 45n * MiB), tail])
  await follower.close()
  t.equal(tables.length, 2)
})

const swapAt = (start: number, located = start): FileSystemContent => ({
  ...{ partition: 0, logicalVolume: 'vg/swap', kind: 'swap', label: '', uuid: '', sizeBytes: 65536, blockBytes: 4096 },
  ...{ unread: '', locatedBy: Float64Array.of(located, 4096) },
  listing: {
    files: Float64Array.of(61440, 61440, 0, 0, 0, 1),
    links: Uint32Array.of(0, 0, 0, 4),
    directories: Uint32Array.of(0, 0, 0),
    names: new TextEncoder().encode('swap'),
    extents: Float64Array.of(start + 4096, 61440, 0),
    ...{ namelessFiles: 0, journalPending: false, journalUnread: '', problems: 0, firstProblem: '' },
  },
})

interface FileRig {
  follower: RangeFollower
  events: string[]
  /** What is on the device, and what the engine says. */
  device: { contents: FileSystemContent[]; isWritten: boolean; refusals: number; unfollowed: string }
}

function fileRig(): FileRig {
  const events: string[] = []
  const device: FileRig['device'] = { contents: [swapAt(0)], isWritten: false, refusals: 0, unfollowed: '' }
  let mark = 6
  const text = (ranges: BigUint64Array): string => fromTable(ranges).map(({ start, end }) => `${start}-${end}`).join(' ') // prettier-ignore
  const follower = new RangeFollower({
    policy: { partitions: [], exclude: [], files: { rules: parseFileRules(['/swap'], []), fallback: 'refuse' } },
    ...{ sizeBytes: disk, device: 'disk.img', settleMs: 20, glanceMs: 20, lookMs: 50 },
    readEntries: async () => [],
    findFileSystems: async () => device.contents,
    readFiles: async () => {
      events.push('read')
      return reading(device.contents, device.unfollowed)
    },
    isWritten: () => device.isWritten,
    watchRanges: async watched => {
      events.push(`watch ${text(watched)}`)
      return ++mark
    },
    setRanges: async ({ excluded, watched, files }, given) => {
      const refused = device.refusals-- > 0 && (files?.followed.length ?? 0) > 0
      events.push(`${refused ? 'refused' : 'set'} ${text(excluded)} / ${text(watched)} / ${given}`)
      return { refused: refused ? 0 : -1, why: '' }
    },
    log: (_, message) => void events.push(message),
  })
  return { follower, events, device }
}
const setOf = (events: string[]): string[] => events.filter(event => event.startsWith('set'))

t.test(
  'what depends on a range that is not watched yet is read again when it is, and goes in force with that mark',
  async t => {
    const { follower, events, device } = fileRig()
    device.contents = [{ ...swapAt(0), unread: 'no', listing: undefined }]
    await t.rejects(follower.start(), { code: 'FILES_NOT_FOLLOWED', exitCode: 2 })
    device.contents = [swapAt(0)]
    device.unfollowed = 'it has no journal'
    await t.rejects(follower.start(), { code: 'FILES_NOT_FOLLOWED', exitCode: 2, message: /it has no journal/ })
    device.unfollowed = ''
    events.length = 0
    t.equal((await follower.start(true)).files, undefined)
    t.same(events, [], 'clients wait: nothing is read')
    const { excluded, watched } = await follower.start()
    const text = (ranges: BigUint64Array): string[] => fromTable(ranges).map(({ start, end }) => `${start}-${end}`)
    t.same([text(excluded), text(watched)], [['4096-65536'], ['0-4096']])
    events.length = 0
    follower.begin()
    device.contents = [swapAt(1 << 20)]
    await new Promise(resolve => setTimeout(resolve, 100))
    t.same(events, [], 'nobody writes: nobody looks')
    device.isWritten = true
    await until(() => setOf(events).length > 0)
    device.isWritten = false
    await follower.close()
    t.same(events.filter(event => /^(watch|set)/.test(event)), [
      'watch 0-4096',
      'watch 0-4096 1048576-1052672',
      'set 1052672-1114112 / 1048576-1052672 / 8',
    ]) // prettier-ignore
    t.equal(events[events.indexOf('watch 0-4096 1048576-1052672') + 1], 'read')
  },
)

t.test(
  'a file system out of which nothing is left out yet is followed, and none that cannot be is refused',
  async t => {
    const { follower, device } = fileRig()
    const empty = swapAt(0)
    if (empty.listing !== undefined) empty.listing.names = new TextEncoder().encode('none')
    device.contents = [empty]
    const { files } = await follower.start()
    t.match(files, { followed: [{ kind: 'swap' }], account: { fileSystems: [{ leftOutFiles: 0 }] } })
    device.unfollowed = 'it has no journal'
    t.match((await follower.start()).files, { followed: [], unfollowed: [] })
    await follower.close()
  },
)

t.test('what comes while a round reads is looked for when it has ended', async t => {
  const { follower, events } = fileRig()
  await follower.start()
  events.length = 0
  follower.watched()
  follower.look()
  await until(() => setOf(events).length === 2)
  await follower.close()
  t.equal(setOf(events).length, 2)
})

t.test('files that have grown are read in the background, once in a while, without waiting for quiet', async t => {
  const { follower, events } = fileRig()
  await follower.start()
  events.length = 0
  const began = Date.now()
  for (let i = 0; i < 20; i++) follower.look()
  await until(() => setOf(events).length === 1)
  for (let i = 0; i < 20; i++) follower.look()
  await until(() => setOf(events).length === 2)
  t.ok(Date.now() - began >= 50, 'not sooner than lookMs')
  await follower.close()
  t.equal(setOf(events).length, 2)
})

t.test(
  'a file system that the engine refuses again and again is replicated whole, so that the step closes',
  async t => {
    const { follower, events, device } = fileRig()
    await follower.start()
    events.length = 0
    device.refusals = 2
    follower.watched()
    await until(() => setOf(events).length > 0)
    t.match(setOf(events), [/^set 4096-65536 /], 'it is tried again')
    device.refusals = 100
    follower.watched()
    await until(() => setOf(events).length > 1)
    t.match(setOf(events)[1], /^set {2}\/ {2}\/ /, 'nothing is left out')
    t.match(events.join('\n'), /changes faster than it can be read/)
    t.match(follower.current?.files?.account.fileSystems[0], { replicatedBecause: /^it changes faster/ })
    await follower.close()
  },
)

t.test(
  'a changed policy is in force when change() resolves; one that the device cannot fulfil changes nothing',
  async t => {
    const { follower, tables, messages } = rig(() => gpt)
    const before = await follower.start()
    await t.rejects(follower.change(policy([4])), { code: 'NO_PARTITION', exitCode: 2 })
    await t.rejects(follower.change(policy([], [range(0n, disk + 1n)])), { code: 'EXCLUDE_OUTSIDE' })
    t.equal(follower.current, before)
    t.strictSame(tables, [])
    const headAnd2 = [range(MiB, 10n * MiB), range(30n * MiB, disk - 33n * 512n)]
    for (const [wanted, left] of [
      [policy([2]), headAnd2],
      [policy([]), []],
      [policy([], [range(5n, 7n)]), [range(5n, 7n)]],
      [policy([3]), fromTable(before.excluded)],
    ] as const) {
      t.strictSame(await follower.change(wanted), [])
      t.strictSame(tables.at(-1), left)
      t.same(follower.current?.policy, wanted)
    }
    t.equal(tables.length, 4, 'one step each')
    t.match(messages[0], 'info: the filter of disk.img has been changed, and is in force: 43.0 MiB are left out')
    await follower.close()
    await t.rejects(follower.change(policy([2])), { code: 'CLOSING' })
    t.equal(tables.length, 4, 'nothing after close')
  },
)

t.test(
  'another filter in the words of the command line: what is named is replaced, the rest stays or is cleared',
  async t => {
    const nothing = { clear: false, replicate: [], exclude: [], excludeFiles: [], onlyFiles: [], fallback: '' }
    const before = {
      ...policy([2], [range(0n, 4096n)]),
      files: { exclude: ['/swap'], only: [], fallback: 'all' as const },
    }
    const keys = (wish: Partial<FilterWish>): string[] => filterKeys(wantedFilter(before, { ...nothing, ...wish }))
    t.strictSame(keys({ replicate: ['partition=3', 'partition=1', 'partition=3'] }), [
      'replicate = ["partition=1", "partition=3"]',
      'exclude = ["0-4096"]',
      'exclude_files = ["/swap"]',
      'filter_fallback = "all"',
    ])
    t.strictSame(keys({ onlyFiles: ['/a,b'], excludeFiles: ['/"'], fallback: 'refuse' }).slice(2), [
      'exclude_files = ["/\\""]',
      'only_files = ["/a,b"]',
    ])
    t.strictSame(keys({ clear: true, exclude: ['1MiB+1MiB'] }), ['exclude = ["1048576-2097152"]'])
    t.strictSame(keys({ clear: true }), [])
    for (const [wish, message] of [
      [{ replicate: ['partition=0'] }, /is not a partition/],
      [{ clear: true, fallback: 'all' }, /about rules for files/],
      [{ fallback: 'some' }, /one of refuse, all/],
      [{ excludeFiles: ['x'] }, /absolute path/],
    ] as const)
      t.throws(() => keys(wish), { exitCode: 2, message })
    const config = { name: 'd', device: '/d', readOnly: false, direct: false, ...before }
    setFilter(config, policy([1]))
    t.strictSame(config, { name: 'd', device: '/d', readOnly: false, direct: false, ...policy([1]) })
  },
)

t.test('what a round has read for the policy before never comes into force', async t => {
  const holds: Promise<void>[] = []
  let begun = (): void => undefined
  const tables: ByteRange[][] = []
  const follower = new RangeFollower({
    ...{ policy: policy([3]), sizeBytes: disk, device: 'disk.img', settleMs: 5 },
    readEntries: async () => {
      begun()
      await holds.at(-1)
      return gpt
    },
    findFileSystems: async () => [],
    readFiles: async () => reading([]),
    isWritten: () => false,
    watchRanges: async () => 0,
    setRanges: async ({ excluded }) => {
      tables.push(fromTable(excluded))
      return { refused: -1, why: '' }
    },
    log: () => undefined,
  })
  await follower.start()
  const held = new Promise<void>(resolve => (begun = resolve))
  let release = (): void => undefined
  holds.push(new Promise(resolve => (release = resolve)))
  follower.watched()
  await held
  const change = follower.change(policy([], [range(0n, 5n)])) // asks no table
  await new Promise(resolve => setTimeout(resolve, 30))
  t.strictSame(tables, [], 'the round is still reading for partition 3')
  release()
  await change
  t.strictSame(tables, [[range(0n, 5n)]])
  await follower.close()
})

t.test('a change waits for the round after one that is bringing the policy before into force', async t => {
  const tables: ByteRange[][] = []
  let begun = (): void => undefined
  let release = (): void => undefined
  const [held, hold] = [begun, release].map((_, index) =>
    new Promise<void>(resolve => (index === 0 ? (begun = resolve) : (release = resolve))),
  ) // prettier-ignore
  const follower = new RangeFollower({
    ...{ policy: policy([3]), sizeBytes: disk, device: 'disk.img', settleMs: 5 },
    readEntries: async () => gpt,
    findFileSystems: async () => [],
    readFiles: async () => reading([]),
    isWritten: () => false,
    watchRanges: async () => 0,
    setRanges: async ({ excluded }) => {
      begun()
      await hold
      tables.push(fromTable(excluded))
      return { refused: -1, why: '' }
    },
    log: () => undefined,
  })
  await follower.start()
  follower.watched()
  await held
  const change = follower.change(policy([], [range(0n, 5n)]))
  await new Promise(resolve => setTimeout(resolve, 30))
  release()
  await change
  t.strictSame(tables.at(-1), [range(0n, 5n)])
  t.equal(tables.length, 2)
  await follower.close()
})

t.test('a read that fails is a table that is not known: the step is closed all the same', async t => {
  let broken = false
  const { follower, tables, messages } = rig(() => {
    if (broken) throw Object.assign(new Error('EIO'), { code: 'EIO' })
    return gpt
  }, 60)
  await follower.start()
  broken = true
  follower.watched()
  await until(() => tables.length > 0)
  t.strictSame(tables, [[]])
  t.match(messages[0], /^warn: read the partition table of disk.img/)
  await follower.close()
  follower.watched()
  t.equal(tables.length, 1, 'nothing after close')
})
