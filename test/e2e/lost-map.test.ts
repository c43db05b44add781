/** The dirty map on disk: what is compared after a crash of the master, and after the map was lost or damaged. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { cpuSeconds, execute, inSync, logged, metricBecomes, startPair, succeed } from '../support/daemon.js'

// The start was refused, and the message named the device instead of the map.
for (const [what, hurt] of [
  ['missing', (path: string): void => rmSync(path)],
  [
    'damaged',
    (path: string): void => {
      const bytes = readFileSync(path)
      bytes[8192 + 40] = (bytes[8192 + 40] ?? 0) ^ 1
      writeFileSync(path, bytes)
    },
  ],
] as const) {
  void t.test(`a dirty map that is ${what} means that everything is compared (G4)`, async t => {
    const pair = await startPair(t)
    const write = (pattern: number): Promise<string> =>
      succeed('qemu-io', ['-f', 'raw', '-c', `write -P ${pattern} 1M 3M`, pair.uri])
    await write(1)
    await inSync(pair)
    await pair.standby.stop()
    await write(2)
    await pair.master.stop()
    hurt(`${pair.master.state}/volumes/${pair.volume}.map`)
    await pair.master.restart()
    await logged(t, pair.master, /dirty map.*will be compared/, 'the log says so')
    await pair.master.until(pair.volume, 'all of it is dirty', ({ dirtyBytes }) => dirtyBytes === 64 << 20)
    await pair.standby.restart()
    await inSync(pair)
    t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /all equal/ })
    t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  })
}

const regionBytes = 64 << 10

void t.test('after kill -9 of the master of 16 TiB only what was touched is compared and sent (G4)', async t => {
  const sizeBytes = 2 ** 44
  const pair = await startPair(t, { sizeBytes })
  const places = Array.from({ length: 64 }, (_, index) => index * (sizeBytes / 64) + 12 * regionBytes)
  const write = (pattern: number): Promise<string> =>
    succeed('qemu-io', [
      ...['-f', 'raw', pair.uri],
      ...places.flatMap(place => ['-c', `write -P ${pattern} ${place} ${regionBytes}`]),
    ])
  await write(1)
  await inSync(pair)
  await metricBecomes(t, pair.metrics.master, 'understudy_map_stored', 1)
  await pair.standby.kill()
  await write(2) // dirty, in memory only
  await pair.master.kill()
  await pair.standby.restart()
  await pair.master.restart()
  const seconds = cpuSeconds(pair.master.program.pid)
  t.notMatch(pair.master.program.stderr, /everything is compared/)
  await inSync(pair)
  const touched = 64 * regionBytes
  const sent = await metricBecomes(t, pair.metrics.master, 'understudy_link_bytes_sent_total', sum => sum >= touched)
  t.comment(`ready after ${seconds.toFixed(2)} s of CPU; the link carried ${sent} bytes for ${touched} touched`)
  t.ok(sent <= touched + (16 << 20), 'the link carries those regions and little more')
  t.ok(seconds < 3, `the whole daemon is there after ${seconds.toFixed(2)} s of CPU`)
  t.match(
    await execute('qemu-io', [
      '-f',
      'raw',
      '-r',
      pair.image,
      ...places.flatMap(at => ['-c', `read -P 2 ${at} ${regionBytes}`]),
    ]),
    {
      stdout: /^(?!.*Pattern verification failed)/s,
    },
  )
})

void t.test(
  'what was hot and in flight at kill -9 of the master is repaired without comparing the rest (G4)',
  async t => {
    const pair = await startPair(t, { sizeBytes: 1 << 30 })
    const write = (pattern: number, at: string): Promise<string> =>
      succeed('qemu-io', ['-f', 'raw', '-c', `write -P ${pattern} ${at} 1M`, pair.uri])
    await write(1, '100M')
    await inSync(pair)
    await metricBecomes(t, pair.metrics.master, 'understudy_map_stored', 1)
    pair.standby.program.signal('SIGSTOP')
    await write(2, '100M') // in the log only
    await write(3, '300M')
    await pair.master.kill()
    pair.standby.program.signal('SIGCONT')
    await pair.master.restart()
    const { dirtyBytes } = await pair.master.volume(pair.volume)
    t.ok(dirtyBytes <= 8 * (4 << 20), `${dirtyBytes} bytes are in doubt`)
    await inSync(pair)
    t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  },
)
