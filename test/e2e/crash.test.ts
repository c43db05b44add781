// timeout: 240
/**
 * Random write histories through pairs that are hurt: kill -9 of the master, of the standby, of both, a standby that
 * stops and comes back, kills during the initial synchronisation and during a resynchronisation and its step. After
 * each fault what the standby puts on stage is a legal cut (G2) that has what was acknowledged (G3, G4), and 10 s
 * after the faults stop both sides are equal. UNDERSTUDY_SEED repeats a run's choices, UNDERSTUDY_LONG=N adds rounds.
 */
import { createHash } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { History, blockBytes, checkCut, noRequirement, seededRandom } from '../support/history.js'
import type { Requirement } from '../support/history.js'
import { again } from '../support/again.js'
import { startPair } from '../support/daemon.js'
import type { Pair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { Observer } from '../support/observer.js'
import { Workload } from '../support/workload.js'

const seed = Number(process.env.UNDERSTUDY_SEED ?? Date.now() % 1_000_000)
const long = Number(process.env.UNDERSTUDY_LONG ?? 1)
const blocks = 1024
const historyBytes = blocks * blockBytes
const sha = (data: Buffer): string => createHash('sha256').update(data).digest('hex')

class Run {
  readonly history: History
  readonly workload: Workload
  readonly random: () => number

  constructor(
    readonly t: Tap,
    readonly pair: Pair,
    readonly observer: Observer,
    runSeed: number,
  ) {
    this.history = new History(runSeed, blocks)
    this.random = seededRandom(runSeed)
    const address = { path: pair.socket }
    this.workload = new Workload({
      history: this.history,
      address,
      exportName: pair.volume,
      seed: runSeed,
      reconnect: true,
    })
    this.workload.start()
    t.teardown(() => this.workload.stop())
  }

  legal(content: Buffer, requirement: Requirement, title: string): void {
    const report = checkCut(this.history, content, { atomic: true, requirement })
    this.t.strictSame(report.violations, [], `${title} (cut at ${report.tick} of ${this.history.now})`)
  }

  /** Waits until all that is durable on the standby is applied to its image, then exports. */
  async settledExport(): Promise<Buffer> {
    await this.observer.until('durable = applied on the standby', 10_000, async () => {
      const status = await this.observer.status('standby')
      return status !== undefined && status.durable === status.applied && status.received === status.durable
    })
    return this.observer.exported()
  }

  /** No more faults: in sync within 10 s, equal, and everything acknowledged is there. */
  async ends(): Promise<void> {
    await this.observer.until('the clients are back', 5000, async () => (await this.observer.status()) !== undefined)
    await this.workload.written(50)
    await this.workload.stop()
    this.t.strictSame(this.workload.errors, [], 'no client saw an error')
    await this.observer.waitInSync(10_000)
    const [master, standby] = [await this.observer.masterContent(), await this.observer.exported()]
    this.legal(master.subarray(0, historyBytes), this.history.promised('every'), 'the master')
    this.t.equal(sha(standby), sha(master), '10 s after the faults both sides are equal')
    await this.pair.master.stop()
    await this.pair.standby.stop()
    this.t.equal(
      sha(readFileSync(this.pair.image)),
      sha(readFileSync(this.pair.device)),
      'and so are the files when both have stopped',
    )
  }
}

/** A master that does not hear its standby for the peer timeout may answer without it, as declared. */
async function begin(t: Tap, runSeed: number, durability: string, peerTimeout = '1s'): Promise<Run> {
  const pair = await startPair(t, {
    sizeBytes: historyBytes,
    master: ['--durability', durability, '--peer-timeout', peerTimeout],
  })
  return new Run(t, pair, new Observer(pair, historyBytes), runSeed)
}

t.comment(`UNDERSTUDY_SEED=${seed}`)

const promise = { async: undefined, flush: 'flushed', received: 'every', durable: 'every' } as const

for (const [index, durability] of (['async', 'flush', 'received', 'durable'] as const).entries()) {
  t.test(
    `${durability}: kill -9 of the master while writing leaves a legal cut with what was acknowledged`,
    async t => {
      const run = await begin(t, seed + index, durability, '60s')
      const { pair, observer, history, workload } = run
      for (let round = 0; round < 2 * long; round++) {
        await workload.written(300 + Math.floor(run.random() * 300))
        await pair.master.kill()
        const what = promise[durability]
        // Every connection has been found dead before the promise is computed.
        await observer.until('all requests have ended', 5000, () =>
          history.writes.every(write => write.outcome !== 'pending'),
        )
        const requirement = what === undefined ? noRequirement : history.promised(what)
        run.legal(await run.settledExport(), requirement, `after kill ${round}`)
        await pair.master.restart()
        await observer.until(
          'in sync at a moment',
          10_000,
          async () => (await observer.status())?.state === 'replicating',
        )
      }
      await run.ends()
    },
  )
}

t.test(
  'kill -9 of the standby while writing: no client notices, the copy is a cut at every start, and it catches up',
  async t => {
    const run = await begin(t, seed + 10, 'flush')
    for (let round = 0; round < 3 * long; round++) {
      await run.workload.written(200 + Math.floor(run.random() * 400))
      await run.pair.standby.kill()
      if (round % 2 === 1) await sleep(1500) // beyond the peer timeout: the log is given up for the dirty map
      await run.workload.written(200)
      await run.pair.standby.restart()
      run.legal(await run.settledExport(), noRequirement, `when started again, round ${round}`)
      await run.workload.written(100)
      run.legal(await run.observer.exported(), noRequirement, `while catching up, round ${round}`)
    }
    await run.ends()
  },
)

t.test('kill -9 of both at once: what FLUSH and durable acknowledged is on the standby', async t => {
  const run = await begin(t, seed + 20, 'durable', '60s')
  const { pair, observer, history, workload } = run
  for (let round = 0; round < 2 * long; round++) {
    await workload.written(300 + Math.floor(run.random() * 300))
    await Promise.all([pair.standby.kill(), pair.master.kill()])
    await observer.until('all requests have ended', 5000, () =>
      history.writes.every(write => write.outcome !== 'pending'),
    )
    await pair.standby.restart()
    // Between the two kills the master may have gone on alone only after the peer timeout, which is far longer.
    run.legal(await run.settledExport(), history.promised('every'), `round ${round}`)
    await pair.master.restart()
    await observer.until('replicating', 10_000, async () => (await observer.status())?.state === 'replicating')
  }
  await run.ends()
})

t.test(
  'a standby that stands still is detached, keeps its cut through the resynchronisation, and ends equal',
  async t => {
    const run = await begin(t, seed + 30, 'flush')
    const { pair, observer, workload } = run
    for (let round = 0; round < 2 * long; round++) {
      await workload.written(300)
      pair.standby.program.signal('SIGSTOP')
      await observer.until('detached', 8000, async () => (await observer.status())?.state === 'detached')
      await workload.written(500)
      pair.standby.program.signal('SIGCONT')
      for (let i = 0; i < 4; i++) {
        run.legal(await observer.exported(), noRequirement, `export ${i} after SIGCONT, round ${round}`)
        await workload.written(50)
      }
    }
    await run.ends()
  },
)

t.test('kills during the resynchronisation and its step leave the old cut or the new one', async t => {
  const run = await begin(t, seed + 40, 'flush')
  const { pair, observer, workload } = run
  for (let round = 0; round < 5 * long; round++) {
    await pair.standby.kill()
    await observer.until('detached', 8000, async () => (await observer.status())?.state === 'detached')
    await workload.written(300)
    await pair.standby.restart()
    // 0 to 300 ms later: before, in, and after the step.
    await sleep(Math.floor(run.random() * 300))
    if (round % 3 === 2) {
      await pair.master.kill()
      await pair.master.restart()
    } else {
      await pair.standby.kill()
      await pair.standby.restart()
    }
    run.legal(await observer.exported(), noRequirement, `round ${round}`)
  }
  await run.ends()
})

// The reply used to come as soon as the standby had the write in its staging: killed then, the pair had lost it.
t.test('under `block` an acknowledgement during a resynchronisation waits for its step', async t => {
  const sizeBytes = 96 << 20
  const device = join(mkdtempSync(join(tmpdir(), 'us-')), 'disk.img')
  t.teardown(() => rmSync(dirname(device), { recursive: true }))
  fillRandom(device, 0, sizeBytes)
  const pair = await startPair(t, { device, master: ['--on-standby-loss', 'block'] })
  await pair.master.kill()
  await pair.master.restart() // after an unclean stop everything is compared
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  const data = Buffer.alloc(blockBytes, 0x5a)
  t.equal((await client.write(0, data)).error, 0)
  t.equal((await client.flush()).error, 0)
  await pair.master.kill()
  client.destroy()
  const copy = await new Observer(pair, sizeBytes).exported()
  t.ok(copy.subarray(0, blockBytes).equals(data), 'the standby puts on stage what FLUSH acknowledged')
})

t.test(
  'until the initial synchronisation is complete export refuses, also after kills of either side; then it is whole',
  async t => {
    const sizeBytes = 192 << 20
    const device = join(mkdtempSync(join(tmpdir(), 'us-')), 'disk.img')
    t.teardown(() => rmSync(dirname(device), { recursive: true }))
    fillRandom(device, historyBytes, sizeBytes)
    await again(t, async attempt => {
      const pair = await startPair(attempt, { device, master: ['--peer-timeout', '1s'], unsynchronized: true })
      const observer = new Observer(pair, sizeBytes)
      const run = new Run(t, pair, observer, seed + 50)
      let refused = 0
      for (const victim of ['standby', 'master'] as const) {
        await observer.until('some of the initial synchronisation is done', 10_000, async () => {
          const status = await observer.status()
          return (status?.resync?.doneBytes ?? 0) > 0 || status?.state === 'replicating'
        })
        const before = await observer.status()
        await pair[victim].kill()
        await pair[victim].restart()
        if (before?.state !== 'initial-sync') continue
        const usable = (await observer.status('standby'))?.usable
        const outcome = await observer.exported().then(() => 'exported', () => 'refused') // prettier-ignore
        if (usable === false)
          t.equal(outcome, 'refused', `not usable after the kill of the ${victim}, and not exported`)
        if (outcome === 'refused') refused++
      }
      attempt.expects(refused > 0, 'at least one kill hit the initial synchronisation')
      await observer.waitInSync(60_000)
      run.legal((await observer.exported()).subarray(0, historyBytes), noRequirement, 'when complete')
      await run.ends()
    })
  },
)

/** Bytes outside of the history's blocks, so that the initial synchronisation has something to do. */
function fillRandom(path: string, from: number, to: number): void {
  const random = seededRandom(99)
  const chunk = Buffer.alloc(1 << 20)
  const fd = openSync(path, 'w')
  for (let offset = from; offset < to; offset += chunk.length) {
    for (let i = 0; i < chunk.length; i += 512) chunk.writeUInt32LE(Math.floor(random() * 2 ** 32), i)
    writeSync(fd, chunk, 0, chunk.length, offset)
  }
  closeSync(fd)
}
