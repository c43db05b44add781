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
import { execute, inSync, type Pair, sameBytes, sleep, startPair } from '../support/daemon.js'
import { CMD, NbdClient } from '../support/nbd-client.js'
import { compared, type Past, Writer } from '../support/past.js'

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
