import fc from 'fast-check'
import t from 'tap'

import {
  decodeHello, decodeLeftOut, decodeMark, decodeMarked, decodeRefused, decodeVersions, decodeWelcome, encodeHello, encodeLeftOut, encodeMark, encodeMarked, encodeRefused, encodeWelcome, type Hello, MessageError, typeOf,
} from '../../../src/transport/messages.js' // prettier-ignore
import { chooseVersion } from '../../../src/transport/versions.js'

const hello: Hello = {
  protocol: 1,
  protocolOldest: 1,
  program: '0.1.0',
  group: 'disk1',
  incarnation: 18446744073709551615n,
  generation: '00ff',
  history: [{ id: '00ff', parent: '', fork: { incarnation: 0n, sequence: 0n }, since: '2026-01-01T00:00:00.000Z' }],
  discard: '',
  durability: 'flush',
  leaseMs: 10_000,
  compress: 'zstd',
  hostname: 'alpha',
  volumes: [
    { name: 'disk1', uuid: 'u', sizeBytes: 1n << 44n, blockMin: 512, excluded: [0n, 4096n], filesLeftOut: false },
  ],
}
const overTheWire = (message: object): unknown => JSON.parse(JSON.stringify(message))

t.test('messages arrive as they were sent, 64-bit numbers included', t => {
  t.same(decodeHello(overTheWire(encodeHello(hello))), hello)
  const welcome = {
    protocol: 1,
    program: '1',
    replicaId: 'r',
    incarnation: 1n << 63n,
    received: 7n,
    fresh: false,
    initial: true,
    alias: 'id:00ff',
    leaseMs: 10_000,
    givesBack: true,
    compress: 'zstd',
    keepsHistory: true,
  }
  t.same(decodeWelcome(overTheWire(encodeWelcome(welcome))), welcome)
  const {
    leaseMs: _,
    compress: __,
    keepsHistory: ___,
    ...older
  } = overTheWire(encodeWelcome(welcome)) as Record<string, unknown>
  t.equal(decodeWelcome(older).leaseMs, 0, 'a program that knows no leases grants none')
  t.equal(decodeWelcome(older).compress, '', 'one that knows no compression expects none')
  t.equal(decodeWelcome(older).keepsHistory, false, 'one that knows no history notes no marks')
  const position = { incarnation: (1n << 64n) - 1n, sequence: (1n << 63n) - 1n }
  const mark = { id: 7, kind: 'mark', label: 'before upgrade', position, timeNs: 1_764_403_200_123_456_789n }
  t.same(decodeMark(overTheWire(encodeMark(mark))), mark)
  t.same(decodeMarked(overTheWire(encodeMarked({ id: 7, problem: 'no room' }))), { id: 7, problem: 'no room' })
  const leftOut = [{ name: 'disk1', excluded: [0n, 1n << 62n], filesLeftOut: true }]
  t.same(decodeLeftOut(overTheWire(encodeLeftOut(leftOut))), leftOut)
  t.same(decodeRefused(overTheWire(encodeRefused('size', 'x'.repeat(2000)))), {
    code: 'size',
    message: 'x'.repeat(1000),
    history: [],
    yield: false,
  })
  t.end()
})

t.test('a hello that breaks a rule is refused by the name of the field', t => {
  const cases: [object, RegExp][] = [
    [{ incarnation: 5 }, /'incarnation'/],
    [{ incarnation: '0' }, /'incarnation'/],
    [{ incarnation: '18446744073709551616' }, /'incarnation'/],
    [{ protocol: 0 }, /'protocol'/],
    [{ leaseMs: 3_600_001 }, /'leaseMs'/],
    [{ leaseMs: '1000' }, /'leaseMs'/],
    [{ group: 'g'.repeat(201) }, /'group'/],
    [{ volumes: [] }, /'volumes'/],
    [{ volumes: Array.from({ length: 65 }, () => ({})) }, /'volumes'/],
    [{ volumes: [{ ...hello.volumes[0], sizeBytes: '-1' }] }, /'sizeBytes'/],
    [{ volumes: ['x'] }, /no JSON object/],
  ]
  const good = overTheWire(encodeHello(hello)) as object
  for (const [changes, message] of cases)
    t.throws(() => decodeHello({ ...good, ...changes }), { name: 'MessageError', message })
  t.end()
})

t.test('no JSON value makes a decoder fail otherwise than by refusing', t => {
  fc.assert(
    fc.property(fc.jsonValue(), value => {
      typeOf(value)
      for (const decode of [decodeHello, decodeVersions, decodeWelcome, decodeRefused, decodeMark, decodeMarked]) {
        try {
          decode(value)
        } catch (error) {
          if (!(error instanceof MessageError)) throw error
        }
      }
    }),
  )
  t.end()
})

t.test('the newest version both sides speak is chosen; without one the message names both and whom to upgrade', t => {
  const speaks = (oldest: number, newest: number): { protocol: number; protocolOldest: number; program: string } => ({
    protocol: newest,
    protocolOldest: oldest,
    program: `p${newest}`,
  })
  t.same(chooseVersion(speaks(1, 1), speaks(1, 2)), { version: 1 })
  t.same(chooseVersion(speaks(1, 2), speaks(2, 3)), { version: 2 })
  t.match(chooseVersion(speaks(1, 1), speaks(2, 3)), {
    problem: /understudy p1\) speaks version 1 .* \(understudy p3\) versions 2 to 3: upgrade the master/,
  })
  t.match(chooseVersion(speaks(3, 4), speaks(1, 2)), { problem: /upgrade the standby/ })
  t.end()
})
