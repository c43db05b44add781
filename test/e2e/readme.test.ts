/** The README's quick start runs as it is printed; only its folder and its port are replaced. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { execute, freeUdpPort, ROOT, scratch } from '../support/daemon.js'

void t.test("the README's quick start runs to its end, and the copy it reads is a clean file system", async t => {
  const text = readFileSync(`${ROOT}/README.md`, 'utf8')
  const block = /<!-- quick-start[^>]*-->\s*```sh\n([\s\S]*?)```/.exec(text)?.[1]
  t.ok(block, 'the README has a quick start')
  const files = scratch(t)
  const script = (block ?? '').replaceAll('/tmp/us', files.folder).replaceAll(':7400', `:${await freeUdpPort()}`)
  const guarded = `set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n${script}`
  const output = await execute('bash', ['-c', guarded], { cwd: ROOT, limitMs: 90_000 })
  t.equal(output.code, 0, `it ends with exit code 0: ${output.stderr.slice(-2000)}${output.stdout.slice(-2000)}`)
  t.match(output.stdout, /disk1 is protected/, 'the pair became protected')
  t.match(output.stdout, /disk1 is drained/, 'it drained')
  t.match(output.stdout, /all equal/, 'verify found both sides equal')
  t.match(output.stdout, /copy\.img: \d+\/\d+ files/, 'e2fsck looked at the copy')
})
