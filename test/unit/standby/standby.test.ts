import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import type { StandbyConfig } from '../../../src/core/config-types.js'
import { openReign } from '../../../src/master/reign-opening.js'
import { Standby } from '../../../src/standby/standby.js'
import {
  errno,
  FakeAddon,
  FakeClock,
  type FakeSession,
  FakeTransport,
  rememberingLog,
  settle,
} from '../transport/fakes.js'

const master = 'a'.repeat(64)
const another = 'b'.repeat(64)
const cut = 2n

const hello = (changes: object = {}): object => ({
  type: 'hello',
  protocol: 1,
  protocolOldest: 1,
  program: '0',
  group: 'disk1',
  incarnation: '5',
  generation: '01',
  durability: 'durable',
  hostname: 'alpha',
  volumes: [{ name: 'disk1', uuid: 'uuid-1', sizeBytes: '1048576', blockMin: 512 }],
  ...changes,
})
const volume = (changes: object): object => ({
  volumes: [{ name: 'disk1', uuid: 'uuid-1', sizeBytes: '1048576', blockMin: 512, ...changes }],
})

async function open(t: Test, store: string, changes: Partial<StandbyConfig> = {}, fake = new FakeAddon()) {
  const clock = new FakeClock()
  const { log, lines } = rememberingLog()
  let transport = new FakeTransport()
  const config: StandbyConfig = {
    store,
    listen: { host: '127.0.0.1', port: 7000 },
    transport: 'quic',
    allow: [master],
    devices: new Map(),
    stagingBytes: 0,
    cacheBytes: 0,
    drainTimeoutMs: 1000,
    ...changes,
  }
  const standby = await Standby.open(config, {
    addon: fake.addon,
    events: fake,
    identity: { pem: '', id: 'c'.repeat(64) },
    log,
    clock,
    reigns: {
      open: request => {
        for (const { device } of request.config.volumes) {
          mkdirSync(join(device, '..'), { recursive: true })
          writeFileSync(device, Buffer.alloc(1 << 20))
        }
        return openReign(request, {
          ...{ addon: fake.addon, events: fake, identity: { pem: '', id: 'c'.repeat(64) }, log, clock },
          stateDirectory: join(store, '..', 'state'),
        })
      },
      suspects: () => Promise.resolve(undefined),
    },
    groups: [],
    listen: listening => (transport = new FakeTransport(listening)),
  })
  t.teardown(() => standby.close({ drainMs: 0 }))
  const greet = async (message = hello(), id = master): Promise<FakeSession> => {
    const session = transport.incoming(id)
    session.receive(message)
    await settle()
    return session
  }
  const setReplica = (values: Record<string, bigint>): void =>
    fake.set('replica', standby.replicaPages()[0]?.page ?? 0, values)
  return { standby, fake, clock, transport, lines, greet, setReplica }
}

function scratch(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'standby-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return join(directory, 'store')
}

const replicaFile = (store: string): string => join(store, '.groups', 'disk1', 'replica.json')

t.test('a new group gets a copy of its own, and is welcomed after its records are routed', async t => {
  const store = scratch(t)
  const { greet, fake, standby } = await open(t, store)
  const session = await greet()
  t.match(session.sent, [{ type: 'welcome', protocol: 1, incarnation: '0', received: '0', fresh: true, initial: true }])
  t.same(fake.calls, ['openReplica', 'attachReplica'])
  t.match(fake.replicas, [
    {
      directory: join(store, '.groups', 'disk1'),
      volumes: [{ imagePath: join(store, 'disk1', 'image.raw'), sizeBytes: 1048576n, create: true }],
    },
  ])
  t.match(JSON.parse(readFileSync(replicaFile(store), 'utf8')), { masterId: master, imagesMade: true })
  t.match(standby.status(), [
    { name: 'disk1', role: 'standby', state: 'initial-sync', usable: false, protected: false, durability: 'durable' },
  ])
})

t.test('after a restart the copy is open before its master comes, and its images are not made again', async t => {
  const store = scratch(t)
  const first = await open(t, store)
  const { replicaId } = (await first.greet()).sent[0] ?? {}
  t.ok(replicaId)
  await first.standby.close({ drainMs: 0 })
  const fake = new FakeAddon()
  fake.position = { incarnation: 5n, received: 7n }
  const { greet, setReplica, standby } = await open(t, store, {}, fake)
  t.match(fake.replicas, [{ volumes: [{ create: false }] }])
  setReplica({ phase: cut })
  t.match(standby.status(), [{ state: 'detached', usable: true, peers: [{ id: master, session: 'away' }] }])
  const session = await greet()
  t.match(session.sent, [{ type: 'welcome', replicaId, incarnation: '5', received: '7', fresh: false, initial: false }])
})

// Recovery that finds the log damaged drops the position. A master that took such a copy for an empty one would not send
// zeroes, and old blocks would stay where it has none.
t.test('a copy whose log was damaged has no position and is not fresh: it is compared, zeroes too (G2)', async t => {
  const store = scratch(t)
  const first = await open(t, store)
  await first.greet()
  await first.standby.close({ drainMs: 0 })
  const { greet, setReplica } = await open(t, store)
  setReplica({ phase: 1n })
  t.match((await greet()).sent, [{ type: 'welcome', incarnation: '0', received: '0', fresh: false, initial: true }])
})

t.test('phases of the replica are shown under the words of status', async t => {
  const { greet, setReplica, standby } = await open(t, scratch(t))
  await greet()
  const states = [0n, 1n, 2n, 3n, 4n].map(phase => {
    setReplica({ phase })
    return standby.status().map(({ state, usable, protected: isProtected }) => [state, usable, isProtected])[0]
  })
  t.same(states, [
    ['initial-sync', false, false],
    ['initial-sync', false, false],
    ['replicating', true, true],
    ['resyncing', true, false],
    ['resyncing', true, false],
  ])
})

t.test(
  'a copy is never given to what it does not belong to: refused in the same words on both sides, nothing touched',
  async t => {
    const store = scratch(t)
    const { greet, fake, lines } = await open(t, store, { allow: [master, another] })
    await greet()
    const before = readFileSync(replicaFile(store), 'utf8')
    const cases: [string, object, string, string, RegExp][] = [
      [
        'another master',
        hello(),
        another,
        'other-master',
        /belongs to another master \(a+\), not to b+; use another store, or stop the standby and remove .*disk1 and .*\.groups\/disk1/,
      ],
      [
        'another volume of this name',
        hello(volume({ uuid: 'uuid-2' })),
        master,
        'other-volume',
        /another volume of this name \(uuid-1, the master's is uuid-2\)/,
      ],
      [
        'another size',
        hello(volume({ sizeBytes: '2097152' })),
        master,
        'size',
        /copy has 1048576 bytes .*device 2097152/,
      ],
      [
        'a volume more',
        hello({
          volumes: [
            ...(hello() as { volumes: object[] }).volumes,
            { name: 'x', uuid: 'x', sizeBytes: '1', blockMin: 1 },
          ],
        }),
        master,
        'other-volume',
        /adds volume x/,
      ],
      ['a volume of another group', hello({ group: 'g2' }), another, 'other-volume', /in group disk1 already/],
      [
        'a version that is too new',
        hello({ protocol: 3, protocolOldest: 2 }),
        master,
        'protocol',
        /speaks versions 2 to 3 of the link, the standby .* version 1: upgrade the standby/,
      ],
      ['garbage', hello({ incarnation: 'x' }), master, 'bad-hello', /'incarnation'/],
    ]
    for (const [title, message, id, code, text] of cases) {
      const session = await greet(message, id)
      t.match(session.sent, [{ type: 'refused', code, message: text }], title)
      t.match(lines.at(-1), text, `${title}: logged`)
    }
    t.same(fake.calls, ['openReplica', 'attachReplica'])
    t.equal(readFileSync(replicaFile(store), 'utf8'), before)
  },
)

t.test('a name from a master cannot lead out of the store', async t => {
  const store = scratch(t)
  const { greet } = await open(t, store)
  for (const name of ['..', '.', '.groups', 'a/b', '/etc', 'a\u0000b', 'a\nb', '']) {
    t.match((await greet(hello(volume({ name })))).sent, [{ type: 'refused', code: 'bad-hello' }], JSON.stringify(name))
    t.match((await greet(hello({ group: name }))).sent, [{ type: 'refused', code: 'bad-hello' }], JSON.stringify(name))
  }
  t.equal(existsSync(join(store, '.groups')), false)
})

t.test('an image that is there and belongs to nobody is not overwritten', async t => {
  const store = scratch(t)
  mkdirSync(join(store, 'disk1'), { recursive: true })
  writeFileSync(join(store, 'disk1', 'image.raw'), 'precious')
  const { greet } = await open(t, store)
  t.match((await greet()).sent, [
    { type: 'refused', code: 'other-volume', message: /belongs to no group; move it away/ },
  ])
  t.equal(readFileSync(join(store, 'disk1', 'image.raw'), 'utf8'), 'precious')
})

t.test('--device: the size must be equal, what it holds is compared, and it stays the volume of its group', async t => {
  const store = scratch(t)
  const device = `${store}.device`
  writeFileSync(device, 'x'.repeat(4096))
  const devices = new Map([['disk1', device]])
  const { greet, standby, fake } = await open(t, store, { devices })
  t.match((await greet()).sent, [{ code: 'size', message: /has 4096 bytes .* the master's 1048576 .*must be equal/ }])
  writeFileSync(device, 'x'.repeat(1048576))
  t.match((await greet()).sent, [{ type: 'welcome', fresh: false, initial: true }])
  t.match(fake.replicas, [{ volumes: [{ imagePath: device, create: false }] }])
  await standby.close({ drainMs: 0 })
  await t.rejects(open(t, store), {
    exitCode: 2,
    message: /its copy is .*device, and STORE\/disk1\/image.raw is configured now/,
  })
})

t.test('the newest session of a master is the one that counts, and the one before has ended first', async t => {
  const { greet, fake } = await open(t, scratch(t))
  const first = await greet()
  const second = await greet()
  t.match(first.closedWith, /replaced by a newer session/)
  t.match(second.sent, [{ type: 'welcome' }])
  t.equal(fake.calls.filter(call => call === 'attachReplica').length, 2)
  t.match((await greet(hello(), another)).sent, [{ code: 'other-master' }])
  t.equal(second.closedWith, undefined, 'another master does not disturb it')
})

t.test(
  'records are expected compressed as the hello asks, if it is known here; an older master asks for nothing',
  async t => {
    for (const [asked, expected] of [
      ['zstd', 'zstd'],
      ['lz4', 'lz4'],
      ['of a newer program', 'off'],
      [undefined, 'off'],
    ] as const) {
      const { greet, fake } = await open(t, scratch(t))
      const { sent } = await greet(hello({ compress: asked }))
      t.match(sent, [{ type: 'welcome', compress: expected }])
      t.same(fake.compressions, [expected])
    }
  },
)

t.test('a session that says nothing is closed after ten seconds; a second hello ends it', async t => {
  const { transport, clock, greet } = await open(t, scratch(t))
  const silent = transport.incoming(master)
  await clock.advance(10_000)
  t.match(silent.closedWith, /no hello within 10 s/)
  const twice = await greet()
  twice.receive(hello())
  t.match(twice.closedWith, /second hello/)
})

t.test('more than 256 sessions at once are turned away', async t => {
  const { transport } = await open(t, scratch(t))
  const sessions = Array.from({ length: 257 }, () => transport.incoming(master))
  t.equal(sessions[255]?.closedWith, undefined)
  t.ok(sessions[256]?.closedWith)
  sessions[0]?.end('peer')
  t.equal(transport.incoming(master).closedWith, undefined)
})

t.test('a store is used by one daemon at a time', async t => {
  const store = scratch(t)
  const { standby } = await open(t, store)
  await t.rejects(open(t, store), { code: 'STORE_IN_USE', exitCode: 3 })
  await standby.close({ drainMs: 0 })
  await open(t, store)
})

t.test('a copy that cannot be opened is said to be, does not stop the daemon, and is tried again', async t => {
  const store = scratch(t)
  const first = await open(t, store)
  await first.greet()
  await first.standby.close({ drainMs: 0 })
  const fake = new FakeAddon()
  fake.failing.set('openReplica', errno('ENOSPC'))
  const { standby, greet } = await open(t, store, {}, fake)
  t.match(standby.status(), [{ state: 'detached', reason: /no space left/, usable: false }])
  t.match((await greet()).sent, [{ type: 'refused', code: 'failed', message: /no space left/ }])
  await t.rejects(standby.view('disk1', { writable: false }), { message: /not open: .*no space left/ })
  fake.failing.clear()
  t.match((await greet()).sent, [{ type: 'welcome' }])
})

t.test(
  'a copy that is not complete is neither exported nor promoted (exit 3), and is not to be had under another name',
  async t => {
    const { standby, greet } = await open(t, scratch(t))
    await greet()
    await t.rejects(standby.view('disk1', { writable: false }), { exitCode: 3, code: 'UNUSABLE' })
    await t.rejects(standby.promote('disk1', { acceptLoss: true, force: true }), { exitCode: 3, code: 'UNUSABLE' })
    await t.rejects(standby.view('disk2', { writable: false }), {
      exitCode: 2,
      message: /no volume 'disk2'; it has: disk1/,
    })
  },
)

t.test(
  'a standby with a history says so in its welcome, opens its copies with it, and notes what the master marks',
  async t => {
    const store = scratch(t)
    const history = { ageMs: 3_600_000, bytes: 1 << 30 }
    const { standby, greet, setReplica, fake, clock } = await open(t, store, { history })
    const session = await greet()
    t.match(session.sent, [{ type: 'welcome', keepsHistory: true }])
    t.match(fake.replicas, [{ historyAgeMs: 3_600_000, historyBytesMax: 1 << 30 }])
    setReplica({ phase: cut, incarnation: 5n, applied_sequence: 6n })
    const mark = { type: 'mark', kind: 'mark', incarnation: '5', sequence: '6', timeNs: '9' }
    session.receive({ ...mark, id: 3, label: 'before upgrade' })
    await settle()
    session.receive({ ...mark, id: 4, label: 'too early', sequence: '7' })
    await clock.advance(11_000)
    t.match(session.sent.slice(1), [
      { type: 'marked', id: 3, problem: '' },
      { type: 'marked', id: 4, problem: /has not come to the standby/ },
    ])
    t.match(standby.status(), [{ history: { ageSecondsMax: 3600, bytesMax: 1 << 30, pointCount: 1 } }])
    await standby.mark('disk1', 'by hand')
    t.match(await standby.view('disk1', { writable: false, at: 'by hand' }), { position: { sequence: '6' } })
    await t.rejects(standby.mark('disk1', '4711'), { name: 'UsageError' })
    const wrong = { writable: false, at: 'by hnad' }
    await t.rejects(standby.view('disk1', wrong), { code: 'NO_MOMENT', message: /^export disk1: / })
    const drill = { ...wrong, viewer: { action: 'vm drill web', holds: '' } }
    await t.rejects(standby.viewGroup('disk1', drill), { code: 'NO_MOMENT', message: /^vm drill web: no point is / })
    fake.history = null
    await t.rejects(standby.listHistory('find disk1', 'disk1', '', '', 10), {
      ...{ code: 'NO_HISTORY', message: /^find disk1: / },
    })
    await standby.close({ drainMs: 0 })

    const without = await open(t, store)
    t.match((await without.greet()).sent, [{ keepsHistory: false }])
    t.equal(without.fake.replicas[0]?.historyAgeMs, undefined)
    t.notOk(without.standby.status()[0]?.history)
  },
)

t.test('a session that is not the one of the group cannot mark anything', async t => {
  const history = { ageMs: 3_600_000, bytes: 0 }
  const { greet, setReplica, standby } = await open(t, scratch(t), { history, allow: [master, another] })
  await greet()
  setReplica({ phase: cut, incarnation: 5n, applied_sequence: 6n })
  const stranger = await greet(hello({ group: 'disk2', ...volume({ name: 'disk2', uuid: 'u2' }) }), another)
  stranger.receive({ type: 'mark', id: 1, kind: 'mark', label: 'x', incarnation: '5', sequence: '6', timeNs: '9' })
  await settle()
  t.match(standby.status().find(({ name }) => name === 'disk1')?.history, { pointCount: 0 })
})

t.test('an export is a frozen view; it waits for a step, but not for ever', async t => {
  const { standby, greet, setReplica, fake, clock } = await open(t, scratch(t))
  await greet()
  setReplica({ phase: cut })
  const view = await standby.view('disk1', { writable: false })
  t.match(view, { exported: { name: 'disk1', readOnly: true }, position: { incarnation: '5', sequence: '6' } })
  t.match(fake.groups, [{ replicated: false, volumes: [{ name: 'disk1', device: { view: 900 }, readOnly: true }] }])
  await view.close()
  await view.close()
  t.equal(fake.calls.filter(call => call === 'closeGroup').length, 1)

  fake.failing.set('replicaViewAt', errno('EAGAIN'))
  const patient = standby.view('disk1', { writable: true })
  await clock.advance(5_000)
  fake.failing.clear()
  await clock.advance(200)
  t.match(await patient, { exported: { readOnly: false } })
  fake.failing.set('replicaViewAt', errno('EAGAIN'))
  const hopeless = t.rejects(standby.view('disk1', { writable: false }), { code: 'STEP', exitCode: 1 })
  await clock.advance(31_000)
  await hopeless
})

t.test(
  'a file of a copy waits for a step, and nobody promotes it from under that; what cannot be says why',
  async t => {
    const { standby, greet, setReplica, fake, clock } = await open(t, scratch(t))
    await greet()
    const file = { path: '/store/disk1.vhd', format: 'vhd' } as const
    await t.rejects(standby.makeFile('disk1', file), { code: 'UNUSABLE', exitCode: 3 })
    setReplica({ phase: cut })
    fake.failing.set('cloneImage', errno('EAGAIN'))
    const patient = standby.makeFile('disk1', file)
    await clock.advance(5_000)
    fake.failing.clear()
    let finish = (): void => undefined
    fake.cloning = new Promise(resolve => (finish = resolve))
    await clock.advance(200)
    t.equal(fake.calls.at(-1), '0 /store/disk1.vhd 512', 'with the footer of a VHD')
    await t.rejects(standby.promote('disk1', { acceptLoss: true, force: false }), { code: 'BUSY' })
    finish()
    t.match(await patient, { incarnation: 5n, sequence: 6n })
    for (const code of ['EXDEV', 'EOPNOTSUPP', 'EINVAL']) {
      fake.failing.set('cloneImage', errno(code))
      const message = `export disk1: /store/disk1.vhd cannot be made without copying (${code}): that takes a copy that is a file, on a file system with reflink (XFS, btrfs), and a place on the same one; to copy it: 'understudy export disk1 --format vhd --listen unix:PATH', then nbdcopy`
      await t.rejects(standby.makeFile('disk1', file), { code: 'NO_REFLINK', exitCode: 1, message })
    }
    fake.failing.set('cloneImage', errno('EEXIST'))
    await t.rejects(standby.makeFile('disk1', file), { code: 'EXISTS', message: /is left as it is$/ })
    fake.failing.set('cloneImage', errno('ENOENT'))
    await t.rejects(standby.makeFile('disk1', { ...file, path: '/no/such/place/disk1.vhd' }), {
      ...{ code: 'NO_DIRECTORY', exitCode: 1 },
      message: 'export disk1: there is no directory /no/such/place on this host; make it, or name another',
    })
    fake.failing.set('cloneImage', errno('EROFS'))
    await t.rejects(standby.makeFile('disk1', { ...file, path: '/disk1.vhd' }), {
      message: 'export disk1: make a file in /: it is read-only (EROFS)',
    })
    fake.failing.set('cloneImage', errno('ENOSPC'))
    await t.rejects(standby.makeFile('disk1', file), {
      code: 'ENOSPC',
      message: 'export disk1: no space left (ENOSPC)',
    })
  },
)

t.test('promotion needs --accept-loss, ends the session, seals, serves, and shuts the old master out', async t => {
  const store = scratch(t)
  const { standby, greet, setReplica, fake } = await open(t, store)
  const session = await greet()
  setReplica({ phase: cut, last_heard_ns: 900_000_000_000n })
  await t.rejects(standby.promote('disk1', { acceptLoss: false, force: false }), {
    exitCode: 3,
    code: 'NOT_CURRENT',
    message: /the master is connected/,
  })
  session.end('timeout')
  await settle()
  await t.rejects(standby.promote('disk1', { acceptLoss: false, force: false }), {
    exitCode: 3,
    message: /not connected, so it may have written more than is here/,
  })
  t.equal(fake.calls.includes('sealReplica'), false)
  t.same(fake.asides, [true, false, true, false], 'replay goes on at once when it is refused')

  const { messages } = await standby.promote('disk1', { acceptLoss: true, force: false, listen: 'unix:/s' })
  t.match(messages.join('\n'), /promoted at sequence[^]*last heard 1m 40s ago/)
  t.same(fake.calls.slice(-6), ['sealReplica', 'openGroup', 'fillMap', 'drainReplica', 'closeReplica', 'letWrite'])
  t.match(fake.groups.at(-1), {
    replicated: true,
    volumes: [{ device: { path: join(store, 'disk1', 'image.raw') }, readOnly: false }],
  })
  t.match(standby.promoted(), [{ exported: { name: 'disk1', readOnly: false }, listen: 'unix:/s' }])
  t.match(standby.status(), [{ role: 'master', state: 'alone', protected: false }])
  t.match((await greet()).sent, [{ type: 'refused', code: 'promoted', message: /was promoted on the standby at/ }])
  await t.rejects(standby.view('disk1', { writable: false }), { code: 'PROMOTED' })

  await standby.close({ drainMs: 0 })
  const fakeAfter = new FakeAddon()
  const after = await open(t, store, {}, fakeAfter)
  t.same(fakeAfter.calls, ['openGroup'], 'after a restart it is served again, and its log is never replayed onto it')
  t.match(after.standby.promoted(), [{ listen: 'unix:/s' }])
  t.match((await after.greet()).sent, [{ code: 'promoted' }])
})

// The command had failed, and the host said all the same that it was the master, beside the real one; what was saved next
// would have made it true (found by hand, with a folder that could not be written to).
t.test('a promotion that does not get on disk has not happened', async t => {
  const store = scratch(t)
  const { standby, greet, setReplica, fake } = await open(t, store)
  await greet()
  setReplica({ phase: cut })
  mkdirSync(`${replicaFile(store)}.new`)
  await t.rejects(standby.promote('disk1', { acceptLoss: true, force: false }), { message: /^write .*replica.json/ })
  t.match(standby.status(), [{ role: 'standby', state: 'replicating' }])
  t.notOk(fake.calls.includes('sealReplica'))
  rmSync(`${replicaFile(store)}.new`, { recursive: true })
  await standby.pause('disk1')
  t.notMatch(
    JSON.parse(readFileSync(replicaFile(store), 'utf8')),
    { promotion: {} },
    'nor does it with what is saved next',
  )
  await standby.promote('disk1', { acceptLoss: true, force: false })
  t.match(standby.status(), [{ role: 'master' }])
})

t.test('a promotion that was cut short by a crash is carried on by the next start', async t => {
  const store = scratch(t)
  const { standby, greet, setReplica, fake } = await open(t, store)
  await greet()
  setReplica({ phase: cut })
  fake.failing.set('sealReplica', errno('ETIMEDOUT'))
  await t.rejects(standby.promote('disk1', { acceptLoss: true, force: false }), { message: /run promote again/ })
  t.match((await greet()).sent, [{ code: 'promoted' }], 'the old master is out from the beginning')
  await standby.close({ drainMs: 0 })
  const fakeAfter = new FakeAddon()
  await open(t, store, {}, fakeAfter)
  t.same(fakeAfter.calls, [
    'openReplica',
    'sealReplica',
    'openGroup',
    'fillMap',
    'drainReplica',
    'closeReplica',
    'letWrite',
  ])
})

t.test(
  'what is promoted is read before its images are synced, and not written to before that is on disk (G2)',
  async t => {
    const store = scratch(t)
    const { standby, greet, setReplica, fake } = await open(t, store)
    const promotion = (): unknown =>
      (JSON.parse(readFileSync(replicaFile(store), 'utf8')) as { promotion: unknown }).promotion
    await greet()
    setReplica({ phase: cut })
    fake.failing.set('drainReplica', errno('ETIMEDOUT'))
    let seen: unknown[] = []
    const readable = (): void => void (seen = [promotion(), standby.promoted().length, fake.calls.at(-1)])
    const options = { acceptLoss: true, force: false, readable }
    await t.rejects(standby.promote('disk1', options), { message: /run promote again/ })
    t.match(seen, [{ sealed: false, begun: false }, 1, 'fillMap'])
    t.same([standby.promoted(), fake.calls.includes('letWrite')], [[], false], 'a failure ends it')
    fake.failing.delete('drainReplica')
    await standby.promote('disk1', options)
    t.match([promotion(), seen[0]], [{ sealed: true, begun: true }, { sealed: false }])
    t.equal(fake.calls.at(-1), 'letWrite')
  },
)

t.test('what is promoted before it is replayed is read first, and replayed a moment later', async t => {
  const { standby, greet, setReplica, fake, clock } = await open(t, scratch(t))
  await greet()
  setReplica({ phase: cut })
  fake.sealedAt = { incarnation: 5n, sequence: 6n }
  let readable = false
  const promoted = standby.promote('disk1', { acceptLoss: true, force: false, readable: () => void (readable = true) })
  await settle()
  t.same([readable, fake.calls.includes('drainReplica')], [true, false])
  await clock.advance(30)
  await promoted
  t.same(fake.calls.slice(-3), ['drainReplica', 'closeReplica', 'letWrite'])
})

/** A copy whose master is away, and which keeps a history. */
async function withHistory(t: Test, store = scratch(t), fake = new FakeAddon()) {
  const opened = await open(t, store, { history: { ageMs: 3_600_000, bytes: 0 } }, fake)
  const session = await opened.greet()
  opened.setReplica({ phase: cut, incarnation: 5n, durable_sequence: 6n, applied_sequence: 6n })
  session.end('timeout')
  await settle()
  fake.calls.length = 0
  const stored = (): { promotion?: object; history: object[] } =>
    JSON.parse(readFileSync(replicaFile(store), 'utf8')) as { promotion?: object; history: object[] }
  return { ...opened, store, stored }
}
const asOf = { incarnation: '5', sequence: '4', timeNs: '1000000000' }

t.test('promote --at: found first, on disk before anything is undone, and nothing is served before all is', async t => {
  const { standby, fake, stored, greet } = await withHistory(t)
  fake.failing.set('rollBackReplica', errno('ENOSPC'))
  let readable = 0
  const options = { acceptLoss: true, force: false, at: '5:4', readable: () => void readable++ }
  await t.rejects(standby.promote('disk1', options), {
    code: 'ENOSPC',
    message: /undo what was written[^]*run promote again/,
  })
  t.same(fake.calls, ['findMoment', 'holdHistory', 'findMoment', 'sealReplica', 'drainReplica', 'rollBackReplica'])
  t.match(stored(), { promotion: { sealed: false, asOf } })
  t.match([readable, standby.promoted().length], [0, 0])
  t.match(standby.status(), [
    { role: 'master', asOf: { sequence: '4' }, reason: /as of 1970-01-01T00:00:01.000Z \(5:4\); its images are not/ },
  ])
  t.match((await greet()).sent, [{ code: 'promoted' }], 'and the old master is out')

  // Another moment is refused, the same one goes on, and so does a promotion that names none.
  fake.found = { ...fake.found, sequence: 3n }
  await t.rejects(standby.promote('disk1', options), {
    exitCode: 3,
    code: 'IS_PROMOTED',
    message: /being promoted since .*as of .*5:4/,
  })
  fake.failing.delete('rollBackReplica')
  fake.calls.length = 0
  const { messages } = await standby.promote('disk1', { acceptLoss: false, force: false, readable: options.readable })
  t.match(
    messages.join('\n'),
    /promoted as of 1970-01-01T00:00:01.000Z \(5:4\)[^]*8 KiB that had been written over since/,
  )
  t.same(fake.calls.slice(0, 5), ['sealReplica', 'drainReplica', 'rollBackReplica', 'rollBackReplica', 'openGroup'])
  t.same([fake.rolledBackTo, readable], [{ incarnation: 5n, sequence: 4n }, 1])
  t.match(stored(), { promotion: { sealed: true, asOf }, history: [{}, { fork: { incarnation: '5', sequence: '4' } }] })
  t.match(standby.status(), [{ role: 'master', asOf: { incarnation: '5', sequence: '4' } }])
  await t.rejects(standby.promote('disk1', options), { exitCode: 3, message: /promoted already, at .*as of .*5:4/ })
})

t.test(
  'promote --at without --accept-loss, or of no moment, or of an exported copy: refused, nothing done',
  async t => {
    const { standby, fake, stored } = await withHistory(t)
    const options = { acceptLoss: false, force: false, at: '5:4' }
    await t.rejects(standby.promote('disk1', options), {
      exitCode: 3,
      message: /written after .*5:4.* is thrown away.*--accept-loss/,
    })
    fake.failing.set('findMoment', errno('ERANGE'))
    const accepted = { ...options, acceptLoss: true }
    await t.rejects(standby.promote('disk1', accepted), {
      exitCode: 1,
      code: 'NO_MOMENT',
      message: /the history goes from/,
    })
    await t.rejects(standby.promote('disk1', { ...accepted, at: '17:' }), { message: /is not a position/ })
    fake.failing.delete('findMoment')
    const view = await standby.view('disk1', { writable: false })
    await t.rejects(standby.promote('disk1', accepted), { code: 'BUSY' })
    await view.close()
    t.notOk(fake.calls.some(call => ['sealReplica', 'holdHistory'].includes(call)))
    t.notMatch(stored(), { promotion: {} })
    const without = await open(t, scratch(t))
    await without.greet()
    without.setReplica({ phase: cut })
    await t.rejects(without.standby.promote('disk1', accepted), { exitCode: 1, message: /no history is kept/ })
  },
)

t.test('two that ask at once for one moment make one promotion', async t => {
  const { standby, fake } = await withHistory(t)
  const options = { acceptLoss: true, force: false, at: '5:4' }
  const [first, second] = await Promise.allSettled([
    standby.promote('disk1', options),
    standby.promote('disk1', options),
  ])
  t.equal(first.status, 'fulfilled')
  t.match(second, { status: 'rejected', reason: { exitCode: 3, message: /promoted already/ } })
  t.equal(fake.calls.filter(call => call === 'sealReplica').length, 1)
})

t.test(
  'a daemon that ends in the middle goes on at its next start, with the history held from the first moment on',
  async t => {
    const { standby, fake, store } = await withHistory(t)
    fake.parts = 1_000_000
    const promoted = standby.promote('disk1', { acceptLoss: true, force: false, at: '5:4' })
    const failed = t.rejects(promoted, { code: 'STOPPING', message: /next start goes on, as of .*5:4/ })
    await settle()
    t.match(standby.status(), [{ reason: /is being undone, / }])
    await standby.close({ drainMs: 0 })
    await failed

    const fakeAfter = new FakeAddon()
    fakeAfter.parts = 1
    const after = await open(t, store, {}, fakeAfter) // Nothing is kept of others any more.
    await settle()
    t.match(fakeAfter.replicas, [{ holdHistory: true, historyBytesMax: Number.MAX_SAFE_INTEGER }])
    t.same(fakeAfter.calls.slice(0, 5), ['openReplica', 'sealReplica', 'drainReplica', 'rollBackReplica', 'openGroup'])
    t.match(after.standby.promoted(), [{ exported: { name: 'disk1' } }])
    await after.standby.close({ drainMs: 0 })
    const last = new FakeAddon()
    await open(t, store, {}, last)
    t.same(last.calls, ['openGroup'], 'and once it is sealed it is done')
  },
)

t.test('a moment that its disk has lost is said, and what is left of the copy is not served', async t => {
  const { standby, fake } = await withHistory(t)
  fake.failing.set('rollBackReplica', errno('ERANGE'))
  const options = { acceptLoss: true, force: false, at: '5:4' }
  await t.rejects(standby.promote('disk1', options), { code: 'NO_MOMENT', message: /has lost that moment/ })
  t.same(standby.promoted(), [])
})

t.test('the old master of a side that has gone back is compared as a whole', async t => {
  const { standby, store } = await withHistory(t)
  await standby.promote('disk1', { acceptLoss: true, force: false, at: '5:4' })
  const group = JSON.parse(readFileSync(join(store, '..', 'state', 'groups', 'disk1.json'), 'utf8')) as object
  t.match(group, { live: { known: { positions: [] } } })
})

t.test('what is not applied yet is shown, and the reign begins where that ends (G2)', async t => {
  const store = scratch(t)
  const { standby, greet, setReplica, fake } = await open(t, store)
  await greet()
  setReplica({ phase: cut, incarnation: 5n, durable_sequence: 9n, applied_sequence: 2n })
  fake.sealedAt = { incarnation: 5n, sequence: 9n }
  await standby.promote('disk1', { acceptLoss: true, force: false })
  t.match(fake.groups.at(-1)?.volumes, [{ device: { path: /image.raw$/, replica: Number } }])
  const { history } = JSON.parse(readFileSync(replicaFile(store), 'utf8')) as { history: unknown[] }
  t.match(history.at(-1), { fork: { incarnation: '5', sequence: '9' } })

  await standby.close({ drainMs: 0 })
  const later = new FakeAddon()
  await open(t, store, {}, later)
  t.notMatch(later.groups.at(-1)?.volumes, [{ device: { replica: Number } }], 'but not after that')
})

// A switchover in the fraction of a second after the former master's device had become whole went on from the history of
// before: both sides reigned, and each called the other diverged (found by test/torture, switchover and back).
t.test('a reign that begins right after the first step goes on from the history of the master before it', async t => {
  const store = scratch(t)
  const first = await open(t, store)
  await first.greet()
  await first.standby.close({ drainMs: 0 })
  const stored = JSON.parse(readFileSync(replicaFile(store), 'utf8')) as object
  const origin = { reign: '01', position: { incarnation: '5', sequence: '9' }, suspects: {}, switchover: true }
  writeFileSync(replicaFile(store), JSON.stringify({ ...stored, origin }))
  const { greet, setReplica } = await open(t, store)
  const fork = { incarnation: '5', sequence: '9' }
  const history = [
    { id: '01', parent: '', since: '', fork: { incarnation: '0', sequence: '0' } },
    { id: '02', parent: '01', since: '', fork },
  ]
  const session = await greet(hello({ incarnation: '6', generation: '02', history }))
  setReplica({ phase: cut, incarnation: 6n, durable_sequence: 3n, applied_sequence: 3n })
  session.receive({ type: 'abdicate', takeOver: true, incarnation: '6', sequence: '3' })
  await settle()
  session.end('peer')
  await settle()
  const { history: reigns } = JSON.parse(readFileSync(replicaFile(store), 'utf8')) as { history: unknown[] }
  t.match(reigns, [{ id: '01' }, { id: '02' }, { parent: '02', fork: { incarnation: '6', sequence: '3' } }])
})

// A failover and the way back (switchover, or resolve) removed the group's machines, their firmware's variables and the
// schedule of their drills: all of the folder but replica.json went with the log (found by hand).
t.test('a reign that is given back takes the log and the history with it, and nothing else of the folder', async t => {
  const store = scratch(t)
  const { standby, greet, setReplica } = await open(t, store)
  await greet()
  setReplica({ phase: cut })
  await standby.promote('disk1', { acceptLoss: true, force: false })
  const path = (name: string): string => join(store, '.groups', 'disk1', name)
  const ofTheLog = ['segments', 'history', 'points', 'watermark']
  const others = ['machines', 'running', 'drills.json']
  for (const name of [...ofTheLog, ...others]) {
    if (name === 'points' || name === 'watermark' || name === 'drills.json') writeFileSync(path(name), 'text')
    else mkdirSync(join(path(name), 'inner'), { recursive: true })
  }
  await standby.resolve('disk1')
  t.same(
    ofTheLog.filter(name => existsSync(path(name))),
    [],
  )
  t.same(
    others.filter(name => existsSync(path(name))),
    others,
  )
})

// An idle master sends no record, and had last been heard when it had last written.
t.test('a master that writes nothing is heard as long as there is a session', async t => {
  const { standby, greet, setReplica, clock } = await open(t, scratch(t))
  const session = await greet()
  setReplica({ phase: cut, last_heard_ns: BigInt(clock.now) * 1_000_000n })
  const iso = (ms: number): string => new Date(ms).toISOString()
  await clock.advance(3_600_000)
  const lately = clock.now - 10_000
  t.match(standby.status(), [{ peers: [{ session: 'connected', heardAt: iso(lately) }] }])
  session.end('timeout')
  await clock.advance(60_000)
  t.match(standby.status(), [
    { reason: /no session with the master, last heard 70.0 s ago/, peers: [{ session: 'away', heardAt: iso(lately) }] },
  ])
})

t.test('a copy that is being exported is not promoted under its clients', async t => {
  const { standby, greet, setReplica } = await open(t, scratch(t))
  await greet()
  setReplica({ phase: cut })
  const view = await standby.view('disk1', { writable: false })
  await t.rejects(standby.promote('disk1', { acceptLoss: true, force: false }), {
    code: 'BUSY',
    message: /end the export first/,
  })
  const viewer = { action: 'vm start web', holds: 'machine web runs on it' }
  const run = await standby.viewGroup('disk1', { writable: false, viewer })
  const promoted = standby.promote('disk1', { acceptLoss: true, force: false })
  const both = 'promote disk1: the copy is being exported; end the export first; and machine web runs on it'
  await t.rejects(promoted, { message: both })
  await run.close()
  await view.close()
  await standby.promote('disk1', { acceptLoss: true, force: false })
})

/** A copy with a lease of 10 s, granted 3 s ago; the session has ended. */
async function fenced(t: Test, store = scratch(t)) {
  const opened = await open(t, store)
  const session = await opened.greet(hello({ leaseMs: 10_000 }))
  t.match(session.sent, [{ type: 'welcome', leaseMs: 10_000 }])
  t.same(opened.fake.grantable, [10_000])
  t.match(JSON.parse(readFileSync(replicaFile(store), 'utf8')), { leaseMs: 10_000 }, 'on disk before one is granted')
  opened.setReplica({ phase: cut })
  await opened.clock.advance(60_000)
  opened.fake.leaseAge = 3_000
  return { ...opened, session, store }
}

t.test('promote --accept-loss waits until the last lease of the master is over, and grants none meanwhile', async t => {
  const { standby, greet, clock, fake, session, store } = await fenced(t)
  const left = (): number => standby.status()[0]?.lease?.secondsLeft ?? NaN
  t.match(standby.status(), [{ lease: { seconds: 10, secondsLeft: 7.1, inForce: true } }], 'and a margin of 0.1 s')
  await t.rejects(standby.promote('disk1', { acceptLoss: false, force: false }), { code: 'NOT_CURRENT' })
  t.equal(session.closedWith, undefined, 'a refused one ends nothing')
  const promoted = standby.promote('disk1', { acceptLoss: true, force: false })
  await settle()
  t.match(session.closedWith, /being promoted/)
  t.match((await greet(hello({ leaseMs: 10_000 }))).sent, [
    { type: 'refused', code: 'failed', message: /is being promoted/ },
  ])
  t.match(standby.status(), [{ role: 'standby', reason: /waits until the lease of the master is over/ }])
  for (let waited = 0; waited < 7; waited++) {
    t.equal(fake.calls.includes('sealReplica'), false, `after ${waited} s, ${left()} s left`)
    t.notMatch(JSON.parse(readFileSync(replicaFile(store), 'utf8')), { promotion: {} })
    fake.leaseAge += 1_000
    await clock.advance(1_000)
  }
  fake.leaseAge += 100
  await clock.advance(200)
  t.match((await promoted).messages.join('\n'), /promoted at sequence[^]*lease of the master is over/)
  t.match(
    fake.groups.at(-1)?.lease,
    { lengthMs: 10_000, usableMs: 9_900, required: false },
    'it reigns with one, and needs none yet',
  )
})

t.test('--force promotes at once, and says what that may mean', async t => {
  const { standby } = await fenced(t)
  const messages = await standby.promote('disk1', { acceptLoss: true, force: true })
  t.match(messages.messages.join('\n'), /WARNING: the master may answer its clients for another 7.1 s/)
})

t.test('a lease that is over is not waited for, nor is one of a master that has given its reign away', async t => {
  const { standby, fake } = await fenced(t)
  fake.leaseAge = 10_100
  await standby.promote('disk1', { acceptLoss: true, force: false })
  const other = await fenced(t)
  other.session.receive({ type: 'abdicate', takeOver: false, incarnation: '5', sequence: '0' })
  await settle()
  other.setReplica({ phase: cut, incarnation: 5n })
  await other.standby.promote('disk1', { acceptLoss: false, force: false })
})

t.test('a standby that was restarted counts from its start, for nobody knows what it granted before', async t => {
  const { standby, store } = await fenced(t)
  await standby.close({ drainMs: 0 })
  const after = await open(t, store)
  after.setReplica({ phase: cut })
  await after.clock.advance(4_000)
  t.match(after.standby.status(), [{ lease: { secondsLeft: 6.1 } }])
  const session = await after.greet(hello({ leaseMs: 10_000 }))
  t.match(after.standby.status(), [{ lease: { secondsLeft: 10.1 } }], 'and from each welcome')
  session.end('timeout')
  await settle()
  await after.greet(hello())
  t.notOk(after.standby.status()[0]?.lease, 'a master that needs no lease any more is not waited for')
  t.same(after.fake.grantable, [10_000, 0])
})

t.test(
  'a promotion that waits for a lease does not keep the daemon from stopping, and has not happened then',
  async t => {
    const { standby, clock, store } = await fenced(t)
    const promoted = standby.promote('disk1', { acceptLoss: true, force: false })
    const failed = t.rejects(promoted, { code: 'STOPPING', message: /was not promoted/ })
    await settle()
    const closed = standby.close({ drainMs: 0 })
    await clock.advance(200)
    await failed
    await closed
    t.notMatch(JSON.parse(readFileSync(replicaFile(store), 'utf8')), { promotion: {} })
  },
)

t.test('pause is refused while there is a lease: its clients would wait (exit 3)', async t => {
  const { standby, session } = await fenced(t)
  await t.rejects(standby.pause('disk1'), { code: 'LEASE', exitCode: 3, message: /without --lease first/ })
  t.equal(session.closedWith, undefined)
})

t.test('closing ends the session, then drains, then closes the copy', async t => {
  const { standby, greet, fake } = await open(t, scratch(t))
  const session = await greet()
  t.same(await standby.close({ drainMs: 1000 }), { drained: true, dirtyBytes: 0 })
  t.match(session.closedWith, /stopping/)
  t.same(fake.calls.slice(-2), ['drainReplica', 'closeReplica'])
})

t.test('whose key did not match is said once a minute, whatever port it knocks from', async t => {
  const { transport, clock, lines } = await open(t, scratch(t))
  const knock = (port: number, key = 'd'): void =>
    transport.reject('peer-not-allowed', `192.0.2.7:${port}: the key ${key.repeat(64)}`)
  knock(1)
  knock(2)
  t.equal(lines.length, 1)
  t.match(lines[0], /not allowed here: 192.0.2.7:1: the key d+; .*--allow/)
  knock(3, 'e')
  transport.reject('refused-by-peer', '192.0.2.8:1: bad certificate')
  transport.reject('refused-by-peer', '192.0.2.8:2: bad certificate')
  t.equal(lines.length, 3)
  t.match(lines[2], /expects another standby; the id of this one is c{64}/)
  transport.reject('timeout', '192.0.2.9:1: half-open')
  t.equal(lines.length, 3, 'noise of the network is none of it')
  await clock.advance(60_000)
  knock(4)
  t.equal(lines.length, 4)
})
