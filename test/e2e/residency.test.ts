// timeout: 120
/**
 * --cache-size: eight copies, a budget for three of them, and the kernel's word for what is in memory. On a disk: files in
 * memory cannot leave it.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { VolumeStatus } from '../../src/core/status-types.js'
import { ControlClient } from '../../src/daemon/control-client.js'
import {
  becomes,
  command,
  Daemon,
  freeUdpPort,
  freeTcpPort,
  identityOf,
  metricBecomes,
  sameBytes,
  scratch,
  type Scratch,
  sparseFile,
} from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'

const MiB = 2 ** 20
const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
const sizeBytes = 8 * MiB

interface Eight {
  files: Scratch
  master: Daemon
  standby: Daemon
  metrics: number
}

async function startEight(t: Test, cache: string, contents: readonly Buffer[] = []): Promise<Eight> {
  const files = scratch(t, { onDisk: true })
  const [masterState, standbyState] = [files.path('m'), files.path('s')]
  const [masterId, standbyId] = [identityOf(masterState), identityOf(standbyState)]
  const [port, metrics] = await Promise.all([freeUdpPort(), freeTcpPort()])
  const groups = names.map(
    name => `[[group]]
standby = "${standbyId}@127.0.0.1:${port}"
log_size = "80MiB"
[[group.volume]]
export = "${name}"
device = "${files.path(name)}"
`,
  )
  for (const name of names) await sparseFile(files.path(name), sizeBytes)
  contents.forEach((content, index) => writeFileSync(files.path(names[index] ?? ''), content))
  writeFileSync(
    files.path('m.toml'),
    `state = "${masterState}"\n[nbd]\nlisten = ["unix:${files.path('nbd.sock')}"]\n${groups.join('')}`,
  )
  writeFileSync(
    files.path('s.toml'),
    `state = "${standbyState}"\n[metrics]\nlisten = "127.0.0.1:${metrics}"\n[standby]\nstore = "${files.path('store')}"\nlisten = "127.0.0.1:${port}"\nallow = ["${masterId}"]\ncache_size = "${cache}"\n`,
  )
  const daemon = (name: string, state: string): Daemon =>
    new Daemon(t, name, state, () => ['run', '--config', files.path(`${name}.toml`)])
  const standby = await daemon('s', standbyState).start()
  const master = await daemon('m', masterState).start()
  return { files, master, standby, metrics }
}

async function write({ files, master }: Eight, name: string): Promise<void> {
  const client = await NbdClient.attach({ path: files.path('nbd.sock') }, name)
  const { error } = await client.write(MiB, randomBytes(MiB))
  if (error !== 0) throw new Error(`write: error ${error}`)
  await client.disconnect()
  const done = ({ state, applied, written, dirtyBytes }: VolumeStatus): boolean =>
    state === 'replicating' && applied === written && written !== '0' && dirtyBytes === 0
  await master.until(name, 'in sync', done)
}

/** Those of which a part is kept, and not all. */
const inPart = async ({ standby }: Eight): Promise<string[]> => {
  const { volumes } = await standby.status()
  return volumes.flatMap(({ name, residency }) => {
    const { lockedBytes = 0, dataBytes = 0 } = residency ?? {}
    return lockedBytes === 0 || lockedBytes === dataBytes ? [] : [`${name}: ${lockedBytes} of ${dataBytes}`]
  })
}

const locked = async ({ standby }: Eight): Promise<string[]> => {
  const { volumes } = await standby.status()
  return volumes.filter(({ residency }) => (residency?.lockedBytes ?? 0) > 0).map(({ name }) => name)
}

let reads = 0

/** A client is given a frozen copy to read; it is gone when this resolves. */
async function read({ files, standby }: Eight, volume: string): Promise<void> {
  const fields = { volume, listen: `unix:${files.path(`copy${++reads}.sock`)}`, writable: false, detach: false }
  for await (const _ of new ControlClient(standby.state).stream('/export', fields)) return
}

const lockedByKernel = (pid: number): number =>
  Number(/^VmLck:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024

t.test('a budget for 3 of 8: what is read comes in place of what was read longest ago, and comes back', async t => {
  const eight = await startEight(t, '3MiB')
  await Promise.all(names.map(name => write(eight, name)))
  await becomes(t, 'three are in memory', async () => (await locked(eight)).length === 3)
  // Which one gives way is for the unit test: here some were written to a moment ago, and do not.
  for (const name of ['a', 'b', 'c', 'd']) {
    await read(eight, name)
    await becomes(t, `${name} is one of three in memory`, async () => {
      const kept = await locked(eight)
      return kept.length === 3 && kept.includes(name)
    })
  }
  const kept = await locked(eight)
  const gone = ['a', 'b', 'c'].find(name => !kept.includes(name)) ?? ''
  await metricBecomes(t, eight.metrics, 'understudy_resident_bytes', MiB, { volume: 'd' })
  await metricBecomes(t, eight.metrics, 'understudy_locked_bytes', 0, { volume: gone })
  await metricBecomes(t, eight.metrics, 'understudy_cache_locked_bytes', 3 * MiB)
  await metricBecomes(t, eight.metrics, 'understudy_cache_size_bytes', 3 * MiB)
  await metricBecomes(t, eight.metrics, 'understudy_cache_evictions_total', value => value >= 1)
  const { program } = eight.standby
  t.equal(lockedByKernel(program.pid), 3 * MiB, 'by the count of the kernel')
  await read(eight, gone)
  await becomes(t, `${gone} is back`, async () => (await locked(eight)).includes(gone))

  // Killed while copies give way one after the other: nothing of it is on disk.
  for (const name of ['e', 'f']) await read(eight, name)
  await eight.standby.kill()
  await eight.standby.restart()
  await Promise.all(names.map(name => write(eight, name)))
  await becomes(t, 'three are in memory again', async () => (await locked(eight)).length === 3)
  t.equal((await eight.standby.stop()).code, 0)
  for (const name of names)
    await sameBytes(t, eight.files.path(name), eight.files.path(`store/${name}/image.raw`), name)
})

t.test('copies that are made at once are in memory whole or not at all, as soon as nobody writes', async t => {
  const eight = await startEight(
    t,
    '21MiB',
    names.map(() => randomBytes(sizeBytes)),
  )
  await Promise.all(names.map(name => write(eight, name)))
  await becomes(t, 'each is whole or out', async () => (await inPart(eight)).length === 0)
  await becomes(t, 'and two of them fit', async () => (await locked(eight)).length === 2)
  t.same(await inPart(eight), [])
  t.equal(lockedByKernel(eight.standby.program.pid), 2 * sizeBytes, 'by the count of the kernel')
})

t.test('no memory for the cache: refused before anything is written, and it says how much is missing', async t => {
  const files = scratch(t)
  const id = 'a'.repeat(64)
  const args = [
    'standby',
    '--state',
    files.path('s'),
    '--store',
    files.path('store'),
    '--listen',
    '127.0.0.1:1',
    '--allow',
    id,
  ]
  const refused = await command([...args, '--cache-size', '7PiB'])
  t.equal(refused.code, 2)
  t.match(refused.stderr, /no memory for a cache of 7 PiB: .* are missing/)
  const unlimited = await command([...args, '--cache-size', 'much'])
  t.equal(unlimited.code, 2)
  t.match(unlimited.stderr, /--cache-size: 'much' is not a size/)
})
