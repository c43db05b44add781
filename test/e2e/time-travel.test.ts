// timeout: 150
/**
 * A standby with --history: any moment that it is asked for is what the client's disk held then, by the client's own
 * account (support/past.ts): by position, time, label and age, through restarts and pulled plugs, several at once, and
 * while replication goes on. UNDERSTUDY_SEED repeats a run's choices, UNDERSTUDY_LONG=N multiplies its length.
 */
import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { HistoryReply } from '../../src/daemon/control-protocol.js'
import { inSync, metricBecomes, type Pair, sleep, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { readAll } from '../support/observer.js'
import { compared, contentAt, during, type Past, Writer } from '../support/past.js'

const seed = Number(process.env['UNDERSTUDY_SEED'] ?? Date.now() % 1_000_000)
const long = Number(process.env['UNDERSTUDY_LONG'] ?? 1)
const sizeBytes = 1 << 20
t.comment(`UNDERSTUDY_SEED=${seed}`)

interface Stage {
  pair: Pair
  writer: Writer
  steps: (count: number) => Promise<void>
  /** By position. */
  check: (pasts: readonly Past[], incarnation: string, title: string) => Promise<void>
  incarnation: () => Promise<string>
  history: () => Promise<HistoryReply>
  /** At the master, which may have to wait for its standby. */
  mark: (label: string) => Promise<void>
}

const markLimitMs = 60_000
/** A machine that stands still is no standby that is away. */
const patient = ['--peer-timeout', '60s']

async function begin(t: Tap, name: number, options: Parameters<typeof startPair>[1] = {}): Promise<Stage> {
  const pair = await startPair(t, { sizeBytes, standby: ['--history', '1h'], master: patient, ...options })
  const writer = new Writer(pair, sizeBytes, seed + name)
  await writer.connect()
  t.teardown(() => writer.close())
  const history = (): Promise<HistoryReply> =>
    new ControlClient(pair.standby.state).post('/history', { volume: pair.volume, from: '', to: '', buckets: 50 })
  return {
    pair,
    writer,
    history,
    steps: async count => {
      for (let step = 0; step < count; step++) await writer.step()
    },
    check: async (pasts, incarnation, title) => {
      const wrong: string[] = []
      for (const past of pasts) {
        const at = `${incarnation}:${past.sequence}`
        const found = compared(await contentAt(pair, at, sizeBytes), past, writer.pasts)
        if (found !== 'equal') wrong.push(`${at} ${found}`)
      }
      t.ok(pasts.length > 0)
      t.strictSame(wrong, [], `${title}: ${pasts.length} moments`)
    },
    mark: async label => {
      for (const end = performance.now() + markLimitMs; ; await sleep(100)) {
        const { code, stderr } = await pair.master.command(['mark', pair.volume, label])
        if (code === 0) return
        if (performance.now() > end) throw new Error(`mark ${label}: ${stderr}`)
      }
    },
    incarnation: async () => (await history()).newest?.incarnation ?? '',
  }
}

t.test('any moment is what the disk held then, by position, time, label and age (G2)', async t => {
  const { pair, writer, steps, check, incarnation, history, mark } = await begin(t, 0)
  await steps(12)
  await mark('from the master')
  const marked = await writer.remember()
  await steps(8)
  await inSync(pair)
  const { stdout } = await pair.standby.command(['mark', pair.volume, 'from the standby'])
  const [first] = [await incarnation()]
  const here = await writer.remember()
  t.match(stdout, new RegExp(`^disk1: 'from the standby' is ${first}:${here.sequence}, `))
  await steps(8 * long)
  await inSync(pair)

  await check(writer.pasts, first, 'by position')
  const wrong: string[] = []
  const isSame = async (at: string, past: Past): Promise<void> => {
    const found = compared(await contentAt(pair, at, sizeBytes), past, writer.pasts)
    if (found !== 'equal') wrong.push(`${at} ${found}`)
  }
  for (const past of writer.pasts) await isSame(past.time, past)
  await isSame('from the master', marked)
  await isSame('from the standby', here)
  await isSame('-0s', writer.pasts.at(-1) ?? marked)
  await isSame(marked.sequence, marked)
  t.strictSame(wrong, [], 'by time, label, age, and sequence alone')

  // A stop of the master is a point of its own; the next start is another incarnation, and goes on with the same history.
  writer.close()
  await pair.master.stop()
  await pair.master.restart()
  await writer.connect()
  await inSync(pair)
  const before = [...writer.pasts]
  await steps(6)
  await inSync(pair)
  const second = await incarnation()
  t.not(second, first)
  await check(before, first, 'of the incarnation before')
  await check(writer.pasts.slice(before.length), second, 'of this one')
  t.equal(compared(await contentAt(pair, 'clean-stop', sizeBytes), before.at(-1) ?? marked, writer.pasts), 'equal')

  const { points, writtenBytes, oldest, newest, pointCount, bytes } = await history()
  t.same(
    points.filter(({ kind }) => kind !== 'flush').map(({ label }) => label),
    ['from the master', 'from the standby', 'clean-stop'],
  )
  t.ok(points.some(({ kind }) => kind === 'flush'))
  t.ok(writtenBytes.length === 50 && writtenBytes.some(part => part > 0))
  t.same([oldest?.incarnation, newest?.incarnation, pointCount], [first, second, 3])
  t.ok(bytes > 0)
  await metricBecomes(t, pair.metrics.standby, 'understudy_history_points', 3, { group: pair.volume })
  await metricBecomes(t, pair.metrics.standby, 'understudy_history_bytes', value => value > 0, { group: pair.volume })

  const shown = await pair.standby.command(['history', pair.volume])
  t.match(shown.stdout, /^disk1: keeps 1h 00m; it takes /)
  t.match(shown.stdout, /mark +from the master$/m)
})

t.test('eight moments at once, each written to, while replication goes on: none sees another', async t => {
  const { pair, writer, steps, incarnation } = await begin(t, 1)
  await steps(16)
  const number = await incarnation()
  const chosen = writer.pasts.filter((_, index) => index % 2 === 0)
  t.equal(chosen.length, 8)
  let open = 0
  let opened = (): void => undefined
  const allOpen = new Promise<void>(resolve => (opened = resolve))
  // One client writes: of two at once nobody but the device knows who was first.
  const goneOn = allOpen.then(() => steps(8))
  const results = await Promise.all([
    ...chosen.map(past =>
      during(
        pair,
        `${number}:${past.sequence}`,
        async socket => {
          const client = await NbdClient.attach({ path: socket }, pair.volume)
          const own = randomBytes(8192)
          const { error } = await client.write(4096, own)
          client.destroy()
          if (++open === chosen.length) opened()
          await goneOn
          const expected = { ...past, content: Buffer.from(past.content) }
          own.copy(expected.content, 4096)
          return error === 0
            ? compared(await readAll(socket, pair.volume, sizeBytes), expected, writer.pasts)
            : `${error}`
        },
        true,
      ),
    ),
  ])
  t.same(
    results,
    chosen.map(() => 'equal'),
  )
  await inSync(pair)
  const last = { ...(await writer.remember()), content: writer.content }
  t.equal(compared(await contentAt(pair, '', sizeBytes), last, writer.pasts), 'equal', 'the copy itself')
})

t.test('a pulled plug on either side leaves every moment as it was, and its marks (G2, G8)', async t => {
  // Flushes do not wait for a standby that is away.
  const stage = await begin(t, 2, { master: ['--durability', 'async'] })
  const { pair, writer, steps, check, incarnation, mark } = stage
  await steps(8)
  await mark('before')
  const before = await writer.remember()
  const first = await incarnation()
  const running = steps(10)
  await pair.standby.kill()
  await running
  await pair.standby.restart()
  await steps(4)
  await inSync(pair)
  await check(writer.pasts, first, 'after the standby was killed')
  t.equal(compared(await contentAt(pair, 'before', sizeBytes), before, writer.pasts), 'equal')

  const known = [...writer.pasts]
  await pair.master.kill()
  await check(known.slice(-3), first, 'with no master')
  await pair.master.restart()
  await writer.connect()
  await inSync(pair)
  await steps(4)
  await inSync(pair)
  await pair.standby.kill()
  await pair.standby.restart()
  await pair.standby.until(pair.volume, 'usable', ({ usable }) => usable)
  await check(known, first, 'of the incarnation before, after all')
  await check(writer.pasts.slice(known.length), await incarnation(), 'of the second one')
})

t.test(
  'segments that lie idle are compressed, and each moment in them is what it was, after a pulled plug too (G2)',
  async t => {
    // Of a history of this size an epoch is 32 MiB of writes.
    const { pair, writer, steps, check, incarnation } = await begin(t, 6, { standby: ['--history', '256MiB'] })
    for (let round = 0; round < 4; round++) {
      await steps(2)
      await writer.fill(24)
    }
    await steps(2)
    await inSync(pair)
    const { history } = await pair.standby.until(
      pair.volume,
      'compressed segments',
      ({ history }) => (history?.compressedSegments ?? 0) > 0,
      60_000,
    )
    t.ok((history?.compressedBytes ?? 0) < (history?.uncompressedBytes ?? 0) / 4, 'to less than a quarter')
    const first = await incarnation()
    await check(writer.pasts, first, 'compressed')
    await pair.standby.kill()
    await pair.standby.restart()
    await pair.standby.until(pair.volume, 'usable', ({ usable }) => usable)
    await check(writer.pasts, first, 'after the plug was pulled')
  },
)

t.test('find names the newest point that passes; 1 when none does', async t => {
  const { pair, writer, mark } = await begin(t, 3)
  const put = async (text: string, label: string): Promise<void> => {
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
    await client.write(0, Buffer.from(text.padEnd(4096)))
    client.destroy()
    await mark(label)
  }
  writer.close()
  await put('good', 'first')
  await put('good', 'second')
  await put('bad', 'third')
  const find = (check: string, ...more: string[]) =>
    pair.standby.command(['find', pair.volume, '--newest', '--points', 'mark', '--check', check, ...more])
  const found = await find('nbdcopy "$UNDERSTUDY_URI" - | head -c 4 | grep -q good')
  t.match(found, { code: 0, stdout: /^disk1 \d+:\d+ \S+ \S+ mark 'second'\n$/ })
  t.match(found.stderr, /mark 'third': exit code 1\n.*mark 'second': passes\n$/s)
  t.match(await find('sleep 60', '--timeout', '50ms'), {
    code: 1,
    stderr: /mark 'first': not within 50 ms\nunderstudy: find disk1: the check does not pass on any of 3 points/,
  })
  const json = await find('test "$UNDERSTUDY_LABEL" = first', '--json')
  t.match(JSON.parse(json.stdout), { kind: 'mark', label: 'first' })
})

t.test('a moment that is not there is refused in one line that says the range', async t => {
  const { pair, steps, incarnation } = await begin(t, 4)
  await steps(3)
  await inSync(pair)
  const number = await incarnation()
  const range = `the history goes from 20\\S+Z \\(\\d+:\\d+\\) to 20\\S+Z \\(${number}:\\d+\\), `
  const at = (moment: string) =>
    pair.standby.command(['export', pair.volume, '--listen', `unix:${pair.scratch.path('x.sock')}`, '--at', moment])
  const refused = async (moment: string, code: number, message: string): Promise<void> => {
    const output = await at(moment)
    t.equal(output.code, code, moment)
    t.match(output.stderr, new RegExp(`^understudy: [^\n]*${message}[^\n]*\n$`))
    t.equal(output.stdout, '')
  }
  await refused('no such label', 1, `no point is called 'no such label'.*; ${range}`)
  await refused('-2h', 1, `there is no moment '-2h'; ${range}`)
  await refused(`${number}:999999`, 1, `there is no moment '${number}:999999'; ${range}`)
  await refused('2026-02-30T00:00Z', 2, 'there is no such day or time of day')
  const machine = ['vm', 'add', 'web', '--group', pair.volume, '--memory', '64M', '--firmware', 'bios']
  t.equal((await pair.standby.command(machine)).code, 0)
  for (const command of [
    ['vm', 'drill', 'web', '--marker', 'x'],
    ['vm', 'start', 'web', '--throw-away'],
  ]) {
    const asked = command.slice(0, 3).join(' ')
    const output = await pair.standby.command([...command, '--at', '-2h'])
    t.equal(output.code, 1, asked)
    t.match(output.stderr, new RegExp(`^understudy: ${asked}: there is no moment '-2h'; ${range}[^\n]*\n$`))
  }
  const nobody = await pair.standby.command(['find', 'disk9', '--check', 'true'])
  t.match(nobody, { code: 1, stderr: /^understudy: find: there is no volume 'disk9' here; / })
  const running = join(pair.scratch.path('store'), '.groups', pair.volume, 'running')
  t.strictSame(readdirSync(running), [], 'and nothing of them is left')
  t.match(await pair.standby.command(['mark', pair.volume, '4711']), { code: 2, stderr: /would be taken for/ })
  await pair.standby.stop()
  t.match(await pair.master.command(['mark', pair.volume, 'x']), {
    code: 1,
    stderr: /^understudy: mark disk1: the standby does not follow now \([^\n]*\), so this moment cannot be noted\n$/,
  })
})

t.test('without --history no earlier moment is kept, and that is what everybody is told', async t => {
  const { pair, steps } = await begin(t, 5, { standby: [] })
  await steps(2)
  await inSync(pair)
  t.match(await pair.master.command(['mark', pair.volume, 'x']), { code: 1, stderr: /the standby keeps no history/ })
  t.match(await pair.standby.command(['history', pair.volume]), {
    code: 1,
    stderr: /no history is kept.*--history 24h/,
  })
  t.notOk((await pair.standby.volume(pair.volume)).history)
})
