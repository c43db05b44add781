// timeout: 240
/**
 * The replication log's file (--log-file): what an outage longer than the memory becomes, and what happens when the file
 * cannot keep it. UNDERSTUDY_SEED repeats a run's choices.
 */
import { mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { command, inSync, metric, metricBecomes, type Pair, type PairOptions, sameBytes, scratch, sparseFile, startPair } from '../support/daemon.js' // prettier-ignore
import { preloaded } from '../support/preload.js'
import { blockBytes, checkCut, History } from '../support/history.js'
import { Observer } from '../support/observer.js'
import { Workload } from '../support/workload.js'

const MiB = 2 ** 20
const blocks = 4096
const sizeBytes = blocks * blockBytes
const seed = Number(process.env.UNDERSTUDY_SEED ?? Date.now() % 1_000_000)
t.comment(`UNDERSTUDY_SEED=${seed}`)
const files = scratch(t)

interface Run {
  pair: Pair
  observer: Observer
  history: History
  workload: Workload
  logFile: string
}

/** A pair with a log file and clients that write as fast as they can. */
async function begin(t: Tap, name: string, size: string, options: PairOptions = {}): Promise<Run> {
  const logFile = files.path(`${name}.log`)
  const master = ['--log-file', logFile, '--log-size', size, '--peer-timeout', '1s', ...(options.master ?? [])]
  const pair = await startPair(t, { ...options, sizeBytes, master })
  const history = new History(seed, blocks)
  const address = { path: pair.socket }
  const workload = new Workload({ history, address, exportName: pair.volume, seed, blocksMax: 256, reconnect: true })
  workload.start()
  t.teardown(() => workload.stop())
  return { pair, observer: new Observer(pair, sizeBytes), history, workload, logFile }
}

/** A master whose log file NAME.log fails while a fault of test/support/io-shim.c lies in the folder. */
function faulty(name: string): { faults: string; masterEnv: NodeJS.ProcessEnv } {
  const faults = files.path(`${name}-faults`)
  mkdirSync(faults)
  const shim = { LD_PRELOAD: preloaded(files, 'io-shim'), IO_SHIM_FILE: files.path(`${name}.log`) }
  return { faults, masterEnv: { ...shim, IO_SHIM_FAULTS: faults } }
}

/** The standby is gone, and clients go on until so much is in the file, or something else has happened. */
async function outage({ pair, observer }: Run, spilled: number): Promise<void> {
  await pair.standby.kill()
  await observer.until(`${spilled / MiB} MiB are in the file`, 60_000, async () => {
    const status = await observer.status()
    return (status?.logFileBytes ?? 0) >= spilled || status?.backlog === 'dirty-map'
  })
}

async function endsEqual(t: Tap, { pair, observer, workload }: Run): Promise<void> {
  await workload.stop()
  t.strictSame(workload.errors, [], 'no client saw an error')
  const status = await inSync(pair, 60_000)
  t.match(status, { backlog: 'memory', logFileBytes: 0 })
  t.ok((await observer.exported()).equals(await observer.masterContent()), 'both sides are equal')
  for (const daemon of [pair.master, pair.standby]) t.equal((await daemon.stop()).code, 0)
  await sameBytes(t, pair.device, pair.image)
}

/** How often the log was given up. */
async function givenUp({ pair }: Run): Promise<number> {
  const reasons = ['log-full', 'log-file', 'max-lag', 'requested']
  const counts = reasons.map(reason => metric(pair.metrics.master, 'understudy_detaches_total', { reason }))
  return (await Promise.all(counts)).reduce<number>((total, count) => total + (count ?? NaN), 0)
}

t.test('an outage longer than the memory, but within the file, keeps the exact history (G2, G4)', async t => {
  // Also when the file never takes all of a write at once.
  const { faults, masterEnv } = faulty('within')
  writeFileSync(`${faults}/short-write`, '')
  const run = await begin(t, 'within', '512MiB', { masterEnv, master: ['--bandwidth', '48MiB'] })
  const { pair, observer, history, workload, logFile } = run
  t.equal(statSync(logFile).mode & 0o777, 0o600, 'the file is its own')
  for (const place of ['memory', 'file', 'dirty-map'])
    await metricBecomes(t, pair.metrics.master, 'understudy_backlog', place === 'memory' ? 1 : 0, { in: place })
  await outage(run, 32 * MiB)
  const away = await pair.master.volume(pair.volume)
  t.match(away, { backlog: 'file', logFileMaxBytes: 512 * MiB, dirtyBytes: 0, protected: false })
  await metricBecomes(t, pair.metrics.master, 'understudy_backlog', 1, { in: 'file' })
  await workload.pause()
  await pair.standby.restart()
  await pair.master.until(pair.volume, 'connected', status => status.peers[0]?.session === 'connected')
  workload.resume()

  let tick = 0
  let drained = false
  for (let exports = 0; !drained; exports++) {
    const content = await observer.exported()
    const report = checkCut(history, content, { atomic: true, requirement: { ids: [], before: tick } })
    t.strictSame(report.violations, [], `export ${exports} while it drains (cut at ${report.tick} of ${history.now})`)
    tick = report.tick
    const status = await pair.master.volume(pair.volume)
    t.equal(status.dirtyBytes, 0, 'nothing is resynchronised')
    drained = status.backlog === 'memory'
    // The rest drains by itself; and clients that are faster than the link must not fill the file.
    if (exports === 3 || (status.logFileBytes ?? 0) > 200 * MiB) await workload.pause()
  }
  t.equal(await givenUp(run), 0, 'the log was never given up')
  workload.resume()
  await endsEqual(t, run)
  t.equal(statSync(logFile).size, 4096, 'a master that has stopped leaves nothing in the file')
})

t.test('an outage beyond the file ends in the dirty map and a resynchronisation, and both sides end equal', async t => {
  const run = await begin(t, 'beyond', '80MiB')
  const { pair } = run
  await outage(run, Infinity)
  t.equal((await pair.master.volume(pair.volume)).logFileBytes, 0, 'the file is not needed any more')
  await metricBecomes(t, pair.metrics.master, 'understudy_detaches_total', 1, { reason: 'log-full' })
  await pair.standby.restart()
  await endsEqual(t, run)
})

t.test('kill -9 of the master with a file in use: it is not replayed, what was in it is dirty (G4)', async t => {
  const run = await begin(t, 'killed', '512MiB')
  const { pair } = run
  await outage(run, 24 * MiB)
  await pair.master.kill()
  await pair.master.restart()
  const status = await pair.master.until(pair.volume, 'its status', () => true)
  t.match(status, { backlog: 'dirty-map', logFileBytes: 0, dirtyBytes: sizeBytes }, 'every range that was in it')
  await pair.standby.restart()
  await endsEqual(t, run)
})

const refusals: [string, RegExp][] = [
  ['no-space', /no space left \(ENOSPC\)/],
  ['fail-flush', /EIO/],
  ['hang-write', /ETIMEDOUT/],
]

t.test('whatever the file refuses, no client hears of it: the dirty map takes its place, status says it', async t => {
  const { faults, masterEnv } = faulty('refused')
  const run = await begin(t, 'refused', '256MiB', { masterEnv })
  const { pair } = run
  for (const [index, [fault, reason]] of refusals.entries()) {
    writeFileSync(`${faults}/${fault}`, '')
    await outage(run, Infinity)
    const status = await pair.master.until(pair.volume, 'a reason', ({ reason }) =>
      /log file cannot be used/.test(reason),
    )
    t.match(status.reason, reason, fault)
    await metricBecomes(t, pair.metrics.master, 'understudy_detaches_total', index + 1, { reason: 'log-file' })
    rmSync(`${faults}/${fault}`)
    await pair.standby.restart()
    await pair.master.until(pair.volume, 'it is used again', ({ reason }) => !/log file/.test(reason))
    await run.observer.until('resynchronised', 30_000, async () => (await run.observer.status())?.backlog === 'memory')
  }
  await endsEqual(t, run)
})

t.test('a disk without room for the file: the log is in memory only, and status says so', async t => {
  const pair = await startPair(t, { sizeBytes, master: ['--log-file', files.path('vast.log'), '--log-size', '16TiB'] })
  const status = await pair.master.until(pair.volume, 'a reason', ({ reason }) => reason !== '')
  t.match(status, { state: 'replicating', protected: true, reason: /^the log file cannot be used \(no space left/ })
  t.ok(statSync(files.path('vast.log')).size <= 4096, 'nothing of the disk is taken')
})

t.test('a log file that cannot be ours is refused with one line', async t => {
  const device = await sparseFile(files.path('device.img'), MiB)
  const start = (state: string, path: string): Promise<{ code: number | null; stderr: string }> => {
    const group = ['--device', device, '--export', 'disk1', '--listen', `unix:${files.path(`${state}.sock`)}`]
    return command(['master', '--state', files.path(state), ...group, '--log-file', path, '--log-size', '80MiB'])
  }
  const precious = files.path('precious')
  writeFileSync(precious, 'something else')
  const foreign = await start('foreign', precious)
  t.match(foreign, { code: 3, stderr: /log file .*precious: it is there and is no log file of understudy\n$/ })
  t.equal(statSync(precious).size, 14, 'and left as it is')
  t.match(await start('relative', 'a.log'), { code: 2, stderr: /--log-file: 'a.log' is not an absolute path/ })
  t.match(await start('nowhere', files.path('no/such.log')), { code: 1, stderr: /log file .*: it does not exist/ })

  const used = files.path('used.log')
  await startPair(t, { sizeBytes, master: ['--log-file', used, '--log-size', '80MiB'] })
  t.match(await start('second', used), { code: 3, stderr: /log file .*: another group or program has it open\n$/ })
})
