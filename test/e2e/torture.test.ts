// timeout: 120
// serial
/**
 * A minute of `npm run torture`: random kills, power cuts that take back what was not synced, a network that drops,
 * doubles and reorders, full disks. `npm test` has ten minutes for everything, so this is one minute
 * of them, and asks for half of what an idle machine does; `npm run torture -- --minutes 2` is the whole.
 */
import t from 'tap'
import { execute, ROOT } from '../support/daemon.js'

const torture = (...args: string[]) =>
  execute(process.execPath, ['dist-test/test/torture/main.js', '--quiet', ...args], { cwd: ROOT, limitMs: 100_000 })

void t.test('a minute of kills, power cuts, bad networks and full disks lose nothing (G2, G3, G4)', async t => {
  const { code, stdout, stderr } = await torture('--minutes', '1')
  t.comment(stdout.trim())
  t.equal(code, 0, `${stdout}${stderr}`.slice(-3000))
  const [, faults, kinds, kills, writes] =
    /(\d+) faults of (\d+) kinds, (\d+) kills, .* (\d+) writes checked/.exec(stdout)?.map(Number) ?? []
  t.ok(
    (faults ?? 0) >= 30 && (kinds ?? 0) >= 12 && (kills ?? 0) >= 6,
    `${faults} faults, ${kinds} kinds, ${kills} kills`,
  )
  t.ok((writes ?? 0) >= 80_000, `${writes} writes`)
  t.match(stdout, /lost 0/)
})
