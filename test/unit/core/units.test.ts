import fc from 'fast-check'
import t, { type Test } from 'tap'

import { UsageError } from '../../../src/core/errors.js'
import {
  formatAddress,
  formatDuration,
  formatHostPort,
  formatPeer,
  formatRange,
  formatSize,
  isLoopback,
  nbdUri,
  parseAddress,
  parseDuration,
  parseHostPort,
  parseId,
  parsePeer,
  parseRange,
  parseSize,
  parseSizeBig,
} from '../../../src/core/units.js'

const id = '0123456789abcdef'.repeat(4)

/** Refused, by one line that repeats what was typed, or the part of it that is wrong. */
function refused(t: Test, parse: (text: string) => unknown, texts: string[]): void {
  for (const text of texts) {
    t.throws(() => parse(text), UsageError, `'${text}'`)
    try {
      parse(text)
    } catch (error) {
      const { message } = error as Error
      t.ok(text.includes(/'([^']*)'/.exec(message)?.[1] ?? '?'), `it repeats '${text}': ${message}`)
      t.notMatch(message, /\n/, 'one line')
    }
  }
}

t.test('sizes are powers of 1024 unless written with B alone after the letter', async t => {
  t.equal(parseSize('4096'), 4096)
  t.equal(parseSize('64MiB'), 64 * 2 ** 20)
  t.equal(parseSize('1G'), 2 ** 30)
  t.equal(parseSize('1g'), 2 ** 30)
  t.equal(parseSize('10GB'), 10e9)
  t.equal(parseSize(' 2 KiB '), 2048)
  t.equal(parseSizeBig('16TiB'), 16n << 40n)
  refused(t, parseSize, ['', 'x', '1.5G', '-1', '1Q', '0x10', '1 2', '9999999999999999999P', '8192P'])
})

t.test('durations: a bare number is seconds', async t => {
  t.equal(parseDuration('5s'), 5000)
  t.equal(parseDuration('500ms'), 500)
  t.equal(parseDuration('30'), 30_000)
  t.equal(parseDuration('0.25'), 250)
  t.equal(parseDuration('2m'), 120_000)
  t.equal(parseDuration('1h'), 3_600_000)
  refused(t, parseDuration, ['', '5 days', '-1s', '1e3', '1000h'])
})

t.test('addresses: unix:PATH, HOST:PORT and [V6]:PORT', async t => {
  t.same(parseAddress('unix:/run/a b.sock'), { kind: 'unix', path: '/run/a b.sock' })
  t.same(parseAddress('127.0.0.1:10809'), { kind: 'tcp', host: '127.0.0.1', port: 10809 })
  t.same(parseHostPort('[::1]:0'), { host: '::1', port: 0 })
  t.same(parseHostPort('standby.example:7400'), { host: 'standby.example', port: 7400 })
  refused(t, parseAddress, [
    '/run/a.sock',
    'unix:',
    '127.0.0.1',
    ':80',
    'host:',
    'host:99999',
    '::1:80',
    'host:8o',
    `unix:/${'x'.repeat(107)}`,
  ])
  for (const text of ['unix:/run/nbd.sock', '127.0.0.1:1', '[::1]:10809'])
    t.equal(formatAddress(parseAddress(text)), text)
  t.equal(formatHostPort({ host: 'fe80::1%eth0', port: 1 }), '[fe80::1%eth0]:1')
})

t.test('only this host reaches a loopback address', async t => {
  for (const host of ['127.0.0.1', '127.9.9.9', '::1', 'localhost']) t.ok(isLoopback(host), host)
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.example.com', 'example', '1127.0.0.1'])
    t.notOk(isLoopback(host), host)
})

t.test('a peer is an id at an address', async t => {
  t.same(parsePeer(`${id}@[::1]:7400`), { id, host: '::1', port: 7400 })
  t.equal(parseId(id.toUpperCase()), id)
  t.equal(formatPeer(parsePeer(`${id}@h:1`)), `${id}@h:1`)
  refused(t, parsePeer, ['h:1', `${id}@h`, `${id.slice(1)}@h:1`, `${id}@h:0`, `${id}g@h:1`])
})

t.test('ranges: END is not included, +LENGTH is', async t => {
  t.same(parseRange('0-1MiB'), { start: 0n, end: 1n << 20n })
  t.same(parseRange('4GiB+512MiB'), { start: 4n << 30n, end: (4n << 30n) + (512n << 20n) })
  refused(t, parseRange, ['', '5', '1M-1M', '2M-1M', '1M+0', '-5', '5-', '1-2-3'])
  fc.assert(
    fc.property(fc.bigInt(0n, 1n << 44n), fc.bigInt(1n, 1n << 44n), (start, length) => {
      const range = { start, end: start + length }
      const read = parseRange(formatRange(range))
      return read.start === range.start && read.end === range.end
    }),
  )
})

t.test('what people read is short', async t => {
  t.equal(formatSize(0), '0 B')
  t.equal(formatSize(1023), '1023 B')
  t.equal(formatSize(1536), '1.5 KiB')
  t.equal(formatSize(256 << 20), '256 MiB')
  t.equal(formatSize(1n << 44n), '16 TiB')
  t.equal(formatDuration(12), '12 ms')
  t.equal(formatDuration(12_340), '12.3 s')
  t.equal(formatDuration(245_000), '4m 05s')
  t.equal(formatDuration(12_000_000), '3h 20m')
})

t.test('an NBD URI survives odd names and paths', async t => {
  t.equal(nbdUri({ kind: 'tcp', host: '::1', port: 10809 }, 'disk 1'), 'nbd://[::1]:10809/disk%201')
  t.equal(nbdUri({ kind: 'unix', path: '/run/a&b.sock' }, 'd'), 'nbd+unix:///d?socket=/run/a%26b.sock')
})
