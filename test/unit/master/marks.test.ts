import t from 'tap'

import { markNow, Marks } from '../../../src/master/marks.js'
import { decodeWelcome, encodeMarked, type Mark } from '../../../src/transport/messages.js'
import { FakeClock } from '../transport/fakes.js'

const position = { incarnation: 5n, sequence: 7n }
const welcome = (keepsHistory: boolean) =>
  decodeWelcome({
    ...{ protocol: 1, program: '1', replicaId: 'r', incarnation: '5', received: '7', fresh: false, initial: false },
    keepsHistory,
  })

function open() {
  const clock = new FakeClock()
  const sent: Mark[] = []
  const marks = new Marks({ group: 'g', clock, send: message => void sent.push(message as Mark) })
  return { clock, sent, marks, mark: () => marks.send(markNow('mark', 'x', position, clock)) }
}

t.test('a mark resolves with the answer to it, and no other', async t => {
  const { marks, sent, mark } = open()
  marks.welcomed(welcome(true))
  const [first, second] = [mark(), mark()]
  const [a, b] = sent
  t.match(a, { type: 'mark', kind: 'mark', label: 'x', incarnation: '5', sequence: '7', timeNs: /^\d+$/ })
  t.not(a?.id, b?.id)
  marks.heard(encodeMarked({ id: b?.id ?? 0, problem: 'no room' }))
  marks.heard(encodeMarked({ id: 99, problem: '' }))
  marks.heard(encodeMarked({ id: a?.id ?? 0, problem: '' }))
  await first
  await t.rejects(second, { code: 'NOT_MARKED', exitCode: 1, message: 'mark group g: not known to be noted: no room' })
})

t.test('a standby that keeps no history, or is older, is sent none', async t => {
  const { marks, sent, mark } = open()
  await t.rejects(mark(), { code: 'NO_HISTORY', message: /start it with --history/ })
  marks.welcomed(welcome(false))
  await t.rejects(mark(), { code: 'NO_HISTORY' })
  t.same(sent, [])
})

t.test('no answer, a lost session and too many at once are ends, too (G7)', async t => {
  const { marks, mark, clock } = open()
  marks.welcomed(welcome(true))
  const late = mark()
  late.catch(() => undefined)
  await clock.advance(12_000)
  await t.rejects(late, { message: /has not answered within 12 s/ })
  const many = Array.from({ length: 100 }, () => mark().catch((error: unknown) => error))
  await t.rejects(mark(), { code: 'BUSY' })
  marks.lost()
  t.match(await Promise.all(many), Array(100).fill({ message: /the session with the standby has ended/ }))
  await t.rejects(mark(), { code: 'NO_HISTORY' })
})
