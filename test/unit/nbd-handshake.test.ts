/**
 * The handshake over real unix sockets, without the addon: a stand-in engine accepts, and records what is handed over.
 * Musts 1-9 of the NBD specification and bad input. What an engine does with an adopted connection: test/e2e/nbd-musts.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { createLogger } from '../../src/core/log.js'
import type { DeviceInfo, NegotiatedFlags } from '../../src/native/binding.js'
import type { NbdExport } from '../../src/nbd/exports.js'
import { NbdServer, type NbdServerLimits } from '../../src/nbd/server.js'
import { FLAG, INFO, infoPayload, metaPayload, NbdClient, OPT, REP, uint16, uint32 } from '../support/nbd-client.js'

const device: DeviceInfo = {
  sizeBytes: 1n << 30n,
  blockMin: 1,
  blockPreferred: 4096,
  blockMax: 32 << 20,
  readOnly: false,
  canZero: true,
  isBlockDevice: false,
}

function anExport(
  name: string,
  changes: Partial<Omit<NbdExport, 'device'>> & { device?: Partial<DeviceInfo> } = {},
): NbdExport {
  return { name, description: '', volume: 7, readOnly: false, ...changes, device: { ...device, ...changes.device } }
}

interface Adopted {
  connection: number
  volume: number
  flags: NegotiatedFlags
  early: Buffer
}

interface Fixture {
  address: { path: string }
  server: NbdServer
  adopted: Adopted[]
  released: number[]
  log: string[]
  connect: () => Promise<NbdClient>
  /** Every connection was adopted or released, none twice. */
  settled: () => Promise<void>
}

interface FixtureOptions {
  exports?: NbdExport[]
  limits?: Partial<NbdServerLimits>
  adopt?: () => void
}

async function serve(test: Test, options: FixtureOptions = {}): Promise<Fixture> {
  const exports = options.exports ?? [anExport('disk')]
  // Not testdir(): its names are as long as the titles, and a socket's path has 107 bytes at most.
  const directory = mkdtempSync(path.join(tmpdir(), 'nbd-'))
  const address = { path: path.join(directory, 's') }
  const sockets = new Map<number, net.Socket>()
  const adopted: Adopted[] = []
  const released: number[] = []
  const log: string[] = []
  let connections = 0
  const listener = net.createServer({ allowHalfOpen: true, pauseOnConnect: true, highWaterMark: 16 << 10 }, socket => {
    sockets.set(++connections, socket)
    server.accepted({ type: 'accepted', listener: 1, connection: connections, fd: connections, peer: 'test' })
  })
  const server = new NbdServer({
    engine: {
      listen: () => ({ listener: 1, port: 0 }),
      closeListener: () => undefined,
      takeListener: () => -1,
      adopt: (connection, volume, flags, early) => {
        options.adopt?.()
        adopted.push({ connection, volume, flags, early: Buffer.from(early) })
      },
      release: connection => released.push(connection),
      startTls: () => Promise.reject(new Error('not here')),
    },
    exports: { lookup: name => exports.find(one => one.name === name), list: () => exports },
    openSocket: fd => sockets.get(fd)!,
    log: createLogger('nbd', line => log.push(line)),
    limits: { idleMs: 5000, totalMs: 8000, ...options.limits },
  })
  server.listen({ kind: 'unix', path: address.path })
  await once(listener.listen(address.path), 'listening')
  const clients: NbdClient[] = []
  test.teardown(() => {
    for (const client of clients) client.destroy()
    for (const socket of sockets.values()) socket.destroy()
    listener.close()
    server.close()
    rmSync(directory, { recursive: true, force: true })
  })
  const connect = async () => {
    const client = await NbdClient.open(address)
    clients.push(client)
    return client
  }
  const settled = async () => {
    await until(() => server.negotiating === 0 && adopted.length + released.length === connections)
    const all = [...adopted.map(one => one.connection), ...released]
    test.equal(new Set(all).size, all.length, 'no connection is given away twice')
  }
  return { address, server, adopted, released, log, connect, settled }
}

async function until(condition: () => boolean, milliseconds = 60_000): Promise<void> {
  for (const limit = Date.now() + milliseconds; !condition();) {
    if (Date.now() > limit) throw new Error(`not within ${milliseconds} ms: ${condition.toString()}`)
    await sleep(5)
  }
}

const sleep = (milliseconds: number) => new Promise(resolve => setTimeout(resolve, milliseconds))

async function greeted(fixture: Fixture, flags = 3): Promise<NbdClient> {
  const client = await fixture.connect()
  await client.greet(flags)
  return client
}

t.test('1. an unknown option is answered with ERR_UNSUP, its data is consumed, and the haggling goes on', async t => {
  const fixture = await serve(t)
  const client = await greeted(fixture)
  for (const option of [0, OPT.PEEK_EXPORT, OPT.STARTTLS, 12, 77, 0x7fffffff, 0xffffffff]) {
    for (const bytes of [0, 1, 4097, 65536, 65537, 1 << 20]) {
      t.equal(
        await client.ask(option, Buffer.alloc(bytes, 0x49)),
        REP.ERR_UNSUP,
        `option ${option} with ${bytes} bytes`,
      )
    }
  }
  t.equal((await client.go('disk')).size, device.sizeBytes)
  await fixture.settled()
  t.equal(fixture.adopted.length, 1)
})

t.test('2. ABORT is acknowledged, then the connection ends cleanly, whatever data came with it', async t => {
  for (const data of [Buffer.alloc(0), Buffer.from('bye'), Buffer.alloc(100_000)]) {
    const fixture = await serve(t)
    const client = await greeted(fixture)
    t.equal(await client.ask(OPT.ABORT, data), REP.ACK)
    t.equal((await client.receiveEnd()).reset, false)
    client.socket.end()
    await fixture.settled()
    t.same(fixture.released, [1])
    t.same(fixture.log, [], 'and is no news')
  }
})

t.test('2. a client that sends ABORT and closes at once, not waiting for the reply, is no problem', async t => {
  const fixture = await serve(t)
  const client = await greeted(fixture)
  client.sendOption(OPT.ABORT)
  client.socket.destroy()
  await fixture.settled()
  t.same(fixture.released, [1])
})

t.test('2. a client that does not close after ABORT is closed', async t => {
  const fixture = await serve(t, { limits: { lingerMs: 100 } })
  const client = await greeted(fixture)
  t.equal(await client.ask(OPT.ABORT), REP.ACK)
  await fixture.settled()
  await client.receiveEnd()
})

t.test('3. LIST tells every export, with lengths that add up', async t => {
  const long = 'n'.repeat(4096)
  const exports = [
    anExport('disk', { description: 'the first disk' }),
    anExport('zwei ü 漢', { description: '' }),
    anExport(long),
  ]
  const fixture = await serve(t, { exports })
  const client = await greeted(fixture)
  t.same(await client.list(), [
    { name: 'disk', description: 'the first disk' },
    { name: 'zwei ü 漢', description: '' },
    { name: long, description: '' },
  ])
  t.equal(await client.ask(OPT.LIST, Buffer.from('x')), REP.ERR_INVALID, 'LIST with data')
  t.equal((await client.list()).length, 3)
  const none = await greeted(await serve(t, { exports: [] }))
  t.same(await none.list(), [])
})

t.test('4. unknown client flags drop the connection', async t => {
  const fixture = await serve(t)
  for (const flags of [4, 7, 0x80000000, 0xffffffff]) {
    const client = await greeted(fixture, flags)
    await client.receiveEnd()
  }
  await fixture.settled()
  t.equal(fixture.released.length, 4)
  t.match(fixture.log[0], /unknown client flags 0x4/)
})

t.test('4. the handshake flags are FIXED_NEWSTYLE and NO_ZEROES', async t => {
  const client = await (await serve(t)).connect()
  t.equal(await client.greet(), 3)
})

t.test('4. the 124 zeroes come after EXPORT_NAME without NO_ZEROES, and never else', async t => {
  const fixture = await serve(t)
  for (const [flags, bytes] of [
    [0, 134],
    [1, 134],
    [2, 10],
    [3, 10],
  ] as const) {
    // prettier-ignore
    const client = await greeted(fixture, flags)
    client.sendOption(OPT.EXPORT_NAME, Buffer.from('disk'))
    const answer = await client.receive(bytes)
    t.equal(answer.readBigUInt64BE(0), device.sizeBytes)
    t.ok(answer.subarray(10).every(byte => byte === 0))
    await client.receiveEnd()
  }
  for (const flags of [0, 1, 2, 3]) {
    const client = await greeted(fixture, flags)
    await client.option(OPT.GO, infoPayload('disk'))
    await client.receiveEnd()
  }
  await fixture.settled()
  t.equal(fixture.adopted.length, 8)
})

t.test('4. EXPORT_NAME of an export that is not there ends the connection', async t => {
  const fixture = await serve(t, { exports: [anExport('a'), anExport('b')] })
  for (const name of ['nosuch', '', 'A', 'a\0', 'x'.repeat(4097), 'x'.repeat(70_000)]) {
    const client = await greeted(fixture)
    client.sendOption(OPT.EXPORT_NAME, Buffer.from(name))
    await client.receiveEnd()
  }
  await fixture.settled()
  t.equal(fixture.released.length, 6)
})

t.test(
  '5. names and queries of 4096 bytes are taken, longer ones refused with TOO_BIG, and the stream stays in step',
  async t => {
    const long = 'é'.repeat(2048)
    const fixture = await serve(t, { exports: [anExport(long), anExport('b')] })
    const client = await greeted(fixture)
    t.equal((await client.info(long)).size, device.sizeBytes)
    t.equal(await client.ask(OPT.INFO, infoPayload(long + 'x')), REP.ERR_TOO_BIG)
    t.equal(await client.ask(OPT.GO, infoPayload('x'.repeat(60_000))), REP.ERR_TOO_BIG)
    t.equal(await client.ask(OPT.GO, infoPayload('x'.repeat(100_000))), REP.ERR_TOO_BIG)
    await client.structuredReply()
    for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
      const query = 'base:' + 'q'.repeat(4091)
      t.same(await client.metaContexts(option, long, [query]), { type: REP.ACK, contexts: new Map() })
      t.equal(await client.ask(option, metaPayload(long, [query + 'q'])), REP.ERR_TOO_BIG)
      t.equal(await client.ask(option, metaPayload(long + 'x', [])), REP.ERR_TOO_BIG)
      t.equal(await client.ask(option, metaPayload('b', Array<string>(20_000).fill('base:'))), REP.ERR_TOO_BIG)
    }
    client.sendOption(OPT.EXPORT_NAME, Buffer.from(long))
    await client.receive(10)
    await fixture.settled()
    t.equal(fixture.adopted.length, 1)
  },
)

t.test('5. a length that contradicts its frame is ERR_INVALID, and nothing is read past the frame', async t => {
  const fixture = await serve(t)
  const client = await greeted(fixture)
  await client.structuredReply()
  const name = Buffer.from('disk')
  const infos: [string, Buffer][] = [
    ['no data', Buffer.alloc(0)],
    ['half a length', Buffer.alloc(3)],
    ['a name longer than the data', Buffer.concat([uint32(5), name])],
    ['the longest name there can be', Buffer.concat([uint32(0xffffffff), name, uint16(0)])],
    ['a name that takes the place of the count', Buffer.concat([uint32(6), name, uint16(0)])],
    ['a name that takes a half of the count', Buffer.concat([uint32(5), name, uint16(0)])],
    ['more requests than there are', Buffer.concat([uint32(4), name, uint16(2), uint16(0)])],
    ['65535 requests', Buffer.concat([uint32(4), name, uint16(0xffff)])],
    ['fewer requests than there are', Buffer.concat([uint32(4), name, uint16(0), uint16(3)])],
    ['half a request', Buffer.concat([uint32(4), name, uint16(1), Buffer.alloc(1)])],
    ['a zero byte in the name', infoPayload('di\0sk')],
    ['a name that is not UTF-8', infoPayload(Buffer.from([0xff, 0xfe]))],
  ]
  for (const [what, data] of infos) {
    t.equal(await client.ask(OPT.INFO, data), REP.ERR_INVALID, `INFO with ${what}`)
    t.equal(await client.ask(OPT.GO, data), REP.ERR_INVALID, `GO with ${what}`)
  }
  const metas: [string, Buffer][] = [
    ['no data', Buffer.alloc(0)],
    ['a name longer than the data', Buffer.concat([uint32(9), name, uint32(0)])],
    ['no count', Buffer.concat([uint32(4), name])],
    ['four billion queries', Buffer.concat([uint32(4), name, uint32(0xffffffff)])],
    [
      'a query longer than the data',
      Buffer.concat([uint32(4), name, uint32(1), uint32(0xffffffff), Buffer.from('base:')]),
    ],
    ['a second query that is not there', Buffer.concat([uint32(4), name, uint32(2), uint32(5), Buffer.from('base:')])],
    ['data after the last query', Buffer.concat([metaPayload('disk', ['base:']), Buffer.alloc(1)])],
  ]
  for (const [what, data] of metas) {
    t.equal(await client.ask(OPT.LIST_META_CONTEXT, data), REP.ERR_INVALID, `LIST_META_CONTEXT with ${what}`)
    t.equal(await client.ask(OPT.SET_META_CONTEXT, data), REP.ERR_INVALID, `SET_META_CONTEXT with ${what}`)
  }
  t.equal((await client.go('disk')).size, device.sizeBytes)
})

t.test('5. an error reply carries a message, and a long name in it is cut', async t => {
  const client = await greeted(await serve(t))
  const replies = await client.option(OPT.GO, infoPayload('x'.repeat(4096)))
  t.equal(replies[0]!.type, REP.ERR_UNKNOWN)
  t.ok(replies[0]!.data.length > 10 && replies[0]!.data.length <= 4096)
})

t.test('5. option data of gigabytes is announced: the connection ends, nothing is kept', async t => {
  const fixture = await serve(t)
  for (const bytes of [(1 << 20) + 1, 0x7fffffff, 0xffffffff]) {
    const client = await greeted(fixture)
    client.sendOption(OPT.GO, Buffer.alloc(16), bytes)
    await client.receiveEnd()
  }
  await fixture.settled()
  t.match(fixture.log[0], /NBD_OPT_GO announces 1048577 bytes/)
})

t.test('6. STARTTLS is answered as unsupported and changes nothing', async t => {
  const fixture = await serve(t)
  const client = await greeted(fixture)
  await client.structuredReply()
  t.equal(await client.ask(OPT.STARTTLS), REP.ERR_UNSUP)
  await client.go('disk')
  await fixture.settled()
  t.equal(fixture.adopted[0]!.flags.structuredReplies, true)
})

t.test('7. block sizes are told when asked for, and always when they are not the default', async t => {
  const block = { min: 4096, preferred: 4096, max: 32 << 20 }
  const exports = [anExport('plain'), anExport('sectors', { device: { blockMin: 4096 } })]
  const client = await greeted(await serve(t, { exports }))
  t.same((await client.info('plain')).block, undefined)
  t.same((await client.info('plain', [INFO.BLOCK_SIZE])).block, { min: 1, preferred: 4096, max: 32 << 20 })
  t.same((await client.info('sectors')).block, block)
  t.same((await client.info('sectors', [INFO.BLOCK_SIZE])).block, block)
  t.same((await client.go('sectors')).block, block, 'and a client that did not ask is let in')
})

t.test('7. NAME and DESCRIPTION come when asked for; unknown information requests are ignored', async t => {
  const exports = [anExport('disk', { description: 'a disk' })]
  const client = await greeted(await serve(t, { exports }))
  t.same((await client.info('')).infos, [INFO.EXPORT])
  const full = await client.info('', [INFO.DESCRIPTION, 99, 0xffff, INFO.NAME, INFO.BLOCK_SIZE, INFO.EXPORT, INFO.NAME])
  t.match(full, { name: 'disk', description: 'a disk', size: device.sizeBytes })
  t.equal(full.infos.length, 4)
  const info = await client.info('', [INFO.NAME, INFO.BLOCK_SIZE])
  t.same(await client.go('', [INFO.NAME, INFO.BLOCK_SIZE]), info, 'GO says what INFO says')
})

t.test('7. the empty name is the only export, and nothing when there are several', async t => {
  const one = await greeted(await serve(t))
  t.equal((await one.go('')).size, device.sizeBytes)
  const two = await greeted(await serve(t, { exports: [anExport('a'), anExport('b')] }))
  t.equal(await two.ask(OPT.GO, infoPayload('')), REP.ERR_UNKNOWN)
  t.equal(await two.ask(OPT.GO, infoPayload('c')), REP.ERR_UNKNOWN)
  t.equal((await two.go('b')).size, device.sizeBytes)
})

t.test('the transmission flags say what the export can do', async t => {
  const exports = [
    anExport('rw'),
    anExport('ro', { readOnly: true }),
    anExport('protected', { device: { readOnly: true } }),
    anExport('no-zero', { device: { canZero: false } }),
  ]
  const fixture = await serve(t, { exports })
  const always = FLAG.HAS_FLAGS | FLAG.SEND_FLUSH | FLAG.SEND_FUA | FLAG.CAN_MULTI_CONN | FLAG.SEND_CACHE
  const writes = FLAG.SEND_WRITE_ZEROES | FLAG.SEND_FAST_ZERO
  const expected = { rw: writes | FLAG.SEND_TRIM, ro: FLAG.READ_ONLY, protected: FLAG.READ_ONLY, 'no-zero': writes }
  for (const [name, flags] of Object.entries(expected)) {
    const client = await greeted(fixture)
    t.equal((await client.info(name)).flags, always | flags, `${name}, simple`)
    await client.structuredReply()
    t.equal((await client.go(name)).flags, always | flags | FLAG.SEND_DF, `${name}, structured`)
    const old = await greeted(fixture)
    t.equal((await old.exportName(name)).flags, always | flags, `${name} by EXPORT_NAME`)
  }
  await fixture.settled()
  t.same(fixture.adopted.map(one => one.flags.readOnly), [false, false, true, true, true, true, false, false]) // prettier-ignore
})

t.test(
  'STRUCTURED_REPLY and EXTENDED_HEADERS: data is refused, repeating is allowed, extended takes precedence',
  async t => {
    const fixture = await serve(t)
    const client = await greeted(fixture)
    t.equal(await client.ask(OPT.STRUCTURED_REPLY, Buffer.alloc(1)), REP.ERR_INVALID)
    t.equal(await client.ask(OPT.EXTENDED_HEADERS, Buffer.alloc(70_000)), REP.ERR_INVALID)
    t.equal((await client.info('disk')).flags & FLAG.SEND_DF, 0, 'refused options change nothing')
    t.equal(await client.ask(OPT.STRUCTURED_REPLY), REP.ACK)
    t.equal(await client.ask(OPT.STRUCTURED_REPLY), REP.ACK)
    t.equal(await client.ask(OPT.EXTENDED_HEADERS), REP.ACK)
    t.equal(await client.ask(OPT.EXTENDED_HEADERS), REP.ACK)
    t.equal(await client.ask(OPT.STRUCTURED_REPLY), REP.ERR_EXT_HEADER_REQD)
    await client.go('disk')
    const only = await greeted(fixture)
    t.equal(await only.ask(OPT.EXTENDED_HEADERS), REP.ACK)
    t.ok((await only.go('disk')).flags & FLAG.SEND_DF, 'extended headers imply structured replies')
    await fixture.settled()
    const contexts = { baseAllocationId: 0, replicatedId: 0, dirtyId: 0 }
    const flags = { structuredReplies: true, extendedHeaders: true, ...contexts, readOnly: false }
    t.same(fixture.adopted.map(one => one.flags), [flags, flags]) // prettier-ignore
  },
)

t.test('EXPORT_NAME after EXTENDED_HEADERS ends the connection', async t => {
  const fixture = await serve(t)
  const client = await greeted(fixture)
  await client.extendedHeaders()
  client.sendOption(OPT.EXPORT_NAME, Buffer.from('disk'))
  await client.receiveEnd()
  await fixture.settled()
  t.same(fixture.released, [1])
})

t.test('8. base: is a wildcard for LIST only; unknown names and namespaces are ignored', async t => {
  const client = await greeted(await serve(t))
  await client.structuredReply()
  const allocation = new Map([['base:allocation', 0]])
  const cases: [string[], boolean, boolean][] = [
    [[], true, false],
    [['base:'], true, false],
    [['base:allocation'], true, true],
    [['base:allocation', 'base:allocation', 'base:'], true, true],
    [['base:nosuch', 'qemu:dirty-bitmap:x', 'x-y:', 'nocolon', ''], false, false],
    [['qemu:', 'base:allocation'], true, true],
    [['BASE:allocation', 'base:allocation '], false, false],
  ]
  for (const [queries, listed, set] of cases) {
    const list = await client.metaContexts(OPT.LIST_META_CONTEXT, 'disk', queries)
    t.same(list, { type: REP.ACK, contexts: listed ? allocation : new Map() }, `LIST ${JSON.stringify(queries)}`)
    const selected = await client.setMetaContext('disk', queries)
    t.same([...selected.keys()], set ? ['base:allocation'] : [], `SET ${JSON.stringify(queries)}`)
  }
})

t.test('8. an export with a standby has contexts of our own, several at once; others have not', async t => {
  const fixture = await serve(t, { exports: [anExport('pair', { replicated: true }), anExport('alone')] })
  const [allocation, replicated, dirty] = ['base:allocation', 'understudy:replicated', 'understudy:dirty']
  const client = await greeted(fixture)
  await client.structuredReply()
  const listed = async (name: string, queries: string[]) => {
    const { contexts } = await client.metaContexts(OPT.LIST_META_CONTEXT, name, queries)
    return [...contexts.keys()]
  }
  t.same(await listed('pair', []), [allocation, replicated, dirty])
  t.same(await listed('pair', ['understudy:']), [replicated, dirty], 'a wildcard for LIST')
  t.same(await listed('pair', [dirty, 'base:', 'understudy:nosuch']), [allocation, dirty])
  t.same(await listed('alone', ['understudy:', dirty]), [])
  t.same(await listed('alone', []), [allocation])
  t.same([...(await client.setMetaContext('pair', ['understudy:', 'base:'])).keys()], [], 'and for LIST only')
  t.same([...(await client.setMetaContext('alone', [replicated, dirty, allocation])).keys()], [allocation])
  const ids = await client.setMetaContext('pair', [dirty, replicated, dirty, allocation])
  t.equal(new Set([0, ...ids.values()]).size, 4, 'each has an id of its own')
  await client.go('pair')
  await fixture.settled()
  const [baseAllocationId, replicatedId, dirtyId] = [allocation, replicated, dirty].map(name => ids.get(name))
  t.match(fixture.adopted.at(-1)?.flags, { baseAllocationId, replicatedId, dirtyId })
  const other = await greeted(fixture)
  await other.structuredReply()
  await other.setMetaContext('pair', [dirty])
  await other.go('pair')
  await fixture.settled()
  t.match(fixture.adopted.at(-1)?.flags, { baseAllocationId: 0, replicatedId: 0, dirtyId })
})

t.test('8. SET_META_CONTEXT needs structured replies; LIST does without', async t => {
  const client = await greeted(await serve(t))
  t.equal((await client.metaContexts(OPT.SET_META_CONTEXT, 'disk', ['base:allocation'])).type, REP.ERR_INVALID)
  t.equal((await client.metaContexts(OPT.LIST_META_CONTEXT, 'disk', [])).type, REP.ACK)
  await client.extendedHeaders()
  t.same([...(await client.setMetaContext('disk', ['base:allocation'])).keys()], ['base:allocation'])
})

t.test('8. a failed SET_META_CONTEXT clears what was set before; so does a GO to another export', async t => {
  const fixture = await serve(t, { exports: [anExport('a', { volume: 1 }), anExport('b', { volume: 2 })] })
  const select = async () => {
    const client = await greeted(fixture)
    await client.structuredReply()
    await client.setMetaContext('a', ['base:allocation'])
    return client
  }
  const last = async () => {
    await fixture.settled()
    return fixture.adopted.at(-1)!
  }
  await (await select()).go('a')
  t.equal((await last()).flags.baseAllocationId, 1, 'selected')
  await (await select()).exportName('a')
  t.equal((await last()).flags.baseAllocationId, 1, 'selected, by EXPORT_NAME')
  await (await select()).go('b')
  t.match(await last(), { volume: 2, flags: { baseAllocationId: 0 } }, 'selected for another export')

  const failures: [string, (client: NbdClient) => Promise<unknown>, number][] = [
    [
      'unknown export',
      client => client.ask(OPT.SET_META_CONTEXT, metaPayload('nosuch', ['base:allocation'])),
      REP.ERR_UNKNOWN,
    ],
    ['broken data', client => client.ask(OPT.SET_META_CONTEXT, Buffer.alloc(3)), REP.ERR_INVALID],
    ['too much data', client => client.ask(OPT.SET_META_CONTEXT, Buffer.alloc(70_000)), REP.ERR_TOO_BIG],
    ['no queries', client => client.ask(OPT.SET_META_CONTEXT, metaPayload('a', [])), REP.ACK],
  ]
  for (const [what, fail, reply] of failures) {
    const client = await select()
    t.equal(await fail(client), reply, what)
    await client.go('a')
    t.equal((await last()).flags.baseAllocationId, 0, `${what} clears it`)
  }
  const again = await select()
  t.equal((await again.metaContexts(OPT.LIST_META_CONTEXT, 'nosuch', [])).type, REP.ERR_UNKNOWN)
  t.equal(await again.ask(OPT.GO, infoPayload('nosuch')), REP.ERR_UNKNOWN)
  await again.go('a')
  t.equal((await last()).flags.baseAllocationId, 1, 'other failures do not')
})

t.test('9. a client that stalls anywhere in the handshake is dropped', async t => {
  const fixture = await serve(t, { limits: { idleMs: 150, totalMs: 2000 } })
  const stalls: [string, (client: NbdClient) => unknown][] = [
    ['before its flags', () => undefined],
    ['in its flags', client => client.send(Buffer.alloc(2))],
    ['before the first option', client => client.send(uint32(3))],
    ['in the header of an option', client => client.send(Buffer.concat([uint32(3), Buffer.from('IHAVEOPT')]))],
    ['in the data of an option', client => (client.send(uint32(3)), client.sendOption(OPT.GO, Buffer.alloc(5), 60))],
    ['in data that is skipped', client => (client.send(uint32(3)), client.sendOption(99, Buffer.alloc(9), 1 << 20))],
  ]
  const started = performance.now()
  await Promise.all(
    stalls.map(async ([what, stall]) => {
      const client = await fixture.connect()
      await client.receive(18)
      stall(client)
      await t.resolves(client.receiveEnd(8000), what)
    }),
  )
  t.ok(performance.now() - started < 9000, 'far less than the 10 s of a daemon')
  await fixture.settled()
  t.equal(fixture.released.length, stalls.length)
  t.match(fixture.log.join('\n'), /took longer than 0.15 s; waited for the data of NBD_OPT_GO/)
})

t.test('9. a client that trickles, or haggles for ever, is dropped when its whole time is up', async t => {
  const fixture = await serve(t, { limits: { idleMs: 250, totalMs: 600 } })
  const trickle = await fixture.connect()
  const bytes = setInterval(() => trickle.send(Buffer.alloc(1)), 50)
  const haggle = await greeted(fixture)
  const options = setInterval(() => haggle.sendOption(OPT.LIST), 50)
  await Promise.all([trickle.closed, haggle.closed])
  clearInterval(bytes)
  clearInterval(options)
  await fixture.settled()
  t.equal(fixture.released.length, 2)
})

t.test('9. a client that sends options and takes no replies is held at one reply, and dropped', async t => {
  const exports = Array.from({ length: 300 }, (_, index) => anExport(`${index}`, { description: 'd'.repeat(4096) }))
  const fixture = await serve(t, { exports, limits: { idleMs: 400 } })
  const client = await fixture.connect()
  await client.receive(18)
  client.socket.pause()
  client.send(uint32(3))
  const before = process.memoryUsage().arrayBuffers
  for (let count = 0; count < 1000; count++) client.sendOption(OPT.LIST)
  await until(() => fixture.server.negotiating === 0)
  t.ok(process.memoryUsage().arrayBuffers - before < 16 << 20, 'not a thousand lists in memory')
  await fixture.settled()
  t.match(fixture.log[0], /waited for the client to take the reply to NBD_OPT_LIST/)
})

t.test('9. a flood of bytes nobody asked for is not read', async t => {
  const fixture = await serve(t, { limits: { idleMs: 300 } })
  const client = await fixture.connect()
  await client.receive(18)
  client.send(uint32(3))
  client.sendOption(OPT.LIST, Buffer.alloc(0))
  await client.receiveReplies(OPT.LIST)
  client.sendOption(77, Buffer.alloc(0), 1 << 20)
  for (let count = 0; count < 64; count++) client.send(Buffer.alloc(1 << 20))
  await until(() => fixture.server.negotiating === 0)
  t.ok(client.socket.writableLength > 40 << 20 || client.socket.destroyed, 'most of 64 MiB stays with the client')
  await fixture.settled()
})

t.test('9. a client may send an endless number of options only so often', async t => {
  const fixture = await serve(t, { limits: { optionsMax: 20 } })
  const client = await greeted(fixture)
  for (let count = 0; count < 20; count++) t.equal(await client.ask(99), REP.ERR_UNSUP)
  await client.receiveEnd()
  await fixture.settled()
  t.match(fixture.log[0], /20 options without choosing an export/)
})

t.test('9. stalling clients do not lock others out: the oldest one makes room', async t => {
  const fixture = await serve(t, { limits: { negotiatingMax: 8 } })
  const stalled = await Promise.all(Array.from({ length: 8 }, () => greeted(fixture)))
  await until(() => fixture.server.negotiating === 8)
  for (let count = 0; count < 3; count++) await (await greeted(fixture)).go('disk')
  t.ok(fixture.server.negotiating <= 8)
  await stalled[0]!.receiveEnd()
  t.equal(await stalled[7]!.ask(99), REP.ERR_UNSUP, 'the youngest is still served')
  t.match(fixture.log.join('\n'), /8 clients are negotiating and this one had been at it longest/)
})

t.test('garbage instead of NBD ends the connection and says why', async t => {
  const fixture = await serve(t)
  const garbage = [
    'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
    '\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03',
    'SSH-2.0-OpenSSH_9.2\r\n',
    '\0\0\0\x03IHAVEOPS\0\0\0\x07\0\0\0\0',
  ]
  for (const text of garbage) {
    const client = await fixture.connect()
    await client.receive(18)
    client.send(Buffer.from(text, 'latin1'))
    await client.receiveEnd()
  }
  await fixture.settled()
  t.equal(fixture.released.length, 4)
  t.equal(fixture.log.length, 4)
  t.match(fixture.log[3], /option magic 0x49484156454f5053 instead of IHAVEOPT/)
})

t.test('failing clients cannot fill the log', async t => {
  const fixture = await serve(t)
  for (let count = 0; count < 60; count++) await (await greeted(fixture, 4)).receiveEnd()
  await fixture.settled()
  t.ok(fixture.log.length <= 31, `${fixture.log.length} lines`)
})

t.test('a client that connects and leaves, at any point, is released and no news', async t => {
  const fixture = await serve(t)
  const talk = Buffer.concat([
    uint32(3),
    Buffer.from('IHAVEOPT'),
    uint32(OPT.GO),
    uint32(10),
    uint32(4),
    Buffer.from('disk'),
  ])
  for (let bytes = 0; bytes <= talk.length; bytes += 3) {
    const client = await fixture.connect()
    client.send(talk.subarray(0, bytes))
    if (bytes % 2 === 0) client.socket.end()
    else client.socket.destroy()
    await client.closed
  }
  await fixture.settled()
  t.equal(fixture.adopted.length, 0)
  t.same(fixture.log, [])
})

t.test('what the client sent ahead of its turn is handed over to the last byte', async t => {
  const fixture = await serve(t)
  for (const [size, piece] of [
    [0, 1],
    [28, 28],
    [28, 5],
    [70_000, 70_000],
    [300_000, 1000],
  ] as const) {
    // prettier-ignore
    const client = await fixture.connect()
    const body = Buffer.from(Array.from({ length: size }, (_, index) => (index * 7 + size) % 251))
    const data = infoPayload('disk')
    const head = Buffer.concat([uint32(3), Buffer.from('IHAVEOPT'), uint32(OPT.GO), uint32(data.length), data])
    const all = Buffer.concat([head, body])
    for (let at = 0; at < all.length; at += piece) client.send(all.subarray(at, at + piece))
    await client.receive(18)
    await client.receiveReplies(OPT.GO)
    await fixture.settled()
    const { early } = fixture.adopted.at(-1)!
    t.ok(early.equals(body.subarray(0, early.length)), `${early.length} of ${size} bytes, in order`)
    if (piece === size && size <= 28) t.equal(early.length, size, 'all of it when it came together')
    t.ok(early.length <= (16 << 10) + (64 << 10), 'and no more than the buffers of a handshake')
  }
})

t.test('a client that has closed its sending side after GO is handed over all the same', async t => {
  const fixture = await serve(t)
  const client = await fixture.connect()
  client.send(uint32(3))
  client.sendOption(OPT.GO, infoPayload('disk'))
  client.socket.end()
  await client.receive(18)
  t.equal((await client.receiveReplies(OPT.GO)).at(-1)!.type, REP.ACK)
  await fixture.settled()
  t.equal(fixture.adopted.length, 1)
})

t.test('an engine that refuses the connection gets it back for release', async t => {
  const fixture = await serve(t, {
    adopt: () => {
      throw Object.assign(new Error('no memory'), { code: 'ENOMEM' })
    },
  })
  const client = await greeted(fixture)
  client.sendOption(OPT.GO, infoPayload('disk'))
  await client.closed
  await until(() => fixture.released.length === 1)
  t.match(fixture.log[0], /hand over the connection to export 'disk': not enough memory \(ENOMEM\)/)
})

t.test('a daemon that is stopping answers options with ERR_SHUTDOWN and acknowledges ABORT', async t => {
  const fixture = await serve(t)
  const client = await greeted(fixture)
  const other = await greeted(fixture)
  const third = await greeted(fixture)
  await client.structuredReply()
  fixture.server.stopListening()
  for (const option of [OPT.LIST, OPT.GO, OPT.STRUCTURED_REPLY, 99]) t.equal(await client.ask(option), REP.ERR_SHUTDOWN)
  t.equal(await client.ask(OPT.ABORT), REP.ACK)
  other.sendOption(OPT.EXPORT_NAME, Buffer.from('disk'))
  await other.receiveEnd()
  const late = await fixture.connect()
  await late.receiveEnd()
  fixture.server.close()
  await third.receiveEnd()
  await fixture.settled()
  t.equal(fixture.adopted.length, 0)
})

t.test('random streams of options: each connection ends in time, and is adopted or released once', async t => {
  const fixture = await serve(t, { limits: { idleMs: 200, totalMs: 1000, lingerMs: 50 } })
  const bytes = (max: number) => fc.uint8Array({ maxLength: max }).map(data => Buffer.from(data))
  const name = fc.constantFrom('disk', '', 'nosuch', 'x'.repeat(5000))
  const payload = fc.oneof(
    fc.constant(Buffer.alloc(0)),
    bytes(64),
    name.map(text => infoPayload(text, [3])),
    name.map(text => metaPayload(text, ['base:', 'base:allocation'])),
  )
  const option = fc
    .record({ code: fc.nat(13), payload, lie: fc.constantFrom(0, 0, 0, 0, 1, -1, 9999, 0xffffff) })
    .map(({ code, payload, lie }) => {
      const length = Math.max(0, payload.length + lie)
      return Buffer.concat([Buffer.from('IHAVEOPT'), uint32(code), uint32(length), payload])
    })
  const stream = fc.tuple(fc.constantFrom(0, 1, 2, 3, 3, 3, 8), fc.array(fc.oneof({ weight: 9, arbitrary: option }, bytes(40)), { maxLength: 8 })) // prettier-ignore
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 0x7fffffff))
  t.comment(`SEED=${seed}`)
  await fc.assert(
    fc.asyncProperty(fc.array(stream, { minLength: 16, maxLength: 16 }), async streams => {
      await Promise.all(
        streams.map(async ([flags, parts]) => {
          const client = await fixture.connect()
          client.send(Buffer.concat([uint32(flags), ...parts]))
          if (parts.length % 2 === 1) client.socket.end()
          await client.closed
          client.destroy()
        }),
      )
    }),
    { seed, numRuns: 8 },
  )
  await fixture.settled()
  const after = await greeted(fixture)
  t.equal((await after.go('disk')).size, device.sizeBytes, 'and the next client is served')
})
