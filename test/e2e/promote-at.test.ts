// timeout: 60
/**
 * A copy is promoted as of an earlier moment: it is exactly that moment, the old master is out, and follows when its
 * operator says so: then both sides are equal, byte by byte, also where only the old master was ever written to since.
 */
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { VolumeStatus } from '../../src/core/status-types.js'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { PromoteReply } from '../../src/daemon/control-protocol.js'
import {
  execute,
  freeze,
  inSync,
  type Pair,
  sameBytes,
  scratch,
  sleep,
  sparseFile,
  startPair,
} from '../support/daemon.js'
import { CMD, NbdClient } from '../support/nbd-client.js'
import { compared, type Past, Writer } from '../support/past.js'
import { startSuccession } from '../support/takeover.js'

const sizeBytes = 16 << 20
const seed = Number(process.env['UNDERSTUDY_SEED'] ?? Date.now() % 1_000_000)
t.comment(`UNDERSTUDY_SEED=${seed}`)

const keeping = { sizeBytes, standby: ['--history', '1h'], master: ['--peer-timeout', '60s'] }
const promote = (pair: Pair, ...flags: string[]) => pair.standby.command(['promote', pair.volume, ...flags])

/** At 40 places, 128 KiB each. */
async function scatter(pair: Pair): Promise<void> {
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  for (let place = 0; place < 40; place++)
    await client.request({ type: CMD.WRITE, offset: place * (400 << 10) + 4096, data: randomBytes(128 << 10) })
  await client.request({ type: CMD.FLUSH })
  client.destroy()
}

/** A copy of 12 steps, the moment of one of them, and what was written after it. */
async function withPast(
  t: Parameters<typeof startPair>[0],
): Promise<{ pair: Pair; then: Past; pasts: Past[]; at: string }> {
  const pair = await startPair(t, keeping)
  const writer = new Writer(pair, sizeBytes, seed)
  await writer.connect()
  for (let step = 0; step < 12; step++) await writer.step()
  await inSync(pair)
  const { stdout } = await pair.standby.command(['mark', pair.volume, 'then'])
  const at = /is (\d+:\d+), /.exec(stdout)?.[1] ?? ''
  const then = await writer.remember()
  for (let step = 0; step < 12; step++) await writer.step()
  writer.close()
  await scatter(pair)
  await inSync(pair)
  return { pair, then, pasts: writer.pasts, at }
}

t.test('promote --at: the copy is what it was, and the old master becomes equal to it as a whole (G2, G5)', async t => {
  const { pair, then, pasts, at } = await withPast(t)
  await pair.master.stop() // Its dirty map is empty: the standby had everything.
  const socket = pair.scratch.path('second.sock')
  const listen = ['--listen', `unix:${socket}`]
  t.match(await promote(pair, '--at', 'then'), { code: 3, stderr: /after .* is thrown away.*--accept-loss/ })
  t.match(await promote(pair, '--at', 'nonsense', '--accept-loss'), { code: 1, stderr: /the history goes from / })
  t.match(await pair.standby.volume(pair.volume), { role: 'standby' }, 'nothing is done when it is refused')
  const both = await Promise.all([1, 2].map(() => promote(pair, '--at', 'then', '--accept-loss', ...listen)))
  const [done, refused] = both.sort((a, b) => (a.code ?? 9) - (b.code ?? 9))
  t.match(done, { code: 0, stdout: new RegExp(`promoted as of .*Z \\(${at}\\)[^]*had been written over since`) })
  t.match(refused, { code: 3, stderr: new RegExp(`promoted already, at .*, as of .*\\(${at}\\)`) }, 'one of two')
  t.equal(compared(await readFile(pair.image), then, pasts), 'equal', 'the image is the moment')
  t.match(await pair.standby.volume(pair.volume), { role: 'master', asOf: { sequence: at.split(':')[1] } })

  const client = await NbdClient.attach({ path: socket }, pair.volume)
  await client.request({ type: CMD.WRITE, offset: 8 << 20, data: Buffer.alloc(4096, 7) })
  client.destroy()
  await pair.master.restart()
  const { reason } = await pair.master.until(pair.volume, 'sees it', ({ state }) => state === 'diverged')
  t.match(reason, /was promoted on the standby/)
  const before = await readFile(pair.device)
  t.match(await pair.master.command(['resolve', pair.volume, '--keep', 'peer']), { code: 0, stdout: /saved to/ })
  const folder = join(pair.master.state, 'store', '.saved')
  const saved = readdirSync(folder).find(name => name.endsWith('.raw')) ?? ''
  t.ok(before.equals(await readFile(join(folder, saved))), 'all that is lost to it was saved: it may be anywhere')
  await pair.standby.until(
    pair.volume,
    'the other side follows',
    ({ state, written, applied, dirtyBytes }) => state === 'replicating' && written === applied && dirtyBytes === 0,
  )
  await pair.master.until(pair.volume, 'is a usable copy', ({ role, usable }) => role === 'standby' && usable)
  t.match(await pair.standby.command(['verify', pair.volume]), { code: 0 })
  await pair.standby.stop()
  await pair.master.stop()
  await sameBytes(t, pair.image, pair.device, 'both sides are the same, byte by byte')
})

t.test(
  'killed in the middle of it, the next start goes on with that moment, and serves nothing before (G2)',
  async t => {
    const { pair, then, pasts, at } = await withPast(t)
    await pair.master.kill()
    const socket = pair.scratch.path('second.sock')
    void promote(pair, '--at', at, '--accept-loss', '--listen', `unix:${socket}`)
    const record = join(pair.scratch.path('store'), '.groups', pair.volume, 'replica.json')
    while (!readFileSync(record, 'utf8').includes('"asOf"')) await sleep(1)
    // Every start goes on by itself, and is ended somewhere else.
    for (const afterMs of [0, 1, 10]) {
      await sleep(afterMs)
      await pair.standby.kill()
      await pair.standby.restart()
    }
    await pair.standby.until(
      pair.volume,
      'is done',
      ({ role, asOf, reason }) => role === 'master' && asOf !== undefined && !reason.startsWith('promoted at'),
    )
    t.match(await execute('nbdinfo', ['--size', `nbd+unix:///${pair.volume}?socket=${socket}`]), {
      stdout: `${sizeBytes}\n`,
    })
    t.equal(compared(await readFile(pair.image), then, pasts), 'equal')
    t.match(await promote(pair, '--at', at, '--accept-loss'), { code: 3, stderr: /promoted already/ })
    t.match(await pair.standby.command(['export', pair.volume, '--at', at, '--listen', 'unix:/x']), { code: 3 })
  },
)

t.test(
  'two disks with a lease: both are at one position, and neither the old master nor an automatic promotion undoes that (G2, G5)',
  async t => {
    const second = await sparseFile(scratch(t).path('second.img'), 4 << 20)
    const pair = await startSuccession(t, {
      ...{ sizeBytes: 4 << 20, standby: ['--history', '1h'] },
      toml: 'name = "both"\nlease = "2s"\npeer_timeout = "60s"',
      volumeToml: `[[group.volume]]\nexport = "disk2"\ndevice = "${second}"`,
    })
    const attach = (path: string): Promise<NbdClient[]> =>
      Promise.all(['disk1', 'disk2'].map(volume => NbdClient.attach({ path }, volume)))
    const [first, other] = (await attach(pair.socket)) as [NbdClient, NbdClient]
    /** The number goes to the first disk, is synced, and then to the other one. */
    const count = async (from: number, to: number): Promise<void> => {
      for (let number = from; number <= to; number++)
        for (const client of [first, other]) {
          await client.write(0, Buffer.alloc(4096, number))
          await client.write(number * 8192, Buffer.alloc(4096, number))
          await client.flush()
        }
    }
    await count(1, 4)
    await first.write(0, Buffer.alloc(4096, 5))
    await first.flush()
    const { stdout } = await pair.standby.command(['mark', 'disk2', 'then'])
    const at = /is (\d+:\d+), /.exec(stdout)?.[1] ?? ''
    await other.write(0, Buffer.alloc(4096, 5))
    await count(6, 9)
    await inSync(pair)

    await freeze(pair.master)
    const waiting = [first.write(0, Buffer.alloc(4096, 99)), other.read(0, 512)]
    let answered = 0
    for (const request of waiting) void request.then(() => answered++).catch(() => undefined)
    const socket = pair.scratch.path('young.sock')
    const frozen = performance.now()
    const request = { volume: 'disk1', acceptLoss: true, force: false, listen: `unix:${socket}`, at: 'then' }
    const asked = new ControlClient(pair.standby.state).post<PromoteReply>('/promote', request)
    const isUnderWay = ({ role, reason }: VolumeStatus): boolean => role === 'master' || /being promoted/.test(reason)
    await pair.standby.until('disk2', 'waits for the end of the lease', isUnderWay)
    const automatic = await promote(pair, '--accept-loss')
    t.match(automatic, { code: 3, stderr: new RegExp(`promoted already, at .*, as of .*\\(${at}\\)`) })
    const { messages } = await asked
    const waited = messages.some(message => /lease of the master is over/.test(message))
    t.ok(waited || performance.now() - frozen > 2000, 'the lease was over before')

    const young = await attach(socket)
    const shown = await Promise.all(young.map(async client => (await client.read(0, 65_536 + 16_384)).data))
    t.same(
      shown.map(data => Array.from({ length: 10 }, (_, block) => data[block * 8192])),
      [
        [5, 1, 2, 3, 4, 0, 0, 0, 0, 0],
        [4, 1, 2, 3, 4, 0, 0, 0, 0, 0],
      ],
      'between one number on the first disk and the same on the other',
    )
    for (const client of young) t.equal((await client.write(0, Buffer.alloc(4096, 50))).error, 0)
    pair.master.program.signal('SIGCONT')
    await pair.master.until('disk1', 'has found out', ({ state }) => state === 'diverged')
    t.match(await pair.master.command(['promote', 'disk1', '--force']), {
      code: 3,
      stderr: /was promoted on the standby/,
    })
    await pair.master.kill()
    await pair.master.restart()
    await pair.master.until('disk2', 'finds out after a restart, too', ({ state }) => state === 'diverged')
    const late = NbdClient.attach({ path: pair.socket }, 'disk1').then(client => client.read(0, 512)) // or there is no export
    void late.then(() => answered++).catch(() => undefined)
    for (const client of young) t.equal((await client.read(0, 4096)).data[0], 50)

    t.match(await pair.master.command(['resolve', 'disk1', '--keep', 'peer']), { code: 0, stdout: /saved to/ })
    for (const volume of ['disk1', 'disk2'])
      await pair.standby.until(
        volume,
        'the old master follows',
        ({ state, written, applied, dirtyBytes }) => state === 'replicating' && written === applied && dirtyBytes === 0,
      )
    t.equal(answered, 0, 'the old master has answered nobody since')
    for (const client of young) client.destroy()
    await pair.standby.stop()
    await pair.master.stop()
    await sameBytes(t, pair.image, pair.device, 'the first disk')
    await sameBytes(t, pair.image.replace('disk1', 'disk2'), second, 'the other one')
  },
)
