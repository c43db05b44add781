/** Who may take over, and that what is handed over arrives as it was. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { loadConfig } from '../../../src/core/config.js'
import type { Config } from '../../../src/core/config-types.js'
import { NativeError } from '../../../src/core/errors.js'
import { decodeEstate, encodeEstate, type Estate, untilReleased } from '../../../src/daemon/estate.js'
import {
  type HandOverObstacles,
  judgeTakeover,
  shapeOf,
  takeoverFormat,
  type TakeoverRequest,
} from '../../../src/daemon/takeover-request.js'

const text = `state = "state"
[metrics]
listen = "127.0.0.1:9440"
[nbd]
listen = ["unix:/x/nbd.sock", "127.0.0.1:10809"]
[[group]]
name = "vm"
durability = "flush"
[[group.volume]]
export = "one"
device = "/x/one.img"
[[group.volume]]
export = "two"
device = "/x/two.img"
[standby]
store = "/x/store"
listen = "127.0.0.1:7400"
allow = ["${'ab'.repeat(32)}"]
[standby.devices]
seven = "/x/seven.img"
`

function configOf(t: Test, change: (text: string) => string = same => same): Config {
  const directory = mkdtempSync(join(tmpdir(), 'takeover-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'u.toml')
  writeFileSync(file, change(text))
  return loadConfig(file)
}

const free: HandOverObstacles = { leaving: false, exporting: [], outranked: [], owed: [] }

/** The refusal, or nothing. */
function judge(
  running: Config,
  request: Partial<TakeoverRequest>,
  obstacles: Partial<HandOverObstacles> = {},
): unknown {
  const whole = {
    socket: '/s',
    format: takeoverFormat,
    version: '9.9',
    shape: shapeOf(running),
    maxStallMs: 500,
    ...request,
  }
  try {
    judgeTakeover(whole, running, { ...free, ...obstacles })
    return undefined
  } catch (error) {
    return error
  }
}

t.test('settings may change, what is served and where may not: the refusal names it', async t => {
  const running = configOf(t)
  const against = (from: string | RegExp, to: string): unknown => {
    const [ours, shape] = [shapeOf(running), shapeOf(configOf(t, same => same.replace(from, to)))]
    const only = (some: string[], others: string[]): string[] => some.filter(line => !others.includes(line))
    return [only(ours, shape), only(shape, ours)]
  }
  t.same(against('durability = "flush"', 'durability = "received"\npeer_timeout = "1s"'), [[], []])
  t.same(against('"/x/two.img"', '"/x/other.img"'), [
    ["group 'vm': export 'two' of /x/two.img"],
    ["group 'vm': export 'two' of /x/other.img"],
  ])
  t.same(against('device = "/x/two.img"', 'device = "/x/two.img"\nread_only = true'), [
    ["group 'vm': export 'two' of /x/two.img"],
    ["group 'vm': export 'two' of /x/two.img, read-only"],
  ])
  t.same(against('127.0.0.1:10809', '127.0.0.1:10810'), [
    ['[nbd] listen 127.0.0.1:10809'],
    ['[nbd] listen 127.0.0.1:10810'],
  ])
  t.same(against('127.0.0.1:9440', '127.0.0.1:9441'), [
    ['[metrics] listen 127.0.0.1:9440'],
    ['[metrics] listen 127.0.0.1:9441'],
  ])
  t.same(against('127.0.0.1:7400', '127.0.0.1:7401'), [
    ['[standby] listen 127.0.0.1:7400'],
    ['[standby] listen 127.0.0.1:7401'],
  ])
  t.same(against('"/x/seven.img"', '"/x/eight.img"'), [
    ['[standby.devices] seven = /x/seven.img'],
    ['[standby.devices] seven = /x/eight.img'],
  ])
})

t.test('a takeover is refused for one reason, in one line, with exit code 3', async t => {
  const running = configOf(t)
  t.equal(judge(running, {}), undefined)
  const refused = (error: unknown, code: string, message: string | RegExp): void => {
    t.match(error, { code, exitCode: 3, message })
  }
  refused(judge(running, { format: takeoverFormat + 1 }), 'OTHER_VERSION', /version 9\.9 hands over in another way/)
  refused(
    judge(running, { shape: [] }),
    'OTHER_CONFIG',
    /the configurations differ: only the running daemon has .*group 'vm': export 'one'/,
  )
  refused(
    judge(running, { shape: [...shapeOf(running), 'more'] }),
    'OTHER_CONFIG',
    /differ: only the new one has more\./,
  )
  refused(judge(running, {}, { leaving: true }), 'LEAVING', /starting, stopping, or handing over/)
  refused(judge(running, {}, { exporting: ['one'] }), 'EXPORTING', /copies are exported \(one\)/)
  refused(judge(running, {}, { owed: ['vm'] }), 'OWED', /group vm waits for what its standby gives back/)
  refused(judge(running, {}, { outranked: ['vm'] }), 'OUTRANKED', /the peer of group vm reigns/)
})

t.test('an estate arrives as it was, with the descriptors that the other process has got', async t => {
  const contexts = { baseAllocationId: 1, replicatedId: 2, dirtyId: 0 }
  const flags = { structuredReplies: true, extendedHeaders: false, ...contexts, readOnly: false }
  const client = {
    flags,
    unreadBytes: 3,
    unsentBytes: 4,
    skipBytes: 5,
    closing: true,
    endsInProcess: true,
    connection: 9,
  }
  const estate: Estate = {
    lock: 10,
    doors: { control: 11, metrics: 12 },
    listeners: [{ address: 'unix:/run/nbd.sock', fd: 13 }],
    clients: [
      { name: 'one', client: { ...client, fd: 14, bytesFd: 15 } },
      { name: 'two', client: { ...client, fd: 16, bytesFd: -1 }, attached: 3 },
    ],
    standbyPort: 7400,
    leases: new Map([['disk1', (1n << 60n) + 1n]]),
    handed: [{ group: 'vm', document: { clean: 1 }, maps: [17, 18] }],
  }
  const { document, fds } = encodeEstate(estate)
  t.same(fds, [10, 11, 12, 13, 14, 15, 16, 17, 18])
  const there = JSON.parse(JSON.stringify(document)) as object
  t.same(decodeEstate(there, fds), estate)
  t.equal(
    decodeEstate(
      there,
      fds.map(fd => fd + 100),
    ).clients[1]?.client.fd,
    116,
  )
  t.throws(() => decodeEstate(there, fds.slice(1)), { code: 'TAKEOVER', message: /descriptor 8 did not come/ })
  const little: Estate = {
    ...{ lock: 3, doors: undefined, listeners: [], clients: [], standbyPort: undefined },
    ...{ leases: new Map<string, bigint>(), handed: [] },
  }
  const encoded = encodeEstate(little)
  t.same(decodeEstate(JSON.parse(JSON.stringify(encoded.document)) as object, encoded.fds), little)
  const { leases: _, ...older } = encoded.document as Record<string, unknown>
  t.same(decodeEstate(older, encoded.fds).leases, new Map(), 'from a version that knew no leases')
})

t.test('what is in use is tried again, what is wrong is told at once', async t => {
  const failing = (code: string, times: number): (() => Promise<number>) => {
    let tries = 0
    const cause = Object.assign(new Error(code), { code })
    return () => (++tries > times ? Promise.resolve(tries) : Promise.reject(new NativeError('open', cause)))
  }
  t.equal(await untilReleased(failing('EBUSY', 2)), 3)
  t.equal(await untilReleased(failing('EADDRINUSE', 1)), 2)
  await t.rejects(untilReleased(failing('ENOENT', 1)), { code: 'ENOENT' })
  await t.rejects(
    untilReleased(failing('EBUSY', Infinity), () => false),
    { code: 'EBUSY' },
    'nor what nobody needs',
  )
})
