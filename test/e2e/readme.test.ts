/** What the documentation shows runs as it is printed; only folders, devices, ports and times to wait are replaced. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { command, execute, freeUdpPort, ROOT, scratch, sparseFile } from '../support/daemon.js'
import { makePki, makePsk } from '../support/pki.js'

void t.test("the README's quick start runs to its end, and the copy it reads is a clean file system", async t => {
  const text = readFileSync(`${ROOT}/README.md`, 'utf8')
  const block = /<!-- quick-start[^>]*-->\s*```sh\n([\s\S]*?)```/.exec(text)?.[1]
  t.ok(block, 'the README has a quick start')
  const files = scratch(t)
  // A reader waits until both have said that they are ready; so does this, however long that takes.
  const ready = (side: string): string =>
    `until $understudy status --state ${files.path(side)} >/dev/null 2>&1; do sleep 0.1; done\n`
  const script = (block ?? '')
    .replaceAll('/tmp/us', files.folder)
    .replaceAll(':7400', `:${await freeUdpPort()}`)
    .replace(/^sleep 2 .*\n/m, ready('standby') + ready('master'))
    .replaceAll('--timeout 30s', '--timeout 300s')
  t.match(script, ready('master'), 'it waits for both')
  const guarded = `set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n${script}`
  const output = await execute('bash', ['-c', guarded], { cwd: ROOT, limitMs: 90_000 })
  t.equal(output.code, 0, `it ends with exit code 0: ${output.stderr.slice(-2000)}${output.stdout.slice(-2000)}`)
  t.match(output.stdout, /disk1 is protected/, 'the pair became protected')
  t.match(output.stdout, /disk1 is drained/, 'it drained')
  t.match(output.stdout, /all equal/, 'verify found both sides equal')
  t.match(output.stdout, /copy\.img: \d+\/\d+ files/, 'e2fsck looked at the copy')
})

void t.test('the demo of machines boots from the copy what the killed master had acknowledged', async t => {
  const port = String(await freeUdpPort())
  const output = await execute(`${ROOT}/docs/examples/stage-demo.sh`, [], { limitMs: 90_000, env: { PORT: port } })
  t.equal(output.code, 0, `it ends with exit code 0: ${output.stderr.slice(-2000)}${output.stdout.slice(-2000)}`)
  const [acknowledged, booted] = [/had returned: (\d+)$/m, /^counter (\d+)$/m].map(line =>
    Number(line.exec(output.stdout)?.[1]),
  )
  t.ok(
    (acknowledged ?? 0) > 0 && (booted ?? 0) >= (acknowledged ?? 0),
    `${acknowledged} was acknowledged, ${booted} is there`,
  )
})

void t.test('check-config accepts the example of understudy.toml, with every key that there is', async t => {
  const files = scratch(t)
  const image = await Promise.all(['a', 'b', 'c'].map(name => sparseFile(files.path(name), 1 << 20)))
  const text = readFileSync(`${ROOT}/docs/examples/understudy.toml`, 'utf8')
    .replace('/dev/vg0/vm1-root', image[0] ?? '')
    .replace('/srv/disks/vm1-data.img', image[1] ?? '')
    .replace('/dev/vg1/db-data', image[2] ?? '')
    .replace('/etc/pki/understudy', await makePki(files.folder, 'pki'))
    .replace('/etc/understudy/keys.psk', await makePsk(files.path('keys.psk'), 'vm1'))
  writeFileSync(files.path('understudy.toml'), text)
  const output = await command(['check-config', files.path('understudy.toml')])
  t.match(output, { code: 0, stderr: '' })
  t.match(output.stdout, /volume vm1-data on .*, only partitions 1, 3, without/)
  const config = readFileSync(`${ROOT}/src/core/config.ts`, 'utf8')
  const keys = [...config.matchAll(/\.(?:parsed|string|requiredString|boolean|oneOf|list|tables?)\('([a-z_]+)'/g)]
  t.ok(keys.length > 20, 'the keys are found in config.ts')
  for (const [, key] of keys)
    t.match(text, new RegExp(`^(${key} = |\\[+([a-z]+\\.)?${key}\\])`, 'm'), `it shows ${key}`)
})

void t.test('links between the pages lead somewhere', async t => {
  const pages = readdirSync(ROOT, { recursive: true, encoding: 'utf8' }).filter(
    path => path.endsWith('.md') && !path.includes('node_modules/'),
  )
  t.ok(pages.includes('docs/architecture.md'))
  for (const page of pages) {
    const text = readFileSync(join(ROOT, page), 'utf8')
    for (const [, target] of text.matchAll(/\]\((?!https?:)([^)#]+)/g))
      t.ok(existsSync(join(ROOT, dirname(page), target ?? '')), `${page} -> ${target}`)
  }
})
