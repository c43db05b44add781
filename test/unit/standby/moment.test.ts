import fc from 'fast-check'
import t from 'tap'

import { checkLabel, parseMoment } from '../../../src/standby/moment.js'

const nowMs = Date.parse('2026-11-29T12:00:00.000Z')
const ns = (iso: string): bigint => BigInt(Date.parse(iso)) * 1_000_000n
const time = (timeNs: bigint): object => ({ kind: 'time', timeNs })

t.test('a moment is a position, a time, so long ago, or a label', t => {
  const cases: [string, object][] = [
    ['17:4711', { kind: 'position', incarnation: 17n, sequence: 4711n }],
    ['18446744073709551615:0', { kind: 'position', incarnation: (1n << 64n) - 1n, sequence: 0n }],
    [' 4711 ', { kind: 'position', sequence: 4711n }],
    ['2026-11-29T08:15:00Z', time(ns('2026-11-29T08:15:00Z'))],
    ['2026-11-29 08:15z', time(ns('2026-11-29T08:15:00Z'))],
    ['2026-11-29T08:15:00.000000001Z', time(ns('2026-11-29T08:15:00Z') + 1n)],
    ['2026-11-29T08:15:00.25+01:30', time(ns('2026-11-29T06:45:00.250Z'))],
    ['2026-11-29 08:15:00 -0800', time(ns('2026-11-29T16:15:00Z'))],
    ['2024-02-29T00:00:00Z', time(ns('2024-02-29T00:00:00Z'))],
    ['2026-11-29T08:15:00', time(BigInt(new Date(2026, 10, 29, 8, 15).getTime()) * 1_000_000n)],
    ['-90s', time(ns('2026-11-29T11:58:30Z'))],
    ['-2h', time(ns('2026-11-29T10:00:00Z'))],
    ['-90d', time(ns('2026-08-31T12:00:00Z'))],
    ['-0.5', time(ns('2026-11-29T11:59:59.500Z'))],
    ['before upgrade', { kind: 'label', label: 'before upgrade' }],
    ['clean-stop', { kind: 'label', label: 'clean-stop' }],
    ['upgrade 2026-11-29', { kind: 'label', label: 'upgrade 2026-11-29' }],
    ['v1:2', { kind: 'label', label: 'v1:2' }],
  ]
  for (const [text, moment] of cases) t.same(parseMoment(text, nowMs), moment, `'${text}'`)
  t.end()
})

t.test('what looks like a position or a time and is none is refused in one line, with exit code 2', t => {
  const cases: [string, RegExp][] = [
    ['', /the moment is empty; write it like 17:4711/],
    [':', /':' is not a position/],
    ['17:', /'17:' is not a position/],
    [':4711', /':4711' is not a position/],
    ['0:5', /0 is no incarnation/],
    ['18446744073709551616:0', /is no incarnation/],
    ['9223372036854775808', /no sequence is as large/],
    ['1'.repeat(60), /is not a position/],
    ['2026-11-29', /is not a time; write it like 2026/],
    ['2026-11-29T08', /is not a time/],
    ['2026-02-29T08:15Z', /there is no such day/],
    ['2026-13-01T08:15Z', /there is no such day/],
    ['2026-11-29T24:00Z', /there is no such day/],
    ['2026-11-29T08:15+25:00', /there is no such time zone/],
    ['2026-11-29T08:15-08:60', /there is no such time zone/],
    ['2026-11-29T08:15:00.1234567890Z', /is not a time/],
    ['-', /'' is not a duration/],
    ['-2 fortnights', /is not a duration/],
    ['-999999d', /a hundred years/],
  ]
  for (const [text, message] of cases)
    t.throws(() => parseMoment(text, nowMs), { name: 'UsageError', exitCode: 2, message }, `'${text}'`)
  t.end()
})

t.test('a label that is taken is found under it again, whatever it is; others are refused by what is wrong', t => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 110 }), text => {
      let label: string
      try {
        label = checkLabel(text)
      } catch (error) {
        return (error as Error).name === 'UsageError'
      }
      const moment = parseMoment(label, nowMs)
      return moment.kind === 'label' && moment.label === label
    }),
  )
  const cases: [string, RegExp][] = [
    ['  ', /the label is empty/],
    ['x'.repeat(101), /longer than 100/],
    ['a\nb', /control character/],
    ['\u001b[31m', /control character/],
    ['clean-stop', /makes by itself/],
    ['4711', /would be taken for a position or a time/],
    ['-90s', /would be taken/],
    ['2026-11-29 upgrade', /would be taken/],
  ]
  for (const [text, message] of cases) t.throws(() => checkLabel(text), { exitCode: 2, message })
  t.end()
})
