// timeout: 200
// serial
/**
 * Two minutes of `npm run torture`: random kills, power cuts that take back what was not synced, a network that drops,
 * doubles and reorders, full disks. The figures are for a machine that does nothing else; a slow one does fewer faults.
 */
import t from 'tap'
import { execute, ROOT } from '../support/daemon.js'

const torture = (...args: string[]) =>
  execute(process.execPath, ['dist-test/test/torture/main.js', '--quiet', ...args], { cwd: ROOT, limitMs: 170_000 })

void t.test('two minutes of kills, power cuts, bad networks and full disks lose nothing (G2, G3, G4)', async t => {
  const { code, stdout, stderr } = await torture('--minutes', '2')
  t.comment(stdout.trim())
  t.equal(code, 0, `${stdout}${stderr}`.slice(-3000))
  const [, faults, kinds, kills, writes] =
    /(\d+) faults of (\d+) kinds, (\d+) kills, .* (\d+) writes checked/.exec(stdout)?.map(Number) ?? []
  t.ok(
    (faults ?? 0) >= 60 && (kinds ?? 0) >= 15 && (kills ?? 0) >= 12,
    `${faults} faults, ${kinds} kinds, ${kills} kills`,
  )
  t.ok((writes ?? 0) >= 200_000, `${writes} writes`)
  t.match(stdout, /lost 0/)
})
