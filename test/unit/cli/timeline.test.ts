import t from 'tap'

import { historyText } from '../../../src/cli/history.js'
import { statusTable } from '../../../src/cli/status-table.js'
import { timeline, timelineBuckets } from '../../../src/cli/timeline.js'
import type { HistoryReply, PointDocument } from '../../../src/daemon/control-protocol.js'
import { standbyStatus } from '../metrics/fake-source.js'

const point = (kind: PointDocument['kind'], time: string, label = ''): PointDocument => ({
  ...{ kind, label, incarnation: '17', sequence: '4711' },
  time: `2026-11-29T${time}.000000000Z`,
})
/** 16 columns of 225 s: an hour. */
const reply: HistoryReply = {
  ...{ volume: 'disk1', group: 'disk1', ageSecondsMax: 86_400, bytesMax: 100 * 2 ** 30, pointCount: 2 },
  oldest: { time: '2026-11-29T08:00:00.000000000Z', incarnation: '17', sequence: '1' },
  newest: { time: '2026-11-29T09:00:00.250000000Z', incarnation: '17', sequence: '9999' },
  ...{ bytes: 3 * 2 ** 30, savedBytes: 2 ** 30, epochs: 2, segments: 32 },
  ...{ compressedSegments: 0, compressedBytes: 0, uncompressedBytes: 0 },
  from: '2026-11-29T08:00:00.000000000Z',
  to: '2026-11-29T09:00:00.000000000Z',
  bucketSeconds: 225,
  writtenBytes: [0, 1, 2, 4, 8, 16, 24, 32, 48, 40, 20, 10, 5, 2, 1, 0].map(part => part * 225 * 1024 * 1024),
  points: [
    point('flush', '08:01:00'),
    point('mark', '08:30:00', 'before upgrade'),
    point('flush', '08:30:01'),
    point('clean-stop', '08:59:59', 'clean-stop'),
    point('flush', '09:00:00'),
  ],
}

t.test('the rate of writes is drawn to scale, with the points beneath it, marks before others', t => {
  t.same(timeline(reply), [
    '  48 MiB/s |        █',
    '           |        ██',
    '           |       ███',
    '           |      ████▄',
    '           |     ██████▂',
    '         0 | ▁▂▄████████▅▂▁',
    '           +.       M      S',
    '            2026-11-29 08:00:00.000Z',
    '            M mark   S clean stop   . flush',
  ])
  t.end()
})

t.test('no writes, one moment and many columns are drawn, too', t => {
  const none = timeline({ ...reply, writtenBytes: [0, 0, 0], bucketSeconds: 0, points: [], to: reply.from })
  t.match(none[0], /^ +1 B\/s \|$/)
  t.equal(none.length, 9)
  const wide = timeline({ ...reply, writtenBytes: Array<number>(100).fill(7), bucketSeconds: 36 })
  t.match(wide.at(-2), /^ {12}2026-11-29 08:00:00.000Z {20,}1h 00m {20,}2026-11-29 09:00:00.000Z$/)
  t.equal(wide.at(-2)?.length, 12 + 100)
  const least = timeline({ ...reply, writtenBytes: [1, 2 ** 40] })
  t.match(least[5], /▁█$/, 'the least write is seen')
  t.equal(timelineBuckets(100) + 12, 100)
  t.same([timelineBuckets(10), timelineBuckets(10_000)], [20, 400])
  t.end()
})

t.test('status says how far back a standby can go', t => {
  const table = (history: object, changes: object = {}): string =>
    statusTable({ volumes: [{ ...standbyStatus, ...changes, history: { ...reply, ...history } }] }, new Date())
  t.match(table({}), /^ {2}any moment of 1h 00m up to now is kept: 3 GiB, 2 labelled points$/m)
  const none = { oldest: null, newest: null }
  t.match(table(none, { usable: true }), /^ {2}no earlier moment is kept now; its history begins anew by itself /m)
  t.match(table(none, { usable: false }), /^ {2}its history begins when the first copy is complete$/m)
  t.end()
})

t.test('what is kept, and the points, are told with it; flushes when asked', t => {
  const text = historyText(reply, false)
  t.match(text, /^disk1: keeps 24h 00m, at most 100 GiB; it takes 3 GiB, 1 GiB of it blocks as they were before$/m)
  t.match(text, /^oldest 2026-11-29 08:00:00.000Z 17:1 {3}newest 2026-11-29 09:00:00.250Z 17:9999$/m)
  t.match(text, /^TIME {22}POSITION {2}POINT {7}LABEL\n2026-11-29 08:30:00.000Z {2}17:4711 {3}mark {8}before upgrade$/m)
  t.match(text, /^3 flushes are not listed \(--flushes\)$/m)
  t.match(historyText(reply, true), /^2026-11-29 08:01:00.000Z {2}17:4711 {3}flush$/m)
  const empty = { ...reply, group: 'vm', points: [], oldest: null, newest: null, bytesMax: 0, savedBytes: 0 }
  t.match(historyText(empty, false), /^disk1 \(group vm\): keeps 24h 00m; it takes 3 GiB\n/)
  const packed = { ...empty, compressedSegments: 8, compressedBytes: 2 ** 28, uncompressedBytes: 2 ** 29 }
  t.match(historyText(packed, false), /it takes 3 GiB, 512 MiB of records compressed to 256 MiB\n/)
  t.match(historyText(empty, false), /^no points$/m)
  t.end()
})
