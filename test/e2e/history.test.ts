// timeout: 180
/**
 * Random write histories through a healthy pair: at every moment what the standby would put on stage is a legal cut of
 * the master's history (G2), in every durability, and in the end both sides are equal. Faults are in crash.test.ts.
 * UNDERSTUDY_SEED repeats a run's choices, UNDERSTUDY_LONG=N multiplies its length.
 */
import t from 'tap'
import type { Test as Tap } from 'tap'
import { History, blockBytes, checkCut } from '../support/history.js'
import type { Requirement } from '../support/history.js'
import { startPair } from '../support/daemon.js'
import { Observer } from '../support/observer.js'
import { Workload } from '../support/workload.js'

const seed = Number(process.env.UNDERSTUDY_SEED ?? Date.now() % 1_000_000)
const long = Number(process.env.UNDERSTUDY_LONG ?? 1)
const blocks = 1024
const sizeBytes = blocks * blockBytes

interface Run {
  observer: Observer
  history: History
  workload: Workload
}

async function begin(t: Tap, durability: string, runSeed: number): Promise<Run> {
  const pair = await startPair(t, { sizeBytes, master: ['--durability', durability] })
  const history = new History(runSeed, blocks)
  const workload = new Workload({ history, address: { path: pair.socket }, exportName: pair.volume, seed: runSeed })
  workload.start()
  t.teardown(() => workload.stop())
  return { observer: new Observer(pair, sizeBytes), history, workload }
}

function legal(t: Tap, run: Run, content: Buffer, requirement: Requirement, title: string): void {
  const report = checkCut(run.history, content, { atomic: true, requirement })
  t.strictSame(report.violations, [], `${title} (cut at ${report.tick} of ${run.history.now})`)
}

t.comment(`UNDERSTUDY_SEED=${seed}`)

for (const [index, durability] of ['async', 'flush', 'received', 'durable'].entries()) {
  t.test(
    `${durability}: every export under load is a legal cut, never an older one, and both sides end equal (G2, G3)`,
    async t => {
      const run = await begin(t, durability, seed + index)
      const { observer, history, workload } = run
      let tick = 0
      for (let round = 0; round < 4 * long; round++) {
        await workload.written(400)
        // What was promised before the export began must be in it, as far as the promise is one about the copy on stage:
        // an export shows what is applied, and durable records may still be on their way into the image.
        const content = await observer.exported()
        legal(t, run, content, { ids: [], before: tick }, `export ${round}`)
        tick = Math.max(tick, checkCut(history, content).tick)
      }
      await workload.stop()
      t.strictSame(workload.errors, [])
      await observer.waitInSync(10_000)
      legal(t, run, await observer.exported(), history.promised('every'), 'at the end, with everything acknowledged')
      const master = await observer.masterContent()
      t.ok((await observer.exported()).equals(master), 'the standby equals the master')
      legal(t, run, master, history.promised('every'), 'the master itself')
      const counted = await observer.status()
      t.equal(counted?.written, counted?.applied)
    },
  )
}
