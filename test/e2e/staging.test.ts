// timeout: 150
/**
 * --staging-size: a step that is larger than what may be collected beside the copy. The copy stays the cut it is, and the
 * operator decides: a larger maximum, or a resynchronisation in place.
 */
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import t from 'tap'
import type { Test as Tap } from 'tap'
import type { VolumeStatus } from '../../src/core/status-types.js'
import { Daemon, inSync, metricBecomes, type Pair, sameBytes, startPair } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { Observer } from '../support/observer.js'

const MiB = 2 ** 20
const sizeBytes = 96 * MiB
const isFull = ({ reason }: VolumeStatus): boolean => /staging has reached its maximum of 40 MiB/.test(reason)

interface Stage {
  pair: Pair
  observer: Observer
  /** What the standby shows. */
  cut: Buffer
  setMaximum: (size: string) => void
}

/** The standby was away for 64 MiB of writes that are in no log any more, and may collect 40 MiB. */
async function begin(t: Tap): Promise<Stage> {
  const pair = await startPair(t, { sizeBytes, idle: true, master: ['--peer-timeout', '1s', '--drain-timeout', '0s'] })
  const file = pair.scratch.path('standby.toml')
  const setMaximum = (size: string): void => {
    const [state, store] = [pair.standby.state, pair.scratch.path('store')]
    const metrics = `127.0.0.1:${pair.metrics.standby}`
    writeFileSync(
      file,
      `state = "${state}"\n[metrics]\nlisten = "${metrics}"\n[standby]\nstore = "${store}"\nlisten = "${pair.standbyAddress}"\nallow = ["${pair.masterId}"]\nstaging_size = "${size}"\n`,
    )
  }
  setMaximum('40MiB')
  pair.standby = new Daemon(t, 'standby', pair.standby.state, () => ['run', '--config', file])
  await pair.standby.start()
  await pair.master.start()
  await write(pair, 0, 8)
  await inSync(pair)
  const observer = new Observer(pair, sizeBytes)
  const cut = await observer.exported()
  await pair.standby.kill()
  await write(pair, 4, 64)
  await pair.master.stop()
  await pair.master.restart()
  await pair.standby.restart()
  return { pair, observer, cut, setMaximum }
}

async function write(pair: Pair, first: number, count: number): Promise<void> {
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  for (let at = first; at < first + count; at++) {
    const { error } = await client.write(at * MiB, randomBytes(MiB))
    if (error !== 0) throw new Error(`write: error ${error}`)
  }
  await client.disconnect()
}

async function isStuck(t: Tap, { pair, observer, cut }: Stage): Promise<VolumeStatus> {
  const status = await pair.standby.until(pair.volume, 'its staging is full', isFull)
  t.match(status, { state: 'resyncing', usable: true, protected: false, stagingMaxBytes: 40 * MiB })
  t.match(status.reason, /raise it \(--staging-size.*understudy invalidate disk1 --in-place/)
  const staged = status.stagedBytes ?? 0
  t.ok(staged > 30 * MiB && staged <= 40 * MiB, `${(staged / MiB).toFixed(1)} MiB are collected`)
  await metricBecomes(t, pair.metrics.standby, 'understudy_standby_staging_full', 1)
  await metricBecomes(t, pair.metrics.standby, 'understudy_standby_staging_max_bytes', 40 * MiB)
  t.ok((await observer.exported()).equals(cut), 'the copy shows the cut that it showed before (G2)')
  await write(pair, 70, 1) // clients go on
  return status
}

async function endsEqual(t: Tap, { pair, observer }: Stage): Promise<void> {
  await inSync(pair)
  await metricBecomes(t, pair.metrics.standby, 'understudy_standby_staging_full', 0)
  t.ok((await observer.exported()).equals(await observer.masterContent()), 'both sides are equal')
  for (const daemon of [pair.master, pair.standby]) t.equal((await daemon.stop()).code, 0)
  await sameBytes(t, pair.device, pair.image)
}

t.test('beyond its maximum a step waits, whole sessions long; a larger one lets it go on where it stopped', async t => {
  const stage = await begin(t)
  const { pair, setMaximum } = stage
  const before = await isStuck(t, stage)
  await pair.standby.kill()
  await pair.standby.restart()
  const after = await pair.standby.until(pair.volume, 'full again', isFull)
  t.ok((after.stagedBytes ?? 0) >= (before.stagedBytes ?? 0), 'what is collected outlives a kill -9')
  setMaximum('100MiB')
  pair.standby.program.signal('SIGHUP')
  await endsEqual(t, stage)
})

t.test(
  'or the operator lets the copy be resynchronised in place: nothing is lost, and the maximum holds again',
  async t => {
    const stage = await begin(t)
    const { pair } = stage
    await isStuck(t, stage)
    t.match(await pair.master.command(['invalidate', pair.volume, '--in-place']), {
      code: 3,
      stderr: /ask the standby's/,
    })
    t.match(await pair.standby.command(['invalidate', pair.volume, '--in-place']), {
      code: 0,
      stdout: /not usable until/,
    })
    await inSync(pair)
    t.match(await pair.standby.volume(pair.volume), { usable: true, stagingMaxBytes: 40 * MiB })
    await endsEqual(t, stage)
  },
)
