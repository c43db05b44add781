/** What people call a moment, against a stand-in for the engine's history; marks of master and operator. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import type { Position } from '../../../src/core/reigns.js'
import type { HistoryState, Moment, Point } from '../../../src/native/binding.js'
import { GroupHistory, isoTime } from '../../../src/standby/history.js'
import { NotedMarks } from '../../../src/standby/noted-marks.js'
import { errno, FakeClock, FakeSession, settle } from '../transport/fakes.js'

const second = 1_000_000_000n
const at = (seconds: number, sequence: number, incarnation = 5n): Point => ({
  incarnation,
  sequence: BigInt(sequence),
  timeNs: BigInt(seconds) * second,
})

class FakeHistory {
  /** 1000 s to 2000 s; sequences go with the seconds. */
  state: HistoryState | null = {
    ...{ oldest: at(1000, 1000, 4n), newest: at(2000, 2000) },
    ...{ bytes: 1 << 30, savedBytes: 1 << 20, epochs: 3, segments: 16 },
    ...{ compressedSegments: 10, compressedBytes: 1 << 28, uncompressedBytes: 1 << 29 },
  }
  flushes: Point[] = []
  asked: { moment: Moment; volumes: number[]; writable: boolean }[] = []
  failing = ''
  readonly addon = {
    replicaHistory: () => this.state,
    replicaMoments: async (_: number, _from: bigint, _to: bigint, buckets: number) => {
      if (this.failing !== '') throw errno(this.failing)
      return { writtenBytes: Array.from({ length: buckets }, (_, index) => index), flushes: this.flushes }
    },
    replicaViewAt: async (_: number, volumes: number[], moment: Moment, writable: boolean) => {
      this.asked.push({ moment, volumes, writable })
      if (this.failing !== '') throw errno(this.failing)
      return { views: volumes.map(volume => volume + 70), point: at(1500, 1500) }
    },
    findMoment: async (_: number, moment: Moment) => {
      this.asked.push({ moment, volumes: [], writable: false })
      if (this.failing !== '') throw errno(this.failing)
      return { ...at(1500, 1500), isWithinStep: false }
    },
  }
}

function open(t: Test, limits: { ageMs: number; bytes: number } | undefined = { ageMs: 86_400_000, bytes: 0 }) {
  const directory = mkdtempSync(join(tmpdir(), 'history-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const fake = new FakeHistory()
  const clock = new FakeClock()
  clock.now = 2_005_000
  const replica: { handle: number | undefined } = { handle: 1 }
  const history = new GroupHistory({ addon: fake.addon, clock, limits, directory, replica: () => replica.handle })
  return { fake, clock, history, replica, path: join(directory, 'points') }
}

const range =
  /the history goes from 1970-01-01T00:16:40.000Z \(4:1000\) to 1970-01-01T00:33:20.000Z \(5:2000\), 16m 40s$/

t.test('each way to name a moment leads to the engine in its words', async t => {
  const { history, fake } = open(t)
  history.note('mark', 'mark', 'before upgrade', at(0, 1700), 1700n * second)
  history.note('mark', 'mark', 'before upgrade', at(0, 1800), 1800n * second)
  history.note('mark', 'mark', 'older', at(0, 1200, 4n), 1200n * second)
  const cases: [string, Moment, boolean][] = [
    ['4:1234', { incarnation: 4n, sequence: 1234n }, false],
    ['1999', { incarnation: 5n, sequence: 1999n }, false],
    ['2000', { incarnation: 5n, sequence: 2000n }, true],
    ['1970-01-01T00:30:00Z', { timeNs: 1800n * second }, false],
    ['-5s', null, true],
    ['-105s', { timeNs: 1900n * second }, false],
    ['-0s', null, true],
    ['before upgrade', { incarnation: 5n, sequence: 1800n }, false],
    ['older', { incarnation: 4n, sequence: 1200n }, false],
  ]
  for (const [text, moment, isNewest] of cases) t.same(history.find('export d', text), { moment, isNewest }, text)
  const views = await history.views('export d', '4:1234', [0, 2], true)
  t.same(views, { views: [70, 72], point: at(1500, 1500) })
  t.same(fake.asked, [{ moment: { incarnation: 4n, sequence: 1234n }, volumes: [0, 2], writable: true }])
})

t.test('the newest of all volumes at one position needs no history', async t => {
  const { history, fake } = open(t, undefined)
  t.equal(history.isKept, true)
  const none = new GroupHistory({
    ...{ addon: fake.addon, clock: new FakeClock(), limits: undefined, directory: '/nowhere', replica: () => 1 },
  })
  t.equal((await none.views('export d', '', [0, 1], false)).views.length, 2)
  t.match(fake.asked, [{ moment: null }])
  t.equal(none.status(), undefined)
  for (const act of [
    () => none.find('export d', '-5s'),
    () => none.note('mark d', 'mark', 'x', at(0, 1), 0n),
    () => none.newest('mark d'),
  ])
    t.throws(act, {
      code: 'NO_HISTORY',
      exitCode: 1,
      message: /no history is kept on this standby; start it with --history/,
    })
  await t.rejects(none.list('history d', '', '', 10), { code: 'NO_HISTORY' })
})

t.test('a moment that is not there is refused in one line that says the range', async t => {
  const { history, fake } = open(t)
  history.note('mark', 'mark', 'long ago', at(0, 900, 4n), 900n * second)
  const refused = (text: string, message: RegExp): void => {
    t.throws(() => history.find('export d', text), { code: 'NO_MOMENT', exitCode: 1, message }, text)
    t.throws(() => history.find('export d', text), { message: range })
  }
  refused('befor upgrade', /^export d: no point is called 'befor upgrade', and it is neither a position nor a time; /)
  refused('long ago', /^export d: 'long ago' \(1970-01-01T00:15:00.000Z, 4:900\) is not kept any more; /)
  refused('1970-01-02T00:00:00Z', /^export d: '1970-01-02T00:00:00Z' is in the future; /)
  fake.failing = 'ERANGE'
  for (const text of ['4:1', '5:99999', '1970-01-01T00:00:01Z'])
    await t.rejects(history.views('export d', text, [0], false), {
      ...{ code: 'NO_MOMENT', exitCode: 1 },
      message: new RegExp(`^export d: there is no moment '${text}'; ${range.source}`),
    })
  fake.failing = 'EAGAIN'
  await t.rejects(history.views('export d', '-100s', [0], false), { code: 'EAGAIN' })
  fake.state = null
  t.throws(() => history.find('export d', '-5s'), { message: /there is no history yet; it begins when/ })
  t.throws(() => history.find('export d', '2026-02-30T00:00Z'), {
    ...{ exitCode: 2, message: /^export d: '2026-02-30T00:00Z': there is no such day/ },
  })
})

t.test('a moment that is to stay is found as a point, or refused as for an export', async t => {
  const { history, fake } = open(t)
  t.match(await history.locate('promote d', '4:1234'), at(1500, 1500))
  t.match(await history.locate('promote d', '-0s'), at(1500, 1500))
  t.match(fake.asked, [
    { moment: { incarnation: 4n, sequence: 1234n } },
    { moment: { incarnation: 5n, sequence: 2000n } },
  ])
  fake.failing = 'ERANGE'
  await t.rejects(history.locate('promote d', '4:1'), {
    ...{ code: 'NO_MOMENT', exitCode: 1 },
    message: new RegExp(`^promote d: there is no moment '4:1'; ${range.source}`),
  })
  fake.failing = 'EIO'
  await t.rejects(history.locate('promote d', '4:1'), { code: 'EIO', message: /^promote d: / })
})

t.test('points that the history has outlived, or has not reached, are not shown', async t => {
  const { history, fake } = open(t)
  for (const [label, point] of [
    ['outlived', at(0, 999, 4n)],
    ['first', at(0, 1000, 4n)],
    ['last', at(0, 2000)],
    ['to come', at(0, 2001)],
  ] as const)
    history.note('mark', 'mark', label, point, BigInt(point.sequence) * second)
  const { points } = await history.list('history d', '', '', 10)
  t.same(
    points.map(({ label }) => label),
    ['first', 'last'],
  )
  t.match(history.status(), {
    pointCount: 2,
    bytes: 1 << 30,
    oldest: { time: '1970-01-01T00:16:40.000000000Z', sequence: '1000' },
  })
  // Its records have come to stable storage, and are not in the image yet: they are waited for.
  t.same(history.find('export d', 'to come'), { moment: { incarnation: 5n, sequence: 2001n }, isNewest: true })
  fake.state = null
  t.match(history.status(), { pointCount: 0, oldest: null, newest: null, bytes: 0 })
})

t.test('points are in the order of their positions, whatever the clocks said', async t => {
  const { history, fake } = open(t)
  fake.flushes = [at(1100, 1100, 4n), at(1500, 1500), at(1900, 1900)]
  // This host's clock is ten minutes ahead.
  history.note('mark', 'mark', 'ahead', at(0, 1600), 2600n * second)
  history.note('mark', 'clean-stop', 'clean-stop', at(0, 1200, 4n), 1200n * second)
  const { points } = await history.list('history d', '', '', 10)
  t.same(
    points.map(({ kind, sequence }) => `${kind} ${sequence}`),
    ['flush 1100', 'clean-stop 1200', 'flush 1500', 'mark 1600', 'flush 1900'],
  )
})

t.test('a stretch is cut off at the ends of the history, and told in parts of equal length', async t => {
  const { history, fake } = open(t)
  const all = await history.list('history d', '1970-01-01T00:00:00Z', '', 10)
  t.same([all.from, all.to], [fake.state?.oldest, fake.state?.newest])
  t.same(all.writtenBytes.length, 10)
  t.equal(all.bucketNs, 100n * second)
  history.note('mark', 'mark', 'a', at(0, 1500), 1500n * second)
  const part = await history.list('history d', 'a', '-105s', 4)
  t.same([part.from.timeNs, part.to.timeNs], [1500n * second, 1900n * second])
  t.same((await history.list('history d', '5:1500', '5:2000', 4)).from.timeNs, 1500n * second)
  await t.rejects(history.list('history d', '-100s', '-200s', 4), {
    code: 'NO_MOMENT',
    message: /there is nothing; the history/,
  })
  await t.rejects(history.list('history d', '5:1501', '', 4), { code: 'NO_MOMENT', message: /give a time or a label/ })
  fake.failing = 'EIO'
  await t.rejects(history.list('history d', '', '', 4), { code: 'EIO', message: /^history d: / })
})

t.test('a points file that cannot be read is said to who asks for a point; the status goes on', t => {
  const { fake } = open(t)
  const clock = new FakeClock()
  const limits = { ageMs: 1000, bytes: 0 }
  const history = new GroupHistory({ addon: fake.addon, clock, limits, directory: '/proc/self/mem', replica: () => 1 })
  t.match(history.status(), { pointCount: 0, epochs: 3 })
  t.throws(() => history.find('export d', 'some label'), { name: 'NativeError', message: /read .*points/ })
  t.end()
})

t.test('nanoseconds are kept in what programs read', t => {
  t.equal(isoTime(1_764_403_200_123_456_789n), '2025-11-29T08:00:00.123456789Z')
  t.equal(isoTime(5n), '1970-01-01T00:00:00.000000005Z')
  t.end()
})

// ---- marks ----------------------------------------------------------------------------------------------------------

function marks(t: Test, here: Position | undefined) {
  const opened = open(t)
  const image = { here }
  const over = { is: false }
  const session = new FakeSession('a'.repeat(64))
  const noted = new NotedMarks({
    ...{ group: 'd', history: opened.history, clock: opened.clock },
    settled: () => image.here,
    isOver: () => over.is,
  })
  const receive = (sequence: number, changes: object = {}): Promise<void> =>
    noted.received(session, {
      ...{ id: 7, kind: 'mark', label: 'x', position: at(0, sequence), timeNs: 1999n * second },
      ...changes,
    })
  return { ...opened, image, over, session, noted, receive }
}

t.test('a mark is noted when the records before it are in the image, and only then is the master answered', async t => {
  const { receive, session, image, clock, history } = marks(t, at(0, 1998))
  const done = receive(2000)
  await settle()
  t.same(session.sent, [])
  image.here = undefined // A step is being collected.
  await clock.advance(100)
  t.same(session.sent, [])
  image.here = at(0, 2000)
  await clock.advance(100)
  await done
  t.same(session.sent, [{ type: 'marked', id: 7, problem: '' }])
  t.same(history.find('x', 'x').moment, { incarnation: 5n, sequence: 2000n })
})

t.test('a clean stop has one name; other kinds of a newer program are marks', async t => {
  const { receive, history } = marks(t, at(0, 2000))
  await receive(1900, { kind: 'clean-stop', label: '' })
  await receive(1901, { kind: 'dream' })
  const { points } = await history.list('history', '', '', 1)
  t.same(
    points.map(({ kind, label, sequence }) => [kind, label, sequence]),
    [
      ['clean-stop', 'clean-stop', 1900n],
      ['mark', 'x', 1901n],
    ],
  )
})

t.test('a master that has written nothing yet marks where its standby stands', async t => {
  const { receive, history, session } = marks(t, at(0, 2000))
  await receive(0, { position: { incarnation: 6n, sequence: 0n } })
  t.match(session.sent, [{ problem: '' }])
  t.same(history.find('x', 'x').moment, { incarnation: 5n, sequence: 2000n })
})

t.test('what keeps a mark from being noted is answered, within a time (G7)', async t => {
  const waits = async (here: Position | undefined, message: RegExp): Promise<void> => {
    const { receive, session, clock } = marks(t, here)
    const done = receive(2000)
    await clock.advance(9_900)
    t.same(session.sent, [])
    await clock.advance(200)
    await done
    t.match(session.sent, [{ id: 7, problem: message }])
  }
  await waits(at(0, 1999), /has not come to the standby within 10 s; try again/)
  await waits(at(0, 2001, 4n), /has not come to the standby/)
  await waits(undefined, /is being made or resynchronised.*try again when it is protected/)

  const { receive, session, over, fake, path } = marks(t, at(0, 2000))
  await receive(1, { label: 'a\nb' })
  await receive(1, { label: '' })
  rmSync(join(path, '..'), { recursive: true })
  await receive(1)
  over.is = true
  await receive(3000)
  fake.state = null
  await receive(1)
  t.match(session.sent, [
    { problem: /control character/ },
    { problem: /empty/ },
    { problem: /write .*points: it does not exist/ },
    { problem: /the session has ended/ },
    { problem: /there is no history yet/ },
  ])
})

t.test('more marks than a master has under way are refused at once (G7)', async t => {
  const { receive, session, image, clock } = marks(t, at(0, 1999))
  const all = Array.from({ length: 101 }, (_, index) => receive(2000, { id: index + 1 }))
  await settle()
  t.match(session.sent, [{ id: 101, problem: /100 marks are under way; try again/ }])
  image.here = at(0, 2000)
  await clock.advance(100)
  await Promise.all(all)
  t.equal(session.sent.filter(({ problem }) => problem === '').length, 100)
  await receive(2000)
  t.match(session.sent.at(-1), { problem: '' })
})

t.test("the standby's operator marks what the copy holds", t => {
  const { noted, image, clock } = marks(t, at(0, 2000))
  t.match(noted.byHand('mark d', ' before '), {
    kind: 'mark',
    label: 'before',
    sequence: 2000n,
    timeNs: BigInt(clock.now) * 1_000_000n,
  })
  t.throws(() => noted.byHand('mark d', '-5s'), { name: 'UsageError' })
  image.here = undefined
  t.throws(() => noted.byHand('mark d', 'now'), { code: 'STEP' })
  t.end()
})
