import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { loadConfig } from '../../../src/core/config.js'
import { createLogger } from '../../../src/core/log.js'
import { ControlClient } from '../../../src/daemon/control-client.js'
import type {
  ExportEvent,
  ExportRequest,
  FilterChangeReply,
  FilterChangeRequest,
  ReloadReply,
  VerifyEvent,
} from '../../../src/daemon/control-protocol.js'
import { Daemon } from '../../../src/daemon/daemon.js'
import { loadIdentity } from '../../../src/daemon/identity.js'
import { prepareStateDirectory } from '../../../src/daemon/state-directory.js'
import type { CloseOutcome } from '../../../src/daemon/roles.js'
import { TakeoverFigures } from '../../../src/metrics/takeover-figures.js'
import { FakeAddon, fakeMaster, fakeStandby } from './fake-addon.js'

const id = 'ab'.repeat(32)

interface Stage {
  daemon: Daemon
  addon: FakeAddon
  notes: string[]
  client: ControlClient
  state: string
  write(text: string): void
}

const group = (name: string): string =>
  `[[group]]\ndrain_timeout = "3s"\n[[group.volume]]\nexport = "${name}"\ndevice = "${name}.img"\n`
const standby = `[standby]\nstore = "store"\nlisten = "127.0.0.1:0"\nallow = ["${id}"]\n`
const head = 'state = "state"\nnbd.listen = ["unix:nbd.sock", "127.0.0.1:0"]\n'

function stage(
  t: Test,
  text: string,
  options: { outcome?: () => Promise<CloseOutcome>; failGroup?: string } = {},
): Stage {
  const directory = mkdtempSync(join(tmpdir(), 'daemon-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'u.toml')
  const write = (content: string): void => writeFileSync(file, content)
  write(text)
  const addon = new FakeAddon()
  const { notes } = addon
  const outcome = options.outcome ?? (() => Promise.resolve({ drained: true, dirtyBytes: 0 }))
  const daemon = new Daemon(loadConfig(file), {
    addon: addon.asAddon(),
    log: createLogger('test', () => undefined),
    openMaster: config =>
      config.name === options.failGroup
        ? Promise.reject(new Error('in use'))
        : Promise.resolve(fakeMaster(config, notes, outcome)),
    openStandby: config => Promise.resolve(fakeStandby(config, notes)),
    suspects: () => Promise.resolve(undefined),
    saveRegions: () => Promise.resolve([]),
    stop: reason => void notes.push(`stop: ${reason}`),
    takeover: () => ({ pid: 0 }),
    takeovers: new TakeoverFigures(),
  })
  const state = join(directory, 'state')
  return { daemon, addon, notes, state, write, client: new ControlClient(state) }
}

/** Paths differ from run to run. */
const plain = (notes: string[]): string[] => notes.map(note => note.replace(/\/\S*\//, ''))

t.test('addresses are bound before a group is opened; the masters are closed before the standby', async t => {
  const { daemon, notes, client, state } = stage(t, head + standby + group('one'))
  await daemon.start()
  t.same(plain(notes.splice(0)), [
    'start',
    'listen nbd.sock 600',
    'listen 127.0.0.1:0',
    'open standby',
    'open group one',
  ])
  t.match((await client.status()).volumes, [
    { name: 'one', role: 'master' },
    { name: 'copy', role: 'standby' },
  ])
  t.match(daemon.addresses(), [
    /^export one at nbd\+unix:\/\/\/one\?socket=.*nbd\.sock$/,
    'export one at nbd://127.0.0.1:40002/one',
    `standby ${'f'.repeat(64)}@127.0.0.1:7401`,
  ])
  t.equal(daemon.drainMs(), 33_000)
  await daemon.close()
  t.same(plain(notes), ['close listener 1', 'close listener 2', 'close group one in 3000', 'close standby'])
  t.notOk(existsSync(join(state, 'control.sock')))
})

t.test('a port in use is found before a device is opened, and names the address', async t => {
  const { daemon, addon, notes, state } = stage(t, head + group('one'))
  addon.taken.add('127.0.0.1:0')
  await t.rejects(daemon.start(), { code: 'EADDRINUSE', message: /listen on 127\.0\.0\.1:0: the address is in use/ })
  t.notOk(notes.includes('open group one'))
  await daemon.close()
  t.notOk(existsSync(state), 'what the failed start had made is gone')
})

t.test('a start that fails keeps a key that was there before, and files of others', async t => {
  const { daemon, addon, state } = stage(t, head + group('one'))
  prepareStateDirectory(state)
  const { pem } = loadIdentity(state, addon.asAddon())
  addon.taken.add('127.0.0.1:0')
  await t.rejects(daemon.start())
  await daemon.close()
  t.equal(readFileSync(join(state, 'identity', 'key.pem'), 'utf8'), pem)
  const other = stage(t, head + group('one'))
  other.addon.taken.add('127.0.0.1:0')
  const starting = other.daemon.start()
  writeFileSync(join(other.state, 'letter'), '')
  await t.rejects(starting)
  await other.daemon.close()
  t.same(readdirSync(other.state), ['letter'])
})

t.test('a second daemon on the same state directory leaves the first one and its socket alone', async t => {
  const { daemon, client, state } = stage(t, head + group('one'))
  await daemon.start()
  const second = stage(t, head.replace('"state"', `"${state}"`) + group('two'))
  await t.rejects(second.daemon.start(), { code: 'STATE_IN_USE', exitCode: 3 })
  await second.daemon.close()
  t.match((await client.status()).volumes, [{ name: 'one' }])
  await daemon.close()
})

t.test('clients that come before everything is open wait; those of no listener are closed', async t => {
  const { daemon, addon, notes } = stage(t, head + group('one'))
  const starting = daemon.start()
  addon.emit({ type: 'accepted', listener: 99, connection: 5, fd: openSync('/dev/null', 'r'), peer: 'early' })
  t.notOk(notes.includes('release 5'))
  await starting
  t.ok(notes.includes('release 5'))
  const fd = openSync('/dev/null', 'r')
  addon.emit({ type: 'accepted', listener: 98, connection: 6, fd, peer: 'stray' })
  t.ok(notes.includes('release 6'))
  t.throws(() => closeSync(fd), { code: 'EBADF' })
  await daemon.close()
})

t.test('a group that cannot be drained does not keep the others from closing, and the failure is told', async t => {
  const { daemon, notes } = stage(t, head + standby + group('one'), {
    outcome: () => Promise.reject(new Error('stuck')),
  })
  await daemon.start()
  await t.rejects(daemon.close(), { message: 'stuck' })
  t.ok(notes.includes('close standby'))
})

t.test('an export lives as long as its caller; a detached one until it is ended', async t => {
  const { daemon, notes, client } = stage(t, 'state = "state"\n' + standby)
  await daemon.start()
  notes.length = 0
  const request: ExportRequest = { volume: 'copy', listen: '127.0.0.1:0', writable: true, detach: false, saved: '' }
  for await (const event of client.stream<ExportEvent>('/export', request)) {
    t.same(event, { uri: 'nbd://127.0.0.1:40001/copy', position: { incarnation: '1', sequence: '2' } })
    break
  }
  for (let turn = 0; turn < 6000 && !notes.includes('end view copy'); turn++)
    await new Promise(resolve => setTimeout(resolve, 10))
  t.same(notes, ['view copy writable', 'listen 127.0.0.1:0', 'close listener 1', 'end view copy'])
  notes.length = 0
  for await (const _ of client.stream<ExportEvent>('/export', { ...request, writable: false, detach: true })) continue
  t.same(notes, ['view copy', 'listen 127.0.0.1:0'])
  t.same(await client.post('/unexport', { volume: 'copy' }), { ended: 1 })
  t.same(await client.post('/unexport', { volume: 'copy' }), { ended: 0 })
  await daemon.close()
})

t.test('what an export cannot be is refused, and no view is left open', async t => {
  const { daemon, notes, client } = stage(t, head + standby + group('one'))
  await daemon.start()
  const attempt = async (changes: Partial<ExportRequest>): Promise<void> => {
    const plain = { volume: 'copy', listen: '127.0.0.1:0', writable: false, detach: true, saved: '' }
    const request: ExportRequest = { ...plain, ...changes }
    for await (const _ of client.stream('/export', request)) continue
  }
  await t.rejects(attempt({ volume: 'none' }), { exitCode: 1, message: /no volume 'none' here; there are: one, copy/ })
  await t.rejects(attempt({ volume: 'one' }), { exitCode: 3, message: /this host is the master of volume 'one'/ })
  await t.rejects(attempt({ listen: '0.0.0.0:1' }), { exitCode: 2, message: /open to other hosts/ })
  await t.rejects(attempt({ listen: 'nowhere' }), { exitCode: 2, message: /not HOST:PORT/ })
  t.equal(notes.filter(note => note === 'view copy').length, notes.filter(note => note === 'end view copy').length)
  await daemon.close()
})

t.test('a mark is asked of whichever side is here, and an earlier moment of the one that has the copy', async t => {
  const { daemon, notes, client } = stage(t, head + standby + group('one'))
  await daemon.start()
  notes.length = 0
  const noted = {
    kind: 'mark',
    label: 'before',
    incarnation: '1',
    sequence: '2',
    time: '1970-01-01T00:00:00.000000003Z',
  }
  t.same(await client.post('/mark', { volume: 'one', label: ' before ' }), noted)
  t.same(await client.post('/mark', { volume: 'copy', label: 'before' }), noted)
  t.same(notes.splice(0), ['mark one before', 'mark copy copy before'])
  await t.rejects(client.post('/mark', { volume: 'one', label: '-5s' }), {
    ...{ exitCode: 2, message: /^mark one: the label '-5s' would be taken for/ },
  })
  await t.rejects(client.post('/mark', { volume: 'none', label: 'x' }), { code: 'NO_VOLUME' })
  const stretch = { from: '', to: '', buckets: 10 }
  await t.rejects(client.post('/history', { volume: 'one', ...stretch }), { code: 'IS_MASTER', exitCode: 3 })
  await t.rejects(client.post('/history', { volume: 'none', ...stretch }), { message: /^history: there is no volume/ })
  await t.rejects(client.post('/history', { volume: 'none', ...stretch, by: 'find' }), {
    message: /^find: there is no volume 'none'/,
  })
  await t.rejects(client.post('/history', { volume: 'copy', ...stretch, buckets: 0 }), {
    exitCode: 2,
    message: /'buckets'/,
  })
  const request = { volume: 'copy', listen: '127.0.0.1:0', writable: false, detach: true, saved: '', at: '-90s' }
  for await (const _ of client.stream('/export', request)) continue
  t.match(notes, ['view copy at -90s'])
  const both = async (): Promise<void> => {
    for await (const _ of client.stream('/export', { ...request, saved: 'newest' })) continue
  }
  await t.rejects(both(), { exitCode: 2, message: /--at and --saved do not go together/ })
  await daemon.close()
})

t.test('verify is asked of the master, and stop leaves', async t => {
  const { daemon, notes, client } = stage(t, head + standby + group('one'))
  await daemon.start()
  const events: VerifyEvent[] = []
  for await (const event of client.stream<VerifyEvent>('/verify', { volume: 'one' })) events.push(event)
  t.same(events, [
    { done: false },
    {
      ...{ done: true, chunks: 4, different: 0, repaired: 0, unreadableBytes: 0, differences: [], unreadable: [] },
      ...{ leftOut: [{ offset: 4096, length: 8192 }], leftOutBytes: 8192 },
    },
  ])
  await t.rejects(client.stream('/verify', { volume: 'copy' }).next(), {
    message: /not the master of a volume 'copy'; ask the daemon of its master/,
  })
  await client.post('/stop')
  t.ok(notes.includes('stop: asked over the control socket'))
  await daemon.close()
})

t.test('a reload changes filters of volumes that are served; one that is refused is tried again', async t => {
  const filtered = (...keys: string[]): string => head + group('one') + keys.map(key => `${key}\n`).join('')
  const { daemon, notes, client, write } = stage(t, filtered('exclude = ["0-4096"]'))
  await daemon.start()
  const reload = async (...keys: string[]): Promise<string[]> => {
    write(filtered(...keys))
    notes.length = 0
    return (await client.post<ReloadReply>('/reload')).messages
  }
  t.same(await reload('exclude = ["0+4096"]', 'replicate = []'), ['nothing has changed'])
  t.same(await reload('replicate = ["partition=1"]', 'only_files = ["/x"]', 'filter_fallback = "all"'), [
    "filter of volume 'one' changed",
  ])
  t.same(notes, ['filter one replicate = ["partition=1"] only_files = ["/x"] filter_fallback = "all"'])
  for (const _ of [1, 2])
    t.same(await reload('replicate = ["partition=9"]'), [
      "failed: filter of volume 'one' changed: replicate partition=9: not there; the old one stays in force",
    ])
  const change = (wish: Partial<FilterChangeRequest>): Promise<FilterChangeReply> =>
    client.post('/change-filter', {
      ...{ volume: 'one', clear: false, dryRun: false, fallback: '' },
      ...{ replicate: [], exclude: [], excludeFiles: [], onlyFiles: [], ...wish },
    })
  notes.length = 0
  t.match(await change({ exclude: ['1-2'] }), { inForce: true, file: /u\.toml$/ })
  t.same(notes, [
    'filter one replicate = ["partition=1"] exclude = ["1-2"] only_files = ["/x"] filter_fallback = "all"',
  ])
  t.same(await reload('exclude = ["1-2"]'), ["filter of volume 'one' changed"], 'the file counts again')
  t.same(await reload('read_only = true', 'exclude = ["1-3"]'), [
    "group 'one' has changed: restart the daemon to apply it",
    "filter of volume 'one' changed",
  ])
  await t.rejects(change({ fallback: 'all' }), { exitCode: 2, message: /it is about rules for files/ })
  await t.rejects(change({ volume: 'two' }), { code: 'NO_VOLUME' })
  await daemon.close()
})

t.test('a reload opens and closes groups and listeners, and says what needs a restart', async t => {
  const { daemon, notes, client, write } = stage(t, head + standby + group('one') + group('two'), { failGroup: 'bad' })
  await daemon.start()
  const reload = async (): Promise<string[]> => (await client.post<ReloadReply>('/reload')).messages
  t.same(await reload(), ['nothing has changed'])
  notes.length = 0
  write(
    head.replace('127.0.0.1:0', '127.0.0.1:9') +
      standby.replace(`["${id}"]`, '[]\nstaging_size = "1GiB"').replace('"store"', '"other"') +
      group('two').replace('3s', '4s') +
      group('three') +
      group('bad'),
  )
  t.match(await reload(), [
    '[standby] has changed: restart the daemon to apply it',
    "group 'two' has changed: restart the daemon to apply it",
    "group 'one' closed",
    'no longer listening on 127.0.0.1:0',
    'listening on 127.0.0.1:9',
    "group 'three' opened",
    "failed: group 'bad' opened: in use",
    '0 masters listed in allow',
    'staging: at most 1 GiB',
  ])
  t.same(notes, [
    ...['close group one in 3000', 'close listener 2', 'listen 127.0.0.1:9', 'open group three', 'allow 0'],
    `staging ${2 ** 30}`,
  ])
  t.same(
    (await client.status()).volumes.map(({ name }) => name),
    ['two', 'three', 'copy'],
  )
  t.match(await reload(), [/standby/, /two/, "failed: group 'bad' opened: in use"], 'what failed is tried again')
  write('state = 5')
  await t.rejects(client.post('/reload'), { exitCode: 2, message: /u\.toml:1: key 'state': it must be a string/ })
  t.equal((await client.status()).volumes.length, 3, 'a broken file changes nothing')
  await daemon.close()
})
