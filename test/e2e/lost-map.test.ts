/** The dirty map of a clean stop is lost or damaged before the next start: nothing is believed, and nothing is refused. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { execute, inSync, startPair, succeed } from '../support/daemon.js'

// The start was refused, and the message named the device instead of the map.
for (const [what, hurt] of [
  ['missing', (path: string): void => rmSync(path)],
  [
    'damaged',
    (path: string): void => {
      const bytes = readFileSync(path)
      bytes[40] = (bytes[40] ?? 0) ^ 1
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
    hurt(`${pair.master.state}/volumes/${pair.volume}.dirty`)
    await pair.master.restart()
    t.match(pair.master.program.stderr, /dirty map.*all of it will be compared/, 'the log says so')
    t.equal((await pair.master.volume(pair.volume)).dirtyBytes, 64 << 20)
    await pair.standby.restart()
    await inSync(pair)
    t.match(await pair.master.command(['verify', pair.volume]), { code: 0, stdout: /all equal/ })
    t.match(await execute('cmp', [pair.device, pair.image]), { code: 0 })
  })
}
