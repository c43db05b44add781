import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'

import type { GroupConfig } from '../../../src/core/config-types.js'
import type { Handed } from '../../../src/core/handed.js'
import { readGroup } from '../../../src/master/group-file.js'
import type { Seed } from '../../../src/master/group-preparation.js'
import { LagPause } from '../../../src/master/lag-pause.js'
import { MasterGroup } from '../../../src/master/master-group.js'
import { volumePath } from '../../../src/master/volume-file.js'
import { errno, FakeAddon, FakeClock, FakeTransport, rememberingLog } from '../transport/fakes.js'

const sizeBytes = 1 << 20

function scratch(t: Test) {
  const directory = mkdtempSync(join(tmpdir(), 'master-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const device = join(directory, 'device')
  writeFileSync(device, '')
  truncateSync(device, sizeBytes)
  return { state: join(directory, 'state'), device }
}

async function open(
  t: Test,
  { state, device }: { state: string; device: string },
  changes: Partial<GroupConfig> = {},
  fake = new FakeAddon(),
  heldLeases: ReadonlyMap<string, bigint> = new Map(),
  seed?: Seed,
  handed?: Handed,
  bootId = 'this boot',
) {
  const clock = new FakeClock()
  const transport = new FakeTransport()
  const { log, lines } = rememberingLog()
  const config: GroupConfig = {
    name: 'disk1',
    volumes: [{ name: 'disk1', device, readOnly: false, direct: false, partitions: [], exclude: [] }],
    standby: { id: 'f'.repeat(64), host: '192.0.2.1', port: 7000 },
    durability: 'flush',
    standbyLoss: { policy: 'continue' },
    maxLag: { bytes: 0, milliseconds: 0 },
    onMaxLag: 'block',
    logBytes: 1 << 28,
    peerTimeoutMs: 5_000,
    transport: 'quic',
    bandwidth: 0,
    compress: 'off',
    resyncRate: 0,
    drainTimeoutMs: 30_000,
    ...changes,
  }
  if (changes.standby === undefined && 'standby' in changes) delete config.standby
  const deps = {
    addon: fake.addon,
    events: fake,
    identity: { pem: '', id: 'a'.repeat(64) },
    stateDirectory: state,
    log,
    clock,
    transport,
    random: () => 0.5,
    heldLeases,
    ...(handed && { handed: () => handed }),
    bootId,
    settled: () => settled.push(group.isOwed),
  }
  const settled: boolean[] = []
  const group = await MasterGroup.open(config, deps, seed)
  t.teardown(() => group.close({ drainMs: 0 }))
  const counters = (values: Record<string, bigint>): void => fake.set('group', group.counterPage, values)
  const incarnation = fake.groups.at(-1)?.incarnation ?? 0n
  /** The standby says where it stands, and the engine attaches. */
  const welcome = (changes: object = {}): void => {
    transport.last.establish()
    transport.last.receive({
      type: 'welcome',
      protocol: 1,
      program: '0',
      replicaId: 'copy',
      incarnation: '0',
      received: '0',
      fresh: true,
      initial: true,
      ...changes,
    })
    fake.emit({ type: 'attached', group: 1, session: transport.last.id, mode: 'resync' })
  }
  const inSync = (sequence: bigint): void =>
    counters({
      state: 2n,
      peer_incarnation: incarnation,
      peer_flags: 0n,
      written_sequence: sequence,
      durable_sequence: sequence,
      applied_sequence: sequence,
    })
  return { group, fake, clock, transport, lines, counters, welcome, inSync, incarnation, settled }
}

/** Promises of the fake clock's time. */
async function closing(
  group: MasterGroup,
  clock: FakeClock,
  drainMs: number,
  hand?: (given: Handed) => void,
): ReturnType<MasterGroup['close']> {
  const done = group.close({ drainMs, ...(hand && { hand: (_, given) => hand(given) }) })
  let over = false
  const ends = (): void => void (over = true)
  done.then(ends, ends)
  // Files are synced for real: give them real time, too, and as much as they need.
  for (let turn = 0; turn < 20 || !over; turn++) {
    await clock.advance(drainMs / 10)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  return done
}

t.test(
  'before the engine is opened the state says that this incarnation runs, and that it has not stopped cleanly',
  async t => {
    const place = scratch(t)
    const { group, incarnation } = await open(t, place)
    t.match(readGroup(place.state, 'disk1'), { incarnation, clean: undefined })
    t.match(group.exports(), [{ name: 'disk1', readOnly: false }])
    t.match(group.status(), [
      { role: 'master', state: 'detached', protected: false, usable: false, peers: [{ session: 'connecting' }] },
    ])
  },
)

t.test('what the standby says decides what is compared', async t => {
  const { fake, welcome, transport, clock, inSync, incarnation, group } = await open(t, scratch(t))
  welcome()
  t.match(fake.attached, [{ fresh: true, initial: true, allDirty: true, peerIncarnation: 0n }])
  inSync(7n)
  t.match(group.status(), [
    { state: 'replicating', usable: true, protected: true, written: '7', applied: '7', reason: '' },
  ])
  transport.last.end('timeout')
  t.match(group.status(), [
    {
      state: 'detached',
      protected: false,
      usable: true,
      reason: /not heard any more; writes are kept in the replication log/,
    },
  ])
  await clock.advance(3_000)
  welcome({ incarnation: String(incarnation), received: '9', fresh: false, initial: false })
  t.match(fake.attached.at(-1), { fresh: false, initial: false, allDirty: false, peerReceived: 9n })
  transport.last.end('timeout')
  await clock.advance(3_000)
  welcome({ incarnation: String(incarnation), received: '6', fresh: false, initial: false })
  t.match(fake.attached.at(-1), { allDirty: true }, 'it has less than it had acknowledged')
})

const lease = { leaseMs: 10_000 }

t.test('with a lease clients wait from the start on until the standby grants one, and status says so', async t => {
  const { group, fake, lines, welcome, inSync } = await open(t, scratch(t), lease)
  t.match(fake.groups[0]?.lease, { lengthMs: 10_000, usableMs: 9_900, required: true, untilNs: 0n })
  t.match(group.status(), [
    {
      reason: /^clients wait: there is no lease yet \(10.0 s\)/,
      lease: { seconds: 10, secondsLeft: 0, inForce: true },
    },
  ])
  t.match(lines.join(''), /not answered before the standby has granted a lease/)
  welcome(lease)
  inSync(7n)
  fake.heldLease = { untilNs: 5n, leftMs: 9_000 }
  t.match(group.status(), [{ protected: true, reason: '', lease: { secondsLeft: 9 } }])
  fake.heldLease.leftMs = 0
  fake.emit({ type: 'lease', group: 1, held: false })
  t.match(group.status(), [{ protected: false, reason: /^clients wait: the lease has run out/ }])
  t.match(lines.join(''), /lease has run out \(10.0 s\): clients wait/)
  t.same(fake.calls.includes('startLease'), false, 'it was needed all the time')
})

t.test('a standby that grants no lease is told so, and not replicated to as if it did', async t => {
  const { group, fake, welcome, transport } = await open(t, scratch(t), lease)
  welcome()
  t.match(transport.last.closedWith, /grants no lease; upgrade it, or start this master without --lease/)
  t.same(fake.attached, [])
  t.match(group.status(), [{ state: 'detached', reason: /grants no lease/ }])
})

t.test(
  'compression is in force if the standby says so; an older one gets records as they are, and status says why',
  async t => {
    const config = { compress: 'zstd' } as const
    const newer = await open(t, scratch(t), config)
    newer.welcome({ compress: 'zstd' })
    t.match(newer.fake.attached, [{ compress: 'zstd' }])
    t.match(newer.group.status(), [
      { peers: [{ compression: { asked: 'zstd', inForce: 'zstd', reason: '', ratio: null } }] },
    ])
    const older = await open(t, scratch(t), config)
    older.welcome()
    t.match(older.fake.attached, [{ compress: 'off' }])
    t.match(older.group.status(), [
      { peers: [{ compression: { asked: 'zstd', inForce: 'off', reason: /does not know zstd/ } }] },
    ])
    const confused = await open(t, scratch(t), config)
    confused.welcome({ compress: 'lz4' })
    t.same(confused.fake.attached, [])
    t.match(confused.transport.last.closedWith, /expects records compressed by lz4, zstd was asked for/)
  },
)

t.test('pause is refused with a lease (exit 3)', async t => {
  const { group } = await open(t, scratch(t), lease)
  t.throws(() => group.pause(), { code: 'LEASE', exitCode: 3, message: /clients would wait/ })
})

t.test('a daemon that goes on for another one has what is left of its lease', async t => {
  const { group, fake } = await open(t, scratch(t), lease, new FakeAddon(), new Map([['disk1', 77n]]))
  t.match(fake.groups[0]?.lease, { untilNs: 77n })
  fake.heldLease = { untilNs: 88n, leftMs: 4_000 }
  t.equal(group.leaseUntilNs, 88n)
})

// Whoever is asked for the first time may count from his welcome: what that takes is on disk, and in the engine, before.
t.test(
  'a promoted master needs no lease before a standby is asked; then from that moment on, also after a restart',
  async t => {
    const place = scratch(t)
    const seed = { volumes: [], history: [], known: { replicaId: 'id:01', positions: [] }, isOnlyCopy: true }
    const back = await open(t, scratch(t), lease, new FakeAddon(), new Map(), { ...seed, isOnlyCopy: false })
    t.match(back.fake.groups[0]?.lease, { required: true }, 'but for one that takes its reign back')
    const waived = (): unknown => readGroup(place.state, 'disk1')?.leaseWaived
    const first = await open(t, place, lease, new FakeAddon(), new Map(), seed)
    t.match(first.fake.groups[0]?.lease, { required: false })
    const isThere = (): boolean => existsSync(volumePath(place.state, 'disk1'))
    t.same(
      [isThere(), existsSync(dirname(volumePath(place.state, 'disk1')))],
      [false, true],
      'it is read before its files are on disk, and its map is kept',
    )
    first.group.putOnDisk()
    t.same([isThere(), readGroup(place.state, 'disk1')?.leaseWaived], [true, true])
    t.match(first.group.status(), [{ lease: { inForce: false } }])
    t.notMatch(first.group.status(), [{ reason: /clients wait/ }])
    await closing(first.group, first.clock, 100)
    const second = await open(t, place, lease)
    t.match(second.fake.groups[0]?.lease, { required: false }, 'nobody has come meanwhile')
    const ask = (): void => second.transport.last.establish()
    ask()
    t.equal(second.fake.calls.at(-1), 'startLease')
    t.equal(waived(), undefined)
    second.transport.last.receive({ type: 'refused', code: 'paused', message: 'no', history: [], yield: false })
    t.equal(second.fake.calls.at(-1), 'waiveLease', 'who refuses will not be promoted')
    t.equal(waived(), true)
    await second.clock.advance(10_000)
    ask()
    second.transport.last.end('timeout')
    await second.clock.advance(10_000)
    ask()
    second.transport.last.receive({ type: 'refused', code: 'paused', message: 'no', history: [], yield: false })
    t.equal(second.fake.calls.filter(call => call === 'waiveLease').length, 1, 'who may have said yes before may be')
    await closing(second.group, second.clock, 100)
    const third = await open(t, place, lease)
    t.match(third.fake.groups[0]?.lease, { required: true })
    t.match(third.group.giveUpLease(), [/goes on without a lease until a standby is there again/])
    t.equal(third.fake.calls.at(-1), 'waiveLease')
    t.throws(() => third.group.giveUpLease(), { code: 'IS_MASTER', exitCode: 3 }, 'once')
    third.transport.last.establish()
    third.transport.last.receive({ type: 'refused', code: 'promoted', message: 'no', history: [], yield: false })
    t.equal(third.fake.calls.at(-1), 'startLease', 'who says that he was promoted has made it needed for good')
    t.throws(() => third.group.giveUpLease(), { code: 'DIVERGED', exitCode: 3 })
    const there = await open(t, scratch(t), lease)
    there.welcome(lease)
    t.throws(() => there.group.giveUpLease(), { code: 'IS_MASTER', message: /its standby is there/ })
  },
)

t.test('a clean stop drains, and the next start relies on what it left', async t => {
  const place = scratch(t)
  const first = await open(t, place)
  first.welcome()
  first.inSync(7n)
  t.same(await closing(first.group, first.clock, 1_000), { drained: true, dirtyBytes: 0 })
  t.same(first.fake.calls.slice(-3), ['quiesce', 'finishMap', 'closeGroup'])
  t.equal(first.transport.last.closedWith, 'the master has stopped')

  const second = await open(t, place)
  const path = join(place.state, 'volumes', 'disk1.map')
  t.match(second.fake.groups, [{ volumes: [{ map: { path, trusted: true, servedBefore: true } }] }])
  t.equal(readGroup(place.state, 'disk1')?.clean, undefined, 'a crash from here on is an unclean stop')
  second.welcome({ incarnation: String(first.incarnation), received: '7', fresh: false, initial: false })
  t.match(second.fake.attached, [{ allDirty: false }])
})

/** A group whose copy is in sync and whose maps are kept on disk (or not yet), and what it hands over. */
async function handingOver(t: Test, place: ReturnType<typeof scratch>, isKept: boolean) {
  const first = await open(t, place)
  first.welcome()
  first.inSync(7n)
  if (isKept) first.fake.emit({ type: 'resync-done', group: 1, sequence: 5n, bytes: 65536n })
  await new Promise(resolve => setImmediate(resolve))
  let handed: Handed | undefined
  const done = first.group.close({ drainMs: 50, hand: (_, given) => (handed = given) })
  await first.clock.advance(50)
  t.same(await done, { drained: true, dirtyBytes: 0 })
  t.same(first.fake.calls.slice(-3), ['quiesce', 'handOverMap', 'closeGroup'], 'nothing is flushed, no map is written')
  if (handed === undefined) throw new Error('nothing was handed over')
  return { first, handed }
}

const groupText = ({ state }: { state: string }): string => readFileSync(join(state, 'groups', 'disk1.json'), 'utf8')

t.test('what another process goes on with is not written, until that one is in force', async t => {
  const place = scratch(t)
  const { first, handed } = await handingOver(t, place, true)
  const before = groupText(place)
  t.match(readGroup(place.state, 'disk1'), { incarnation: first.incarnation, live: { known: { replicaId: 'copy' } } })
  const second = await open(t, place, {}, new FakeAddon(), new Map(), undefined, handed)
  t.match(second.fake.groups, [{ volumes: [{ map: { trusted: true, handed: 5 } }] }])
  t.equal(groupText(place), before, 'it may be that the first one goes on')
  t.equal(second.transport.sessions.length, 0, 'and the standby hears nothing')
  second.group.begin()
  t.match(readGroup(place.state, 'disk1'), { incarnation: second.incarnation, clean: undefined })
  t.match(readGroup(place.state, 'disk1')?.live, { known: { positions: [{ incarnation: first.incarnation }] } })
  second.welcome({ incarnation: String(first.incarnation), received: '7', fresh: false, initial: false })
  t.match(second.fake.attached, [{ allDirty: false }], 'the standby stands where it was left')
  t.notOk(second.fake.calls.includes('fillMap'), 'the maps on disk are kept all the time')
})

t.test('a group that was handed over and is closed before it began leaves everything as it was', async t => {
  const place = scratch(t)
  const { handed } = await handingOver(t, place, true)
  const before = groupText(place)
  const second = await open(t, place, {}, new FakeAddon(), new Map(), undefined, handed)
  let again: Handed | undefined
  await closing(second.group, second.clock, 50, given => (again = given))
  t.equal(groupText(place), before)
  t.ok(again !== undefined)
  const third = await open(t, place, {}, new FakeAddon(), new Map(), undefined, handed)
  third.group.begin()
  t.match(readGroup(place.state, 'disk1'), { incarnation: third.incarnation })
})

t.test('maps that were not kept on disk, or cannot be read, are made anew and believed after that only', async t => {
  for (const what of ['not kept', 'not readable']) {
    const place = scratch(t)
    const { first, handed } = await handingOver(t, place, what === 'not readable')
    const fake = new FakeAddon()
    fake.mapReadable = false
    let filled = (): void => undefined
    fake.fillMap = () => new Promise<void>(resolve => (filled = resolve))
    const second = await open(t, place, {}, fake, new Map(), undefined, handed)
    second.group.begin()
    t.equal(readGroup(place.state, 'disk1')?.live, undefined, `${what}: a crash now means that everything is compared`)
    filled()
    await new Promise(resolve => setImmediate(resolve))
    t.match(readGroup(place.state, 'disk1')?.live, { known: { replicaId: 'copy' } }, what)
    second.welcome({ incarnation: String(first.incarnation), received: '7', fresh: false, initial: false })
    t.match(second.fake.attached, [{ allDirty: false }], `${what}: the map in memory holds`)
  }
})

t.test('what is handed over and not for what the files say is not believed', async t => {
  const place = scratch(t)
  const { first, handed } = await handingOver(t, place, true)
  const document = { ...handed.document, incarnation: String(first.incarnation + 1n) }
  const second = await open(t, place, {}, new FakeAddon(), new Map(), undefined, {
    ...{ document, maps: handed.maps },
  })
  t.equal(second.fake.groups[0]?.volumes[0]?.map?.handed, undefined)
  t.match(readGroup(place.state, 'disk1'), { incarnation: second.incarnation }, 'as after a crash')
})

const trusted = ({ fake }: { fake: FakeAddon }): unknown => fake.groups[0]?.volumes[0]?.map?.trusted

t.test('a crash before the first copy was complete: nothing is believed', async t => {
  const place = scratch(t)
  const first = await open(t, place)
  first.welcome()
  first.inSync(7n)
  const second = await open(t, place)
  t.equal(trusted(second), false)
  second.welcome({ incarnation: String(first.incarnation), received: '7', fresh: false, initial: false })
  t.match(second.fake.attached, [{ allDirty: true, fresh: false }])
})

/** A group whose maps are kept on disk for the copy, killed; and the next start of it, whose maps have this floor. */
async function crashed(t: Test, floor: { incarnation?: bigint; durable: bigint } | undefined) {
  const place = scratch(t)
  const first = await open(t, place)
  first.welcome()
  first.inSync(7n)
  first.fake.emit({ type: 'resync-done', group: 1, sequence: 5n, bytes: 65536n })
  await new Promise(resolve => setImmediate(resolve))
  t.match(readGroup(place.state, 'disk1')?.live, { known: { replicaId: 'copy' } }, 'the maps are whole, and kept')
  const fake = new FakeAddon()
  fake.mapFloor = floor && { incarnation: first.incarnation, ...floor }
  return { place, first, second: await open(t, place, {}, fake) }
}

t.test('after a crash the maps on disk are believed for the copy they were kept for', async t => {
  const { place, first, second } = await crashed(t, { durable: 6n })
  t.equal(trusted(second), true)
  second.welcome({ incarnation: String(first.incarnation), received: '6', fresh: false, initial: false })
  t.match(second.fake.attached, [{ allDirty: false }])
  const third = await open(t, place, {}, Object.assign(new FakeAddon(), { mapFloor: second.fake.mapFloor }))
  third.welcome({ incarnation: String(second.incarnation), received: '0', fresh: false, initial: false })
  t.match(third.fake.attached, [{ allDirty: false }], 'and after another one, in which the copy got a new position')
})

/** As crashed(), under `received` and in sync; the next start is of a host that has lost its memory, or has not. */
async function paired(t: Test, boot: string, isMapGood = true) {
  const place = scratch(t)
  const first = await open(t, place, { durability: 'received' })
  first.welcome()
  first.inSync(7n)
  first.fake.emit({ type: 'resync-done', group: 1, sequence: 5n, bytes: 65536n })
  await new Promise(resolve => setImmediate(resolve))
  first.fake.emit({ type: 'pairing', group: 1, paired: true })
  const again = async (bootId: string, changes: Partial<GroupConfig> = {}) => {
    const fake = new FakeAddon()
    fake.mapFloor = isMapGood ? { incarnation: first.incarnation, durable: 6n } : undefined
    return open(t, place, { durability: 'received', ...changes }, fake, new Map(), undefined, undefined, bootId)
  }
  return { place, first, again, next: await again(boot) }
}
const stands = ({ incarnation }: { incarnation: bigint }, changes: object = {}): object => ({
  incarnation: String(incarnation),
  received: '7',
  fresh: false,
  initial: false,
  givesBack: true,
  ...changes,
})

t.test(
  'a host that lost its memory while the standby had everything asks for it back before it serves (G3)',
  async t => {
    const { place, first, next } = await paired(t, 'another boot')
    t.equal(next.group.isOwed, true)
    t.match(next.group.status(), [
      { protected: false, reason: /gives back what this side has lost, and no client of disk1/ },
    ])
    next.welcome(stands(first))
    t.match(next.fake.attached, [{ allDirty: false, giveBack: true }])
    t.same(next.settled, [])
    t.equal(readGroup(place.state, 'disk1')?.paired, 'this boot', 'a crash meanwhile changes nothing')
    next.fake.emit({ type: 'resync-done', group: 1, sequence: 9n, bytes: 65536n })
    t.same(next.settled, [false], 'clients may be served')
    t.equal(readGroup(place.state, 'disk1')?.paired, undefined)
  },
)

t.test('what is owed outlives a clean stop, and a crash in the middle', async t => {
  const { first, next, again } = await paired(t, 'another boot')
  await closing(next.group, next.clock, 0)
  const third = await again('another boot')
  t.equal(third.group.isOwed, true)
  third.welcome(stands(first))
  t.match(third.fake.attached, [{ giveBack: true }])
  t.equal((await again('another boot')).group.isOwed, true)
})

t.test('a process that was killed owes nothing: its host has what it wrote', async t => {
  const { place, first, next } = await paired(t, 'this boot')
  t.equal(next.group.isOwed, false)
  t.equal(readGroup(place.state, 'disk1')?.paired, undefined, 'before the first client, after the device is flushed')
  next.welcome(stands(first))
  t.match(next.fake.attached, [{ giveBack: false }])
})

t.test('nothing is owed once somebody was answered without the standby, and that is on disk first', async t => {
  const { place, first, again } = await paired(t, 'this boot')
  first.fake.emit({ type: 'pairing', group: 1, paired: true })
  t.equal(readGroup(place.state, 'disk1')?.paired, 'this boot')
  first.fake.emit({ type: 'pairing', group: 1, paired: false })
  t.equal(readGroup(place.state, 'disk1')?.paired, undefined)
  t.equal(first.fake.calls.at(-1), 'part', 'now the engine may answer')
  t.equal((await again('another boot')).group.isOwed, false)
})

t.test('another filter counts once everything is given back', async t => {
  const { place, first, again } = await paired(t, 'this boot')
  first.fake.emit({ type: 'pairing', group: 1, paired: true })
  const exclude = [{ start: 0n, end: 65536n }]
  const next = await again('another boot', {
    volumes: [{ name: 'disk1', device: place.device, readOnly: false, direct: false, partitions: [], exclude }],
  })
  next.welcome(stands(first))
  t.notOk(next.fake.calls.includes('setRanges'), 'the standby has what the filter left out at the time')
  const all = { partitions: [], exclude: [] }
  await t.rejects(next.group.changeFilter('disk1', all), { code: 'NOT_SERVED', message: /ask again/ })
  next.fake.emit({ type: 'resync-done', group: 1, sequence: 9n, bytes: 65536n })
  t.ok(next.fake.calls.includes('setRanges'))
})

t.test('with other rules for files what was left out is not taken from the standby, which never had it', async t => {
  for (const [glob, fixed] of [
    ['/tmp/**', 0n],
    ['/other/**', 65536n],
  ] as const) {
    const place = scratch(t)
    const rules = (one: string): Partial<GroupConfig> => ({
      durability: 'received',
      volumes: [
        {
          ...{ name: 'disk1', device: place.device, readOnly: false, direct: false, partitions: [], exclude: [] },
          files: { exclude: [one], only: [], fallback: 'all' },
        },
      ],
    })
    const leavesOut = (fake: FakeAddon): FakeAddon =>
      Object.assign(fake, {
        makeWatches: async () => ({
          ...{ watches: 1, fileSystems: [], bytes: 65536, rangeCount: 1 },
          around: BigUint64Array.of(0n, 65536n),
        }),
      })
    const first = await open(t, place, rules('/tmp/**'), leavesOut(new FakeAddon()))
    first.welcome()
    first.inSync(7n)
    first.fake.emit({ type: 'resync-done', group: 1, sequence: 5n, bytes: 65536n })
    await new Promise(resolve => setImmediate(resolve))
    first.fake.emit({ type: 'pairing', group: 1, paired: true })
    const set: bigint[][] = []
    const fake = Object.assign(leavesOut(new FakeAddon()), {
      mapFloor: { incarnation: first.incarnation, durable: 6n },
      setRanges: (_: number, ranges: BigUint64Array) => {
        set.push([...ranges])
        return Promise.resolve({ refused: -1, why: '' })
      },
    })
    const next = await open(t, place, rules(glob), fake, new Map(), undefined, undefined, 'another boot')
    t.equal(next.group.isOwed, true)
    t.same([...(fake.groups[0]?.volumes[0]?.excluded ?? [])], [0n, 65536n])
    t.same([...(fake.groups[0]?.volumes[0]?.fixed ?? [1n])], [], 'all of it may have been given to somebody')
    fake.emit({ type: 'watched', group: 1, volume: 100 })
    for (let i = 0; i < 500 && set.length === 0; i++) await new Promise(resolve => setTimeout(resolve, 10))
    t.same(set, [fixed === 0n ? [] : [0n, fixed]], glob)
  }
})

t.test('what cannot be had back is said, and this side serves', async t => {
  for (const [welcome, said] of [
    [{ replicaId: 'another' }, /has not the copy that had every acknowledged write/],
    [{ received: '5' }, /has not the copy/],
  ] as const) {
    const { first, next } = await paired(t, 'another boot')
    next.welcome(stands(first, welcome))
    t.match(next.fake.attached, [{ allDirty: true, giveBack: false }])
    t.same(next.settled, [false])
    t.match(next.lines.join('\n'), said)
  }
  const { next } = await paired(t, 'another boot', false)
  t.equal(next.group.isOwed, false, 'its map is damaged')
  t.match(next.lines.join('\n'), /may be on the standby only, but the dirty map .* cannot be believed/)
})

t.test('an older standby cannot give back: it is waited for, and the operator is told the choices', async t => {
  const { first, next } = await paired(t, 'another boot')
  next.welcome(stands(first, { givesBack: false }))
  t.same(next.fake.attached, [])
  t.match(next.group.status(), [{ reason: /'understudy promote' it there.*'understudy invalidate' here.*upgrade it/ }])
  next.group.invalidate()
  t.same(next.settled, [false])
  t.equal(next.group.isOwed, false)
})

t.test('after a crash a copy that stands before what the maps forgot is compared', async t => {
  const { first, second } = await crashed(t, { durable: 6n })
  second.welcome({ incarnation: String(first.incarnation), received: '5', fresh: false, initial: false })
  t.match(second.fake.attached, [{ allDirty: true }])
})

t.test('after a crash another copy is compared', async t => {
  const { place, first, second } = await crashed(t, { durable: 6n })
  const changes = { replicaId: 'another', incarnation: String(first.incarnation), received: '7' }
  second.welcome({ ...changes, fresh: false, initial: false })
  t.match(second.fake.attached, [{ allDirty: true }])
  t.equal(readGroup(place.state, 'disk1')?.live, undefined, 'and the maps are believed no more before that has ended')
})

t.test('after a crash maps that are damaged, or of an unknown history, are not believed', async t => {
  for (const floor of [undefined, { incarnation: 77n, durable: 0n }]) {
    const { place, first, second } = await crashed(t, floor)
    t.equal(readGroup(place.state, 'disk1')?.live, undefined)
    second.welcome({ incarnation: String(first.incarnation), received: '7', fresh: false, initial: false })
    t.match(second.fake.attached, [{ allDirty: true }])
  }
})

t.test('a map that cannot be written is not believed until it is whole again', async t => {
  const { place, second } = await crashed(t, { durable: 6n })
  second.fake.emit({ type: 'map-failed', group: 1, volume: 100, message: 'no space', removed: true })
  t.equal(readGroup(place.state, 'disk1')?.live, undefined)
  second.fake.failing.set('fillMap', errno('ENOSPC'))
  await second.clock.advance(5_000)
  t.equal(readGroup(place.state, 'disk1')?.live, undefined)
  second.fake.failing.clear()
  await second.clock.advance(5_000)
  t.ok(readGroup(place.state, 'disk1')?.live)
})

t.test('while the filter changes a crash means that everything is compared', async t => {
  const { place, second } = await crashed(t, { durable: 6n })
  let during: unknown = 'nothing'
  Object.assign(second.fake, { setRanges: () => (during = readGroup(place.state, 'disk1')?.live) })
  const byRanges = BigUint64Array.of(0n, 65536n)
  await second.group.leftOut.setRanges(0, {
    ...{ policy: { partitions: [], exclude: [] }, excluded: byRanges, byRanges, watched: new BigUint64Array() },
    ...{ missing: [], tableKnown: true, places: '' },
  })
  t.equal(during, undefined)
  await new Promise(resolve => setImmediate(resolve))
  t.ok(readGroup(place.state, 'disk1')?.live, 'believed again once what entered is stored')
})

t.test('a device that was written to by somebody else between stop and start is compared', async t => {
  const place = scratch(t)
  const first = await open(t, place)
  first.welcome()
  first.inSync(7n)
  await closing(first.group, first.clock, 1_000)
  writeFileSync(place.device, Buffer.alloc(sizeBytes, 1))
  const second = await open(t, place)
  t.equal(trusted(second), false)
  t.match(second.lines.join(), /changed by another program since the last stop/)
})

t.test('a stop that could not write everything down is not a clean one', async t => {
  const place = scratch(t)
  const { group, clock, fake, lines } = await open(t, place)
  fake.failing.set('finishMap', errno('ENOSPC'))
  await closing(group, clock, 1_000)
  t.equal(readGroup(place.state, 'disk1')?.clean, undefined)
  t.match(lines.join(), /no space left .*the next start takes it for a crash/)
})

t.test('the drain waits for the standby, at most its time, and not for one that is away', async t => {
  const place = scratch(t)
  const { group, clock, welcome, counters, incarnation, fake } = await open(t, place)
  welcome()
  counters({
    state: 2n,
    peer_incarnation: incarnation,
    written_sequence: 9n,
    durable_sequence: 5n,
    applied_sequence: 5n,
  })
  fake.set('volume', group.exports()[0]?.counterPage ?? 0, { dirty_bytes: 65536n })
  const began = clock.now
  t.match(await closing(group, clock, 10_000), { drained: false, dirtyBytes: 65536 })
  t.ok(clock.now - began >= 10_000)
  t.match(readGroup(place.state, 'disk1')?.clean, { known: { positions: [{ incarnation, durable: 5n }] } })
  t.ok(readGroup(place.state, 'disk1')?.clean?.dirtySinceMs, 'the lag goes on from there')

  const away = await open(t, scratch(t))
  const done = away.group.close({ drainMs: 10_000 })
  await new Promise(resolve => setTimeout(resolve, 100))
  t.match(await done, { drained: false }, 'no time of the clock has passed')
})

t.test('a log that was given up brings a new session, and with it a resynchronisation', async t => {
  const { fake, transport, clock, welcome, inSync, lines } = await open(t, scratch(t))
  welcome()
  inSync(3n)
  fake.emit({ type: 'detached', group: 1, reason: 'log-full' })
  t.match(transport.sessions[0]?.closedWith, /log is full/)
  t.match(lines.join(), /detached \(the replication log is full\)/)
  await clock.advance(3_000)
  t.equal(transport.sessions.length, 2)
})

t.test('a standby that lags is left alone for longer each time: the pair does not flap', async t => {
  const { fake, transport, clock, welcome, inSync } = await open(t, scratch(t))
  welcome()
  inSync(3n)
  fake.emit({ type: 'detached', group: 1, reason: 'max-lag' })
  await clock.advance(9_000)
  t.equal(transport.sessions.length, 1)
  await clock.advance(1_500)
  t.equal(transport.sessions.length, 2)

  const pause = new LagPause()
  t.same([0, 30, 60, 120, 300, 800].map(second => pause.next(second * 1000) / 1000), [10, 20, 40, 80, 160, 320]) // prettier-ignore
  t.equal(pause.next(2_000_000), 600_000, 'at most 10 minutes')
  t.equal(pause.next(2_000_000 + 600_000 + 6_000_001), 10_000, 'from the beginning when it has held for long')
})

t.test('an engine that refuses the device leaves no trace', async t => {
  const place = scratch(t)
  const fake = new FakeAddon()
  fake.failing.set('openGroup', errno('EBUSY'))
  await t.rejects(open(t, place, {}, fake), { message: /open volume disk1 \(.*device\): it is in use/ })
  t.same(readdirSync(join(place.state, 'volumes')), [])
  t.same(readdirSync(join(place.state, 'groups')), [])
})

t.test('an engine that refuses the device leaves the last clean stop as it was', async t => {
  const place = scratch(t)
  const first = await open(t, place)
  await closing(first.group, first.clock, 100)
  const fake = new FakeAddon()
  fake.failing.set('openGroup', errno('EBUSY'))
  await t.rejects(open(t, place, {}, fake))
  t.ok(readGroup(place.state, 'disk1')?.clean)
})

t.test('a size that changed, or a device that is not there, is refused before anything is written', async t => {
  const place = scratch(t)
  await t.rejects(open(t, { ...place, device: `${place.device}.not` }), { message: /volume disk1: .*does not exist/ })
  t.equal(existsSync(place.state), false)
  const first = await open(t, place)
  await closing(first.group, first.clock, 100)
  truncateSync(place.device, sizeBytes / 2)
  await t.rejects(open(t, place), { exitCode: 2, code: 'SIZE_CHANGED' })
  t.ok(readGroup(place.state, 'disk1')?.clean, 'the last stop is still good')
})

t.test('a change of what is replicated is made while the standby follows: opened as before, then changed', async t => {
  const place = scratch(t)
  const first = await open(t, place)
  await closing(first.group, first.clock, 100)
  const volumes = [
    {
      name: 'disk1',
      device: place.device,
      readOnly: false,
      direct: false,
      partitions: [],
      exclude: [{ start: 0n, end: 65536n }],
    },
  ]
  const second = await open(t, place, { volumes })
  t.same([...(second.fake.groups[0]?.volumes[0]?.excluded ?? [])], [])
  t.same(second.fake.calls, ['openGroup', 'setRanges'])
  t.match(Object.values(readGroup(place.state, 'disk1')?.excluded ?? {}), [[0n, 65536n]])
})

t.test('a group without a standby is alone, and drained at once', async t => {
  const { group, fake, clock } = await open(t, scratch(t), { standby: undefined })
  t.match(fake.groups, [{ replicated: false }])
  t.match(group.status(), [{ state: 'alone', protected: false, lagSeconds: 0, lagBytes: 0, peers: [] }])
  t.match(await closing(group, clock, 1_000), { drained: true })
})

t.test('verify is refused without a complete copy, and ends when the standby goes', async t => {
  const { group, fake, welcome, inSync, transport, clock } = await open(t, scratch(t))
  await t.rejects(group.verify('disk1'), { code: 'NOT_REPLICATING' })
  await t.rejects(group.verify('disk2'), { exitCode: 2, code: 'USAGE' })
  welcome()
  inSync(3n)
  const replies: ((value: { chunks: number; different: number }) => void)[] = []
  Object.assign(fake, { verify: () => new Promise(resolve => replies.push(resolve)) })
  const good = group.verify('disk1')
  await t.rejects(group.verify('disk1'), { code: 'BUSY' })
  fake.emit({
    type: 'verify-result',
    group: 1,
    id: 1n,
    volumeIndex: 0,
    offset: 65536n,
    length: 65536n,
    equal: false,
    error: '',
  })
  replies[0]?.({ chunks: 16, different: 1 })
  t.match(await good, { chunks: 16, different: 1, differences: [{ offset: 65536n, length: 65536n }] })
  t.match(group.status(), [{ lastVerify: { chunks: 16, different: 1 } }])
  const interrupted = t.rejects(group.verify('disk1'), { code: 'VERIFY_INTERRUPTED', message: /not heard any more/ })
  transport.last.end('timeout')
  await clock.advance(1_000)
  await interrupted
})
